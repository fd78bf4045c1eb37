// Numbers for people, in the language of the words.

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

/** A share of 1: "67.3%", "<0.01%". */
export function percent(share) {
  if (share > 0 && share < 0.0001) return "<0.01%";
  const digits = share >= 0.9995 ? 0 : share >= 0.01 ? 1 : 2;
  return share > 0.9995 && share < 1 ? ">99.9%" : `${(share * 100).toFixed(share === 0 ? 0 : digits)}%`;
}

/** The same in as little room as possible, for a label. */
export function shortPercent(share) {
  if (share < 0.01) return "<1%";
  return share > 0.99 && share < 1 ? ">99%" : `${Math.round(share * 100)}%`;
}

export function count(number) {
  return number.toLocaleString("en-US");
}

export function seconds(time) {
  if (time >= 1) return `${time.toFixed(2)} s`;
  return time >= 0.001 ? `${(time * 1000).toFixed(1)} ms` : `${(time * 1e6).toFixed(0)} µs`;
}

export function bytes(number) {
  const power = number < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(number) / 10));
  return `${power ? (number / 1024 ** power).toFixed(number / 1024 ** power < 10 ? 2 : 1) : number} ${UNITS[power]}`;
}

/** Surprise or openness in bits. */
export function bits(number) {
  return `${number.toFixed(2)} bits`;
}

/** 1 -> "1st". */
export function ordinal(number) {
  const tens = Math.floor(number / 10) % 10;
  const ending = tens === 1 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[number % 10] ?? "th";
  return `${count(number)}${ending}`;
}
