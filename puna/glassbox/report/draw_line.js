// The draw: the candidates side by side on the line from 0 to 1, and the number that fell on one of them.

import { quoted, textOf } from "./characters.js";
import { make, shape } from "./elements.js";
import { term } from "./explain.js";
import { count, decimal } from "./numbers.js";
import { rich, spokenLanguage, t } from "./words.js";

const NARROW = 0.04; // a part that the number fell on and that is narrower is shown magnified, too
const PER_LETTER = 0.015; // of what is shown: a part that is narrower than its label has none
const GAP = 2e-5; // wider gaps belong to candidates that are not listed
const TICKS = [0, 0.25, 0.5, 0.75, 1];

/** The parts of the line from left to right: of the listed candidates of a step's last stage, and those between them. */
export function partsOf(stage, draw) {
  const listed = stage.top.map((one, place) => ({ id: one.id, text: one.text, low: draw.starts[place], high: draw.starts[place] + one.probability }));
  if (!listed.some((part) => Math.abs(part.low - draw.low) < 1e-9)) listed.push({ ...chosenOf(stage), low: draw.low, high: draw.high });
  const parts = [];
  let end = 0;
  for (const part of listed.sort((one, other) => one.low - other.low)) {
    if (part.low - end > GAP) parts.push({ id: null, text: "", low: end, high: part.low });
    parts.push(part);
    end = part.high;
  }
  if (1 - end > GAP) parts.push({ id: null, text: "", low: end, high: 1 });
  return parts;
}

function chosenOf(stage) {
  return stage.chosen ? { id: stage.chosen.id, text: stage.chosen.text } : { id: -1, text: "" };
}

/** The part of the line to magnify, around the number; null where the line itself shows enough. */
export function windowOf(draw) {
  const width = draw.high - draw.low;
  if (width >= NARROW) return null;
  const span = Math.min(1, Math.max(width * 6, 1e-6));
  const from = Math.min(1 - span, Math.max(0, (draw.low + draw.high) / 2 - span / 2));
  return [from, from + span];
}

export function drawView(step) {
  const [stage, draw] = [step.stages.at(-1), step.draw];
  if (!stage) return null;
  if (!draw && step.is_given) return null;
  if (!draw) return card(t("greedyTitle"), t("greedyCaption"), []);
  const parts = partsOf(stage, draw);
  const number = decimal(draw.uniform, 6);
  const values = { number, token: quoted(textOf(step.token)), low: decimal(draw.low, 4), high: decimal(draw.high, 4) };
  const closer = windowOf(draw);
  const magnified = closer && [
    make("p", { class: "caption" }, t("drawMagnified", { times: count(Math.round(1 / (closer[1] - closer[0]))) })),
    line(parts, draw, step, closer),
  ];
  const others = parts.some((part) => part.id === null) ? make("p", { class: "hint" }, t("drawOthers")) : null;
  return card(term("draw", t("drawTitle")), rich("drawCaption", values), [line(parts, draw, step, [0, 1], t("drawLine", values)), others, magnified]);
}

function card(title, caption, content) {
  return make("section", { class: "stage draw" }, make("h3", {}, make("span", { class: "number", "aria-hidden": "true" }, "⚄"), title), make("p", { class: "caption" }, caption), content);
}

function line(parts, draw, step, [from, to], label = null) {
  const at = (value) => `${(((value - from) / (to - from)) * 100).toFixed(3)}%`;
  const shown = parts.filter((part) => part.high > from && part.low < to);
  const place = (draw.uniform - from) / (to - from);
  const anchor = place < 0.15 ? "start" : place > 0.85 ? "end" : "middle";
  return shape(
    "svg",
    label ? { class: "draw-line", role: "img", "aria-label": label } : { class: "draw-line", "aria-hidden": "true" },
    label ? hatching() : null,
    shown.map((part, index) => drawn(part, index, part.id === step.token.id, [from, to])),
    shape("text", { class: "drawn-number", x: at(draw.uniform), y: 12, "text-anchor": anchor }, decimal(draw.uniform, from === 0 && to === 1 ? 4 : 6)),
    shape("line", { class: "drawn", x1: at(draw.uniform), x2: at(draw.uniform), y1: 16, y2: 70 }),
    (from === 0 && to === 1 ? TICKS : [from, to]).map((tick) => tickOf(tick, at(tick), from, to)),
  );
}

function drawn(part, index, isChosen, [from, to]) {
  const [low, high] = [Math.max(part.low, from), Math.min(part.high, to)];
  const [x, width] = [(low - from) / (to - from), (high - low) / (to - from)];
  const kind = isChosen ? "chosen" : part.id === null ? "others" : `part-${index % 2}`;
  const label = part.id === null ? "" : quoted(textOf(part));
  const text = label && width >= PER_LETTER * label.length ? shape("text", { x: "50%", y: 26, "text-anchor": "middle" }, label) : null;
  return shape(
    "svg",
    { x: `${(x * 100).toFixed(3)}%`, y: 22, width: `${(width * 100).toFixed(3)}%`, height: 42, class: `part ${kind}` },
    shape("rect", { width: "100%", height: "100%" }),
    part.id === null ? shape("rect", { width: "100%", height: "100%", fill: "url(#hatching)" }) : null,
    text,
  );
}

function tickOf(tick, x, from, to) {
  const anchor = tick === from ? "start" : tick === to ? "end" : "middle";
  return shape("text", { class: "tick", x, y: 82, "text-anchor": anchor }, from === 0 && to === 1 ? tick.toLocaleString(spokenLanguage()) : decimal(tick, 6));
}

function hatching() {
  const pattern = { id: "hatching", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  return shape("defs", {}, shape("pattern", pattern, shape("line", { class: "hatch", y2: 6 })));
}
