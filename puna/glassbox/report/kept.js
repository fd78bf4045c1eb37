// What the K/V cache saves: each step computes what is new, and reads the rest from memory.

import { make, shape } from "./elements.js";
import { term } from "./explain.js";
import { bytes, count, decimal } from "./numbers.js";
import { rich, t } from "./words.js";

const HEIGHT = 100; // of the picture, whose width is one for each token

/** Tokens that passed through the model, and those that would have without the cache: all so far, for each token of the answer. */
export function savingOf(steps) {
  const spans = steps.filter((step) => step.computed.length).map((step) => ({ first: step.computed[0].first, last: step.computed.at(-1).last }));
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  return { spans, computed: sum(spans.map(({ first, last }) => last - first)), without: sum(spans.map(({ last }) => last)) };
}

export function keptView(trace) {
  const found = savingOf(trace.steps);
  if (!found.spans.length) return [make("p", {}, t("keptNothing"))];
  const most = Math.max(0, ...trace.steps.map((step) => step.kv_bytes ?? 0));
  const values = { computed: count(found.computed), without: count(found.without), times: decimal(found.without / Math.max(1, found.computed), 1), cache: term("KV", t("formCache")), bytes: bytes(most) };
  const { first } = found.spans[0];
  const before = first ? make("p", {}, rich("keptBefore", { count: count(first), cache: term("prefix cache") })) : null;
  return [make("p", {}, rich("keptIntro", values)), before, staircase(found.spans, t("keptPicture", values)), make("p", { class: "caption" }, t("keptNote"))].filter(Boolean);
}

/** A row for each step, from top to bottom: light what was in memory, dark what was computed. */
function staircase(spans, label) {
  const height = HEIGHT / spans.length;
  const width = Math.max(...spans.map(({ last }) => last));
  const path = (area) => spans.map((span, row) => block(...area(span), row * height, height)).join("");
  return shape(
    "svg",
    { class: "staircase", viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    shape("path", { class: "area cached", d: path(({ first }) => [0, first]) }),
    shape("path", { class: "area prompt", d: path(({ first, last }) => [first, last]) }),
  );
}

function block(from, to, top, height) {
  return to > from ? `M${from},${top.toFixed(3)}H${to}v${height.toFixed(3)}H${from}z` : "";
}
