// All steps at a glance: how surprising each token was beside what the model expected, and the time of each.

import { make, shape } from "./elements.js";
import { term } from "./explain.js";
import { bits, bytes, decimal, seconds } from "./numbers.js";
import { surpriseBits, surpriseClass } from "./surprise.js";
import { rich, t } from "./words.js";

const HEIGHT = 100; // of a picture, whose width is one for each step
const BAR = 0.8; // of a step's width

/** What the pictures and their captions say of the steps. */
export function summaryOf(steps) {
  const surprise = steps.map((step) => (step.logprob === null ? 0 : surpriseBits(step.logprob)));
  const expected = steps.map((step) => step.stages[0]?.entropy_bits ?? 0);
  const times = steps.map((step) => [step.model_s ?? 0, step.sampling_s ?? 0]);
  const later = times.slice(1).map(([model, sampling]) => model + sampling);
  const worst = surprise.indexOf(Math.max(...surprise));
  return { surprise, expected, times, worst, mean: average(surprise), first: sum(times[0] ?? [0]), later: average(later), mostLater: Math.max(0, ...later) };
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function average(numbers) {
  return numbers.length ? sum(numbers) / numbers.length : 0;
}

/** Without times in the steps there is no picture of them. `weightsBytes`: the weights that computing one token reads (`Trace.weights_bytes`). */
export class Timeline {
  #pictures;

  constructor(steps, choose, weightsBytes = null) {
    this.numSteps = steps.length;
    this.choose = choose;
    const found = summaryOf(steps);
    const isTimed = steps.some((step) => step.model_s !== null);
    this.#pictures = [surprisePicture(steps, found), ...(isTimed ? [timePicture(steps, found)] : [])];
    for (const picture of this.#pictures) picture.addEventListener("click", (event) => this.#clicked(event, picture));
    this.element = make(
      "div",
      { class: "timeline" },
      figure(t("surpriseTitle"), bits(mostBits(found)), this.#pictures[0], surpriseNote()),
      isTimed ? figure(t("timeTitle"), seconds(mostTime(found)), this.#pictures[1], [timeNote(found, steps), " ", weightsBytes ? readsNote(steps, weightsBytes) : null]) : null,
    );
  }

  select(index) {
    for (const picture of this.#pictures) picture.querySelector(".here").setAttribute("x", index);
  }

  #clicked(event, picture) {
    const { left, width } = picture.getBoundingClientRect();
    this.choose(Math.max(0, Math.min(this.numSteps - 1, Math.floor(((event.clientX - left) / width) * this.numSteps))));
  }
}

/** `most`: what the upper edge of the picture stands for. */
function figure(title, most, picture, note) {
  return make("figure", {}, make("h3", {}, title, make("small", {}, t("upperEdge", { most }))), picture, make("figcaption", {}, note));
}

function mostBits({ surprise, expected }) {
  return Math.max(1, ...surprise, ...expected);
}

/** The first step may be a hundred times as long as the others: its bar is cut off, and the caption says so. */
function mostTime({ mostLater, first }) {
  return Math.min(mostLater * 1.15, Math.max(first, mostLater)) || first || 1;
}

function surpriseNote() {
  return rich("surpriseNote", { surprise: term("surprise"), entropy: term("entropy") });
}

/** What a step reads from memory: `weightsBytes` of weights, and the K and V of all tokens before it; and which steps read nothing. */
function readsNote(steps, weightsBytes) {
  const kept = steps.findLast((step) => step.kv_bytes !== null)?.kv_bytes ?? 0;
  const guessed = steps.some((step) => step.computed.some((one) => one.num_drafts > 0)) ? rich("timeGuessed", { speculation: term("speculation") }) : [];
  return [...rich("timeReads", { size: bytes(weightsBytes), weights: term("weights"), kept: bytes(kept) }), " ", ...guessed];
}

function timeNote(found, steps) {
  const values = { first: seconds(found.first), mean: seconds(found.later), prefill: term("prefill"), decode: term("decode") };
  return rich(steps.length > 1 ? "timeNote" : "timeNoteOne", values);
}

function surprisePicture(steps, { surprise, expected, worst, mean }) {
  const most = mostBits({ surprise, expected });
  const height = (number) => (number / most) * HEIGHT;
  const levels = [0, 1, 2, 3, 4].map((level) => {
    const shown = steps.flatMap((step, index) => (surpriseClass(step.logprob) === level ? [column(index, height(surprise[index]), 0)] : []));
    return shape("path", { class: `level-${level}`, d: shown.join("") });
  });
  const line = expected.map((number, index) => `${index ? "L" : "M"}${index},${y(height(number))}L${index + 1},${y(height(number))}`).join("");
  const label = t("surpriseChart", { count: steps.length, mean: decimal(mean, 2), worst: worst + 1, most: decimal(surprise[worst] ?? 0, 1) });
  return picture(steps.length, label, [...levels, shape("path", { class: "expected", d: line, "vector-effect": "non-scaling-stroke" })]);
}

function timePicture(steps, { times, first, later, mostLater }) {
  const most = mostTime({ mostLater, first });
  const height = (time) => Math.min(1, time / most) * HEIGHT;
  const model = times.map(([time], index) => column(index, height(time), 0)).join("");
  const sampling = times.map(([time, own], index) => column(index, height(time + own) - height(time), height(time))).join("");
  const label = t("timeChart", { count: steps.length, first: seconds(first), mean: seconds(later) });
  return picture(steps.length, label, [shape("path", { class: "model-time", d: model }), shape("path", { class: "sampling-time", d: sampling })]);
}

function picture(width, label, content) {
  const here = shape("rect", { class: "here", x: 0, width: 1, height: HEIGHT });
  return shape("svg", { class: "chart", viewBox: `0 0 ${Math.max(1, width)} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, here, content);
}

function column(index, height, from) {
  const left = index + (1 - BAR) / 2;
  return height > 0 ? `M${left.toFixed(2)},${y(from)}V${y(from + height)}h${BAR}V${y(from)}z` : "";
}

function y(height) {
  return (HEIGHT - height).toFixed(2);
}
