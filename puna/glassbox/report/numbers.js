// Numbers for people, in the language of the words.

import { spokenLanguage, t } from "./words.js";

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];
const ORDINALS = { en: (number) => `${count(number)}${endingOf(number)}`, de: (number) => `${count(number)}.` };

/** A number with as many digits after the point. */
export function decimal(number, digits) {
  return number.toLocaleString(spokenLanguage(), { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false });
}

const percentOf = (share, digits) =>
  share.toLocaleString(spokenLanguage(), { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });

/** A share of 1: "67.3%", "<0.01%". */
export function percent(share) {
  if (share > 0 && share < 0.0001) return `<${percentOf(0.0001, 2)}`;
  const digits = share >= 0.9995 || share === 0 ? 0 : share >= 0.01 ? 1 : 2;
  return share > 0.9995 && share < 1 ? `>${percentOf(0.999, 1)}` : percentOf(share, digits);
}

/** The same in as little room as possible, for a label. */
export function shortPercent(share) {
  if (share < 0.01) return "<1%";
  return share > 0.99 && share < 1 ? ">99%" : `${Math.round(share * 100)}%`;
}

/** A number as it was given: 0.9. */
export function given(number) {
  return number.toLocaleString(spokenLanguage(), { maximumFractionDigits: 6, useGrouping: false });
}

export function count(number) {
  return number.toLocaleString(spokenLanguage());
}

export function seconds(time) {
  if (time >= 1) return `${decimal(time, 2)} s`;
  return time >= 0.001 ? `${decimal(time * 1000, 1)} ms` : `${decimal(time * 1e6, 0)} µs`;
}

export function bytes(number) {
  const power = number < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(number) / 10));
  const size = number / 1024 ** power;
  return `${power ? decimal(size, size < 10 ? 2 : 1) : number} ${UNITS[power]}`;
}

/** Surprise or openness in bits. */
export function bits(number) {
  return t("bits", { number: decimal(number, 2) });
}

/** 1 -> "1st". */
export function ordinal(number) {
  return (ORDINALS[spokenLanguage().slice(0, 2)] ?? count)(number);
}

function endingOf(number) {
  const tens = Math.floor(number / 10) % 10;
  return tens === 1 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[number % 10] ?? "th";
}
