// The views of a trace (`/page/report`) in the language of the page.

import { CHINESE, CHINESE_TERMS } from "../report/chinese.js";
import { GERMAN, GERMAN_TERMS } from "../report/german.js";
import { speak } from "../report/words.js";
import { language, t } from "../languages.js";
import { WORDS as WORDS_DE } from "./views_de.js";
import { WORDS as WORDS_EN } from "./views_en.js";
import { WORDS as WORDS_ZH } from "./views_zh.js";

const SPOKEN = {
  en: [WORDS_EN, {}, "en-US"],
  de: [{ ...GERMAN, ...WORDS_DE }, GERMAN_TERMS, "de-DE"],
  zh: [{ ...CHINESE, ...WORDS_ZH }, CHINESE_TERMS, "zh-CN"],
};

export function useLanguageOfPage() {
  speak(...(SPOKEN[language()] ?? SPOKEN.en));
}

/** A text of the page as a list of texts and of the elements that stand in its {places}. */
export function rich(name, elements, values = {}) {
  const text = t(name, { ...values, ...Object.fromEntries(Object.keys(elements).map((key) => [key, `{${key}}`])) });
  return text.split(/\{(\w+)\}/).map((piece, place) => (place % 2 ? (elements[piece] ?? piece) : piece));
}
