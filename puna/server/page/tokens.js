// About how many tokens a text is: enough to see whether it fits. Only the model's own tokenizer knows.

const IDEOGRAPHS = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]/g;
const ACCENTED = /[\u0080-\u2e7f]/g;

/** Tokens per character: an English token has about four, a Chinese character is most of one. Two digits, as it is a guess. */
export function aboutTokens(text) {
  const [wide, accented] = [IDEOGRAPHS, ACCENTED].map((kind) => text.match(kind)?.length ?? 0);
  return Number((wide * 0.7 + accented * 0.5 + (text.length - wide - accented) / 4).toPrecision(2));
}
