// The views of a trace (`/page/report`) in the language of the page.

import { speak } from "../report/words.js";
import { language, t } from "../languages.js";
import { TERMS as TERMS_DE, WORDS as WORDS_DE } from "./views_de.js";
import { TERMS as TERMS_EN, WORDS as WORDS_EN } from "./views_en.js";
import { TERMS as TERMS_ZH, WORDS as WORDS_ZH } from "./views_zh.js";

const SPOKEN = { en: [WORDS_EN, TERMS_EN, "en-US"], de: [WORDS_DE, TERMS_DE, "de-DE"], zh: [WORDS_ZH, TERMS_ZH, "zh-CN"] };

export function useLanguageOfPage() {
  speak(...(SPOKEN[language()] ?? SPOKEN.en));
}

/** A text of the page as a list of texts and of the elements that stand in its {places}. */
export function rich(name, elements, values = {}) {
  const text = t(name, { ...values, ...Object.fromEntries(Object.keys(elements).map((key) => [key, `{${key}}`])) });
  return text.split(/\{(\w+)\}/).map((piece, place) => (place % 2 ? (elements[piece] ?? piece) : piece));
}
