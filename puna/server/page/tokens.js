// About how many tokens a text is: enough to see whether it fits. Only the model's own tokenizer knows.

const IDEOGRAPH = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]/;
// What is mostly one token: a word, or a part of a long one; a digit; marks that stand together; the end of a line with the indent of the next.
const PIECE = /[A-Za-z]{1,7}|\d|[!-/:-@[-`{-~]+|\n+ *|[\u0080-\uffff]/g;
const LOOKED_AT = 200_000; // characters; the rest of a longer text is taken to be like its beginning

/** Two digits, as it is a guess: for docs, code and numbers 0.7 to 1.1 of what SmolLM2 makes of them, for Chinese 0.6 (its tokens are small). */
export function aboutTokens(text) {
  const pieces = text.slice(0, LOOKED_AT).match(PIECE) ?? [];
  const count = pieces.reduce((sum, piece) => sum + weightOf(piece), 0);
  return Number((count * Math.max(1, text.length / LOOKED_AT)).toPrecision(2));
}

function weightOf(piece) {
  if (piece < "\u0080") return 1;
  return IDEOGRAPH.test(piece) ? 0.7 : 0.5;
}
