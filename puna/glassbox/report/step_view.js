// One step: what happened in a sentence, its numbers, its stages, and the draw.

import { pairs, quoted, textOf } from "./characters.js";
import { drawView } from "./draw_line.js";
import { make } from "./elements.js";
import { term } from "./explain.js";
import { bits, bytes, count, decimal, ordinal, percent, seconds } from "./numbers.js";
import { scaleOf, stageCards, stagesOf } from "./stages.js";
import { surpriseBits } from "./surprise.js";
import { rich, t } from "./words.js";

/** What happened, in sentences. */
export function storyOf(step) {
  return sentencesOf(step, t("formFilters"), (text) => text, (text) => text).join("");
}

/** The same as texts and elements: its terms explain themselves, and the number drawn leads to the draw, where `drawOf()` is it. */
export function storyView(step, drawOf) {
  const number = (text) => make("button", { type: "button", class: "term", title: t("explainNumber"), click: () => drawOf()?.scrollIntoView({ block: "nearest" }) }, text);
  return sentencesOf(step, term("filter", t("formFilters")), (text) => term("candidate", text), number);
}

/** The parts of the sentences; the three words that a reader may ask for are given: the filters, and functions of the candidates' and the number's text. */
function sentencesOf(step, filters, candidates, number) {
  if (step.logprob === null) return [t("forced")];
  const sentences = [[choiceOf(step)]];
  const left = step.stages.at(-1)?.num_candidates ?? 0;
  const remained = left === 1 ? t("oneCandidate") : t("candidates", { count: count(left) });
  if (step.stages.length > 1) sentences.push(rich("filtersLeft", { filters, count: candidates(remained) }));
  if (step.is_given) sentences.push([t("wasGiven")]);
  else if (step.draw) sentences.push(rich("drawnLong", { number: number(decimal(step.draw.uniform, 4)), token: nameOf(step.token) }));
  else if (step.stages.length) sentences.push([t("greedyTook")]);
  return sentences.flatMap((sentence, place) => (place ? [" ", ...sentence] : sentence));
}

function choiceOf(step) {
  const [likeliest] = step.stages[0]?.top ?? [];
  const share = percent(Math.exp(step.logprob));
  if (!likeliest) return t("gavePlain", { token: nameOf(step.token), share, rank: ordinal(step.rank) });
  const values = { token: nameOf(step.token), share, count: count(step.stages[0].num_candidates) };
  if (step.rank === 1) return t("gaveFirst", values);
  return t("gaveOther", { ...values, rank: ordinal(step.rank), first: quoted(textOf(likeliest)), firstShare: percent(likeliest.probability) });
}

/** What a token is whose bytes are not whole characters: the next ones complete them. */
function partOfCharacter({ text, bytes: data, is_control }) {
  return !is_control && data && text.includes("\ufffd") ? make("p", { class: "hint" }, t("partOf", { bytes: pairs(data) })) : null;
}

export function nameOf(token) {
  return quoted(textOf(token));
}

/** The step as elements; `filters`: those of the trace. */
export function stepView(step, filters) {
  const stages = stagesOf(step);
  const scale = scaleOf(stages);
  const hints = [scale < 1 ? t("fullBar", { share: percent(scale) }) : "", stages.length > 1 ? t("beforeMark") : ""].filter(Boolean);
  return [
    make("p", { class: "story" }, storyView(step, () => document.querySelector(".stage.draw"))),
    partOfCharacter(step.token),
    make("div", { class: "stages" }, stageCards(step, filters)),
    hints.length ? make("p", { class: "hint" }, hints.join(" ")) : null,
    drawView(step),
    facts(step),
  ].filter(Boolean);
}

// Label, word of the glossary, value; an own definition where the glossary has none.
const FACTS = [
  ["factProbability", "probability", (step) => step.logprob !== null && percent(Math.exp(step.logprob))],
  ["factRank", "rank of a token", (step) => step.rank !== null && [count(step.rank), step.stages.length ? t("factOf", { count: count(step.stages[0].num_candidates) }) : ""]],
  ["factSurprise", "surprise", (step) => step.logprob !== null && bits(surpriseBits(step.logprob))],
  ["factEntropy", "entropy", (step) => step.stages.length > 0 && bits(step.stages[0].entropy_bits)],
  ["factLogprob", "logprob", (step) => step.logprob !== null && decimal(step.logprob, 4).replace(/^-(0\D0+)$/, "$1")],
  ["factMemory", "KV", (step) => step.kv_bytes !== null && bytes(step.kv_bytes)],
  ["factModel", "explainModelTime", (step) => step.model_s !== null && [seconds(step.model_s), computed(step)]],
  ["factComputed", "explainComputed", (step) => step.model_s === null && step.computed.length > 0 && computed(step)],
  ["factSampling", "explainSamplingTime", (step) => step.sampling_s !== null && seconds(step.sampling_s)],
  ["factId", "explainId", (step) => count(step.token.id)],
];

function facts(step) {
  const rows = FACTS.map(([label, word, value]) => [label, word, value(step)]).filter(([, , value]) => value !== false);
  return make("dl", { class: "facts" }, rows.map(([label, word, value]) => make("div", {}, make("dt", {}, explained(label, word)), make("dd", {}, figures(value)))));
}

function explained(label, word) {
  return word.startsWith("explain") ? term(t(label), t(label), t(word)) : term(word, t(label));
}

function figures(value) {
  const [main, small] = [value].flat();
  return [main, small ? make("small", {}, ` ${small}`) : null];
}

function computed(step) {
  const number = step.computed.reduce((sum, one) => sum + one.last - one.first, 0);
  const kept = step.computed[0]?.first ?? 0;
  const values = { count: number === 1 ? t("oneToken") : t("tokens", { count: count(number) }), kept: count(kept) };
  return t(kept ? "computedAndRead" : "computedRange", values);
}
