// The language of the report: the first of the browser's that the words are written in.

import { CHINESE, CHINESE_TERMS } from "./chinese.js";
import { GERMAN, GERMAN_TERMS } from "./german.js";
import { speak } from "./words.js";

const SPOKEN = { en: [{}, {}, "en-US"], de: [GERMAN, GERMAN_TERMS, "de-DE"], zh: [CHINESE, CHINESE_TERMS, "zh-CN"] };

/** The words are in that language from now on; its tag. `preferred`: tags, the best first. */
export function speakOneOf(preferred) {
  const known = preferred.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => Object.hasOwn(SPOKEN, tag)) ?? "en";
  speak(...SPOKEN[known]);
  return SPOKEN[known][2];
}
