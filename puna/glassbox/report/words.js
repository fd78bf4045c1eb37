// What the views say. A page in another language gives its own table.

export const ENGLISH = {
  // the page
  title: "How an answer came to be",
  lead: "A language model writes one of its {token} after the other. For each place it gives every token it knows a {probability}; {filter} remove unlikely ones; then one is {draw}. Choose a token of the answer to see what else it could have been.",
  settings: "Settings of this run",
  chipTokens: "{count} tokens in {time}",
  asked: "The question",
  partAnswer: "The answer",
  partTimeline: "All tokens at a glance",
  partLayers: "Inside the model",
  partPrompt: "What the model read",
  partKept: "What the K/V cache saved",
  partBatch: "The batch",
  partEnd: "Why it stopped",
  stepOf: "Token {number} of {count}",
  stepper: "Step through the answer",
  back: "Back",
  next: "Next",
  play: "Play",
  stopPlaying: "Pause",
  madeBy: "Made by puna {version}: puna trace --html FILE. This file holds everything it shows and asks no network.",

  // the answer
  answerStrip: "The answer, token by token",
  legend: "Probability that the model gave each token",
  likely0: "over 50%",
  likely1: "25–50%",
  likely2: "10–25%",
  likely3: "2–10%",
  likely4: "under 2%",
  showNumbers: "Show the numbers",
  notSampled: "nothing was sampled",
  tokenLabel: "{token}, {share}",

  // a step
  modelStage: "The model",
  modelCaption: "gives each of the {count} tokens of its {vocabulary} a {probability}.",
  others: "{count} others",
  removedLabel: "removed",
  chosenLabel: "taken",
  cutRow: "{count} removed, together {share}",
  fullBar: "A full bar is {share}.",
  beforeMark: "The thin line in a bar marks the probability before the filter.",
  more: "Show {count} more",
  forced: "Nothing was sampled here: the answer's form, or the opening that was asked for, left only this token.",

  // captions of filters
  removedSome: "removes {count}, together {share}. The last to stay is {last} ({lastShare}), the first to go {first} ({firstShare}).",
  removedNone: "removes nothing here.",
  changedMost: "changes the {logits}: {token} goes from {before} to {after}.",
  changedNothing: "changes nothing here.",
  nucleus: "keeps the likeliest tokens that together reach {limit}. Here {kept} do, with {share}: {last} crosses the line, and {count} less likely ones go.",
  nucleusAll: "keeps the likeliest tokens that together reach {limit}: all are needed.",
  topK: "keeps the {k} likeliest; {count} go, which had {share} together.",
  minP: "keeps tokens with at least {factor} times the probability of the likeliest: {limit}. {count} go, which had {share} together.",
  xtcActs: "drew {number} for itself, which is below {limit}, so it acts:",
  xtcRests: "drew {number} for itself, which is not below {limit}, so it changes nothing here.",
  sharper: "{temperature} is below 1: likely tokens gain, unlikely ones lose. {token} goes from {before} to {after}.",
  flatter: "{temperature} is above 1: unlikely tokens gain, likely ones lose. {token} goes from {before} to {after}.",
  greedyStage: "takes the likeliest token: {token} has 100% now, all others nothing.",
  oneOnly: "changes nothing: one candidate is left.",

  // what happened, in sentences
  gaveFirst: "The model gave {token} {share}: it was its first choice of {count} tokens.",
  gavePlain: "The model gave {token} {share}: it was its {rank} choice.",
  gaveOther: "The model gave {token} {share}: its {rank} choice of {count}. The first was {first} with {firstShare}.",
  partOf: "This token is a part of a character that needs several: the bytes {bytes}. A sign such as � stands for what is not whole.",
  filtersLeft: "The {filters} left {count}.",
  explainNumber: "a random number between 0 and 1: see the draw",
  drawnLong: "Then chance decided: the number {number} fell on {token}.",
  greedyTook: "No chance was involved: the likeliest token is always taken.",
  wasGiven: "It was not drawn: it was given, as a part of the answer's opening, and the filters and the draw would have taken another.",

  // the draw
  drawTitle: "The draw",
  drawCaption: "The candidates lie side by side between 0 and 1 in the order of their ids, each as wide as it is likely. The random number {number} fell on {token}, which lies from {low} to {high}.",
  drawMagnified: "The same around the number, magnified {times} times",
  drawLine: "The number {number} on the line from 0 to 1, on the part of {token}",
  drawOthers: "Hatched: the candidates that are not listed.",
  greedyTitle: "No draw",
  greedyCaption: "The temperature is 0: the likeliest candidate is taken, without a random number. The same prompt gives the same answer each time.",

  // numbers of a step
  factProbability: "Probability",
  factRank: "Rank",
  factSurprise: "Surprise",
  factEntropy: "Entropy",
  factLogprob: "Logprob",
  factMemory: "K/V memory",
  factModel: "Model",
  factSampling: "Sampling",
  factOf: "of {count}",
  factId: "Token id",
  explainModelTime: "the time from the token before (for the first one: from the request) until the logits were there. The first token waits for the whole prompt.",
  explainSamplingTime: "the time that the filters and the draw took.",
  explainId: "the index of the token's piece in the vocabulary. The model reads and writes only such numbers.",
  computedRange: "{count} computed",
  factComputed: "Computed",
  explainComputed: "how many tokens passed through the model for this one. What it had computed for the tokens before them, their K and V, was read from the K/V cache.",
  computedAndRead: "{count} computed, {kept} read from the cache",
  bits: "{number} bits",

  // the whole answer
  overviewFirst: "In {first} of {count} places the model's first choice was taken; in the other {other}, chance took another one.",
  overviewGreedy: "No chance was involved: in {first} of {count} places the model's first choice was taken; in the other {other}, a filter had changed the order.",
  overviewCuts: "left {left} (the median of all steps) and removed {removed} of the probability on average.",
  overviewNothing: "hardly changed the likeliest candidate's probability.",
  overviewChanges: "moved the likeliest candidate's probability from {before} to {after} on average.",

  // the K/V cache
  keptIntro: "To continue a text, the model must take all of it into account. The {cache} keeps what it computed for each token ({bytes} in the end). So {computed} tokens were computed for this answer; without it, it would have been {without}: {times} times as many.",
  keptBefore: "{count} of the tokens were in the {cache}, from an earlier request: without that, they would have been computed once more.",
  keptNote: "A row for each token of the answer, from top to bottom; a column for each token of the text. Strong: computed for it. Pale: read from the cache.",
  keptPicture: "{computed} tokens computed; without the cache {without}",
  keptNothing: "The trace does not say which tokens were computed.",

  // the timeline
  surpriseTitle: "How surprising each token was",
  surpriseNote: "Bars: the {surprise} of the token that was taken, in bits. Line: the {entropy}, the surprise that the model expected. A bar far above the line was an unlikely draw.",
  surpriseChart: "Surprise of {count} tokens: {mean} bits on average, most at token {worst} with {most} bits",
  timeTitle: "Where the time went",
  timeNote: "A bar is the time of computing the model; the small part at its top, that of filters and draw. The first token took {first}, because the whole prompt was computed before it ({prefill}; a bar that long is cut off); the others took {mean} each ({decode}).",
  timeNoteOne: "The bar is the time of computing the model; the small part at its top, that of filters and draw. The token took {first}: the whole prompt was computed before it ({prefill}).",
  timeReads: "Computing one token reads {size} of {weights} and, in the end, {kept} of K and V. Decoding waits for memory: so these sizes tell how the time divides between matrices and attention, which were not timed apart.",
  timeGuessed: "Tokens without a bar had been guessed, and were checked together with the one before them ({speculation}).",
  timeChart: "Time of {count} tokens: the first {first}, the others {mean} each",
  upperEdge: "upper edge: {most}",

  // the prompt
  promptStrip: "The prompt, token by token",
  promptIntro: "You gave a text; the model reads numbers. The {template} adds marks for who speaks, and the {tokenizer} cuts the text into {count} pieces. {control} are dashed.",
  promptIntroRaw: "You gave a text; the model reads numbers. The {tokenizer} cuts the text into {count} pieces. {control} are dashed.",
  promptCached: "The first {count} came from the {cache}: they were not computed again.",
  promptTook: "This took {time}.",
  promptDetail: "Token {place}: id {id}, piece {piece}, bytes {bytes}",
  promptDetailControl: "Token {place}: id {id}, piece {piece}. It is a control token: it has no bytes, and no text can write it.",
  promptChoose: "Choose a token to see its id and its bytes.",
  promptTable: "All tokens as a table",
  promptLeftOut: "{count} further tokens are not in this trace.",
  columnPlace: "place",
  columnId: "id",
  columnPiece: "piece",
  columnText: "text",
  columnBytes: "bytes",

  // the batch
  batchMeta: "Meta's generate: a rectangle",
  batchMetaNote: "{rows} × {columns} places: {tokens} of the prompt, and {pads} of {padding} ({pad}) that the answer overwrites. With several prompts, all rows are as long as the longest.",
  batchMask: "Its mask",
  batchMaskNote: "True where a token of the prompt stands: there, what the model predicts is thrown away.",
  batchPuna: "puna: no rectangle",
  batchPunaNote: "{tokens} of the prompt were computed before the first token of the answer, then one for each further token. Nothing is padded.",
  batchCached: "{count} came from the {cache}.",
  batchPicture: "{rows} rows of {columns} places, {tokens} of them tokens and {pads} padding",
  batchRagged: "{tokens} tokens and {answer} of the answer, no padding",

  // the end
  endsBecause: "The answer ended because {why}.",
  endTimes: "{count} in {time}; the first after {first}.",
  stop: "The {reason} is “stop”: the model wrote its sign of the end, or a stop text or stop id was reached. The answer is complete.",
  length: "The {reason} is “length”: a limit was reached, not the end. The answer may be cut off in the middle.",
  abort: "The {reason} is “abort”: the caller gave up.",
  timeout: "The {reason} is “timeout”: its seconds have passed. The answer may be cut off in the middle.",
  error: "The {reason} is “error”: something failed. The answer may be cut off in the middle.",
  leftOut: "The trace is full: {count} further tokens of the answer are not in it.",

  // the layers
  layersIntro: "A model is a tower of {layers} {layer}. After each one, the {lens} asks: if the model ended here, which token would follow? Below, the answer forms from the bottom of the list to its top.",
  layersChoose: "Position",
  layersPosition: "{place}: after {token} comes {taken}",
  layersOther: "The trace holds no layers for token {number} of the answer: this is another position.",
  layersTable: "What would follow, layer by layer",
  layersLayer: "layer",
  layersEmbedding: "embedding",
  layersTop: "likeliest",
  layersTaken: "{token}, which followed",
  layersRank: "its rank",
  attentionTitle: "What {token} looked at",
  attentionNote: "Each {attention} head of a layer spreads 100% over the tokens so far. The stronger a token's colour, the more the head took from it. Heads that find nothing often rest on the first token.",
  attentionLayer: "Layer",
  attentionHead: "Head",
  attentionAll: "all heads, mean",
  attentionStrip: "Tokens by attention",
  attentionMost: "It took most from:",
  layersNote: "Computed once more by {arithmetic}; it took {time}. Its logits differ from the run's by {distance} at most.",
  layersNoteNone: "Computed once more by {arithmetic}; it took {time}.",
  layersLeftOut: "{count} chosen positions are not in this trace.",

  // forms of words that the glossary explains
  formTokens: "tokens",
  formFilters: "filters",
  formDrawn: "drawn",
  formLayers: "layers",
  formControl: "Control tokens",
  formCache: "K/V cache",

  // general
  explain: "What is “{word}”?",
  close: "Close",
  tour: "A tour of it in a terminal: {command}",
  candidates: "{count} candidates",
  oneCandidate: "1 candidate",
  tokens: "{count} tokens",
  oneToken: "1 token",
};

let words = ENGLISH;
let spoken = "en-US";
let ownTerms = {};

/**
 * Another language: its texts, and by the English words of the glossary its own word and its explanation. What it lacks stays English.
 * `language`: how numbers are written.
 */
export function speak(table, terms = {}, language = "en-US") {
  words = { ...ENGLISH, ...table };
  ownTerms = terms;
  spoken = language;
}

export const spokenLanguage = () => spoken;

/** [word, explanation] of a word of the glossary in that language; undefined where it has none. */
export const ownTerm = (word) => ownTerms[word];

/** A text, with its `{names}` replaced. */
export function t(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** The same as a list of texts and of the elements among the values. */
export function rich(key, values) {
  return words[key].split(/\{(\w+)\}/).map((piece, place) => (place % 2 ? values[piece] ?? `{${piece}}` : piece));
}
