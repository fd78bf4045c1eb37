// What one can set for the answers. A field that is left empty is not sent: then the model's own value applies.

const NAME = "puna.sampling";

// `read` makes the value of a request from what was typed; `text` names its words, where they are not named as the field. The ranges are narrower than the server's: they hold what is useful.
export const SAMPLING = [
  { name: "temperature", low: 0, high: 2, step: 0.1, read: Number },
  { name: "top_p", low: 0, high: 1, step: 0.05, read: Number },
  { name: "top_k", low: 0, high: 1000, step: 1, read: Number },
  { name: "min_p", low: 0, high: 1, step: 0.01, read: Number },
  { name: "repetition_penalty", low: 0.5, high: 2, step: 0.05, read: Number },
  { name: "max_tokens", low: 1, high: 1048576, step: 1, read: Number },
  { name: "thinking_budget", low: 0, high: 1048576, step: 1, read: Number },
  { name: "seed", low: 0, high: 2147483647, step: 1, read: Number },
  { name: "stop", text: "stop_sequences", read: (text) => text.split("\n").filter((line) => line) },
];

/** What was typed, by the names of the fields. */
export function readTyped() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {};
  }
}

export const keepTyped = (typed) => localStorage.setItem(NAME, JSON.stringify(typed));

/** The fields of a request. */
export function samplingOf(typed) {
  const given = SAMPLING.filter(({ name }) => String(typed[name] ?? "").trim() !== "");
  return Object.fromEntries(given.map(({ name, read }) => [name, read(typed[name])]));
}
