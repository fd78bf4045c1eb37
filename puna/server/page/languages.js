// The texts of the page, in the language of the browser or the one that was chosen.

import { de } from "./languages/de.js";
import { en } from "./languages/en.js";
import { zh } from "./languages/zh.js";

export const LANGUAGES = { en, de, zh };

const NAME = "puna.language";
let chosen = localStorage.getItem(NAME) ?? ofBrowser();

function ofBrowser() {
  const known = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in LANGUAGES);
  return known ?? "en";
}

export const language = () => chosen;

export function useLanguage(name) {
  chosen = name;
  localStorage.setItem(NAME, name);
}

/** The text of a name. `values` fill its {places}; "count" also chooses the singular (`NAME_one`), where there is one. */
export function t(name, values = {}) {
  const table = LANGUAGES[chosen] ?? LANGUAGES.en;
  const text = (values.count === 1 && table[`${name}_one`]) || table[name];
  return text.replace(/\{(\w+)\}/g, (_, key) => shown(values[key]));
}

const shown = (value) => (typeof value === "number" ? formatNumber(value) : String(value));

export function formatNumber(value, digits = 0) {
  return value.toLocaleString(chosen, { maximumFractionDigits: digits });
}

const WORDS_TO = 15; // the greatest power of ten that languages have words for
const raised = (number) => String(number).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);

/** A large number by its decimal logarithm, in words: "3.4 billion"; one that has none, as "3.4 × 10²³". */
export function formatAmount(power) {
  const options = { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 2 };
  if (power < WORDS_TO) return (10 ** power).toLocaleString(chosen, options);
  const whole = Math.floor(power);
  return `${(10 ** (power - whole)).toLocaleString(chosen, { maximumSignificantDigits: 2 })} × 10${raised(whole)}`;
}

const [GIB, MIB] = [2 ** 30, 2 ** 20];

/** Memory in GiB; in MiB where two digits of a GiB would say little. */
export function formatBytes(bytes) {
  return bytes >= 0.1 * GIB ? `${formatNumber(bytes / GIB, 2)} GiB` : `${formatNumber(bytes / MIB)} MiB`;
}

/** "today", "yesterday", or the date. */
export function formatDay(time) {
  const [day, today] = [time, Date.now()].map((at) => new Date(at).setHours(0, 0, 0, 0));
  const before = Math.round((day - today) / 86_400_000);
  if (before >= -1) return new Intl.RelativeTimeFormat(chosen, { numeric: "auto" }).format(before, "day");
  return new Date(time).toLocaleDateString(chosen, { day: "numeric", month: "long" });
}

/** Writes the texts of the page's own elements: data-text, data-label, data-placeholder name them. */
export function translatePage() {
  document.documentElement.lang = chosen;
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = t(one.dataset.placeholder);
  for (const one of document.querySelectorAll("[data-label]")) label(one, t(one.dataset.label));
}

function label(one, text) {
  one.setAttribute("aria-label", text);
  if (one.tagName === "BUTTON") one.title = text;
}
