// What one can set for the answers. A field that is left empty is not sent: then the model's own value applies.

const NAME = "puna.sampling";
const SEEDS = 2 ** 31;
export const TEMPERATURE_OF_ANOTHER = 0.7;

// `read` makes the value of a request from what was typed; `text` names its words, where they are not named as the field;
// `choices`: the only values; `rare`: few need it; `needs`: what a model must do for it. The ranges are narrower than the server's: they hold what is useful.
export const SAMPLING = [
  { name: "temperature", low: 0, high: 2, step: 0.1, read: Number },
  { name: "max_tokens", low: 1, high: 1048576, step: 1, read: Number },
  { name: "reasoning_effort", choices: ["none", "low", "medium", "high"], read: String, needs: "thinks" },
  { name: "thinking_budget", low: 0, high: 1048576, step: 1, read: Number, needs: "thinks" },
  { name: "seed", low: 0, high: SEEDS - 1, step: 1, read: Number },
  { name: "top_p", low: 0, high: 1, step: 0.05, read: Number, rare: true },
  { name: "top_k", low: 0, high: 1000, step: 1, read: Number, rare: true },
  { name: "min_p", low: 0, high: 1, step: 0.01, read: Number, rare: true },
  { name: "repetition_penalty", low: 0.5, high: 2, step: 0.05, read: Number, rare: true },
  { name: "stop", text: "stop_sequences", read: (text) => text.split("\n").filter((line) => line), rare: true },
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

/** Whether a field means something to a model; the server refuses what does not. */
export const suits = ({ needs }, model) => !needs || Boolean(model?.[needs]);

/**
 * What makes an answer other than the `count` that there are of the same request: where the likeliest words are taken, they are drawn
 * instead, and a seed that was given is followed by the next ones.
 */
export function anotherOf(settings, model, count) {
  const isGreedy = !(settings.temperature ?? model?.temperature);
  return {
    ...(isGreedy ? { temperature: TEMPERATURE_OF_ANOTHER } : {}),
    ...(settings.seed === undefined ? {} : { seed: (settings.seed + count) % SEEDS }),
  };
}

/** The fields of a request to a model. */
export function samplingOf(typed, model) {
  const given = SAMPLING.filter((field) => suits(field, model) && String(typed[field.name] ?? "").trim() !== "");
  return Object.fromEntries(given.map(({ name, read }) => [name, read(typed[name])]));
}
