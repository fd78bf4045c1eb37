// The page of one trace: puts the views together, and keeps the chosen step in all of them.

import { batchView } from "./batch.js";
import { plain } from "./characters.js";
import { unpacked } from "./data.js";
import { make } from "./elements.js";
import { endingView } from "./ending.js";
import { term } from "./explain.js";
import { keptView } from "./kept.js";
import { speakOneOf } from "./language.js";
import { LayersView } from "./layers.js";
import { count, seconds } from "./numbers.js";
import { overviewView } from "./overview.js";
import { promptView } from "./prompt.js";
import { nameOf, stepView } from "./step_view.js";
import { Timeline } from "./timeline.js";
import { flowing } from "./token_text.js";
import { TokenStrip, surpriseLegend } from "./token_strip.js";
import { rich, t } from "./words.js";

const PLAY_MS = 1100;
const STEP_KEYS = { ArrowRight: 1, ArrowLeft: -1 };
const OWN_KEYS = "input, select, textarea, [role='listbox'], .scroller, [popover]"; // elements that use the arrow keys themselves

class Report {
  #index = -1;
  #timer = 0;

  constructor(trace) {
    this.trace = trace;
    const { steps } = trace;
    const choose = (index) => this.choose(index);
    this.strip = new TokenStrip(steps.map((step) => step.token), { label: t("answerStrip"), logprobs: steps.map((step) => step.logprob), choose });
    this.timeline = steps.length ? new Timeline(steps, choose, trace.weights_bytes) : null;
    this.layers = trace.layers?.positions.length ? new LayersView(trace) : null;
    this.body = make("div", { class: "step-body", id: "step-body" });
    this.heading = make("h2", { id: "step-heading" });
    this.buttons = {
      back: make("button", { type: "button", id: "back", click: () => this.move(-1) }, "← ", t("back")),
      next: make("button", { type: "button", id: "next", click: () => this.move(1) }, t("next"), " →"),
      play: make("button", { type: "button", id: "play", click: () => this.play(!this.#timer) }, t("play")),
    };
    document.body.append(header(trace), make("main", {}, this.#parts()), footer(trace));
    addEventListener("keydown", (event) => this.#pressed(event));
    addEventListener("hashchange", () => this.#follow());
    if (steps.length) this.#follow();
  }

  #parts() {
    const { trace } = this;
    const parts = [make("div", { class: "explorer" }, this.#answer(), trace.steps.length ? this.#step() : null)];
    if (this.timeline) parts.push(card("time", t("partTimeline"), overviewView(trace), this.timeline.element));
    parts.push(card("prompt", t("partPrompt"), promptView(trace.prompt)));
    if (this.layers) parts.push(card("layers", t("partLayers"), this.layers.element));
    parts.push(make("div", { class: "pair" }, card("batch", t("partBatch"), batchView(trace)), card("kept", t("partKept"), keptView(trace))));
    return parts;
  }

  #answer() {
    const numbers = make("input", { type: "checkbox", id: "numbers", change: () => this.strip.element.classList.toggle("numbered", numbers.checked) });
    const asked = this.trace.prompt.given;
    return make("section", { class: "card answer", "aria-labelledby": "answer-heading" }, [
      asked ? [make("h2", { class: "small" }, t("asked")), make("p", { class: "asked", dir: "auto" }, flowing(shortened(asked)))] : null,
      make("h2", { id: "answer-heading" }, t("partAnswer")),
      this.strip.element,
      make("label", { class: "switch" }, numbers, t("showNumbers")),
      surpriseLegend(),
      make("h2", { class: "small" }, t("partEnd")),
      make("div", { id: "end" }, endingView(this.trace)),
    ]);
  }

  #step() {
    const { back, next, play } = this.buttons;
    const controls = make("div", { class: "stepper", role: "group", "aria-label": t("stepper") }, back, next, play);
    return make("section", { class: "card step", "aria-labelledby": "step-heading" }, make("div", { class: "step-head" }, this.heading, controls), this.body);
  }

  choose(index) {
    const { steps, prompt } = this.trace;
    if (index === this.#index || !steps[index]) return;
    this.#index = index;
    const step = steps[index];
    this.heading.replaceChildren(make("span", {}, t("stepOf", { number: count(index + 1), count: count(steps.length) })), " ", make("bdi", { class: "big-token" }, nameOf(step.token)));
    this.body.replaceChildren(...stepView(step, this.trace.filters));
    this.strip.select(index);
    this.timeline.select(index);
    this.layers?.showStep(index);
    this.buttons.back.disabled = index === 0;
    this.buttons.next.disabled = index === steps.length - 1;
    history.replaceState(null, "", `#${index + 1}`);
  }

  move(by) {
    this.choose(Math.max(0, Math.min(this.trace.steps.length - 1, this.#index + by)));
  }

  /** Steps by itself until the end, or until one stops it. */
  play(isOn) {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.buttons.play.textContent = t(isOn ? "stopPlaying" : "play");
    if (!isOn) return;
    if (this.#index === this.trace.steps.length - 1) this.choose(0);
    this.#timer = setInterval(() => {
      this.move(1);
      if (this.#index === this.trace.steps.length - 1) this.play(false);
    }, PLAY_MS);
  }

  #pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest?.(OWN_KEYS)) return;
    if (!(event.key in STEP_KEYS)) return;
    event.preventDefault();
    this.move(STEP_KEYS[event.key]);
  }

  /** The step that the address names, or the most telling one: the first that is open and that filters cut. */
  #follow() {
    const named = Number(location.hash.slice(1)) - 1;
    this.choose(this.trace.steps[named] ? named : Math.max(0, this.#index, this.#index < 0 ? tellingStep(this.trace.steps) : 0));
  }
}

/** Among the first steps, one whose choice was open: a good one to begin with. */
function tellingStep(steps) {
  const open = steps.slice(0, 12).map((step) => step.stages.at(-1)?.entropy_bits ?? 0);
  return Math.max(0, open.findIndex((bits) => bits > 1));
}

function header(trace) {
  const settings = Object.entries(trace.settings).filter(([, value]) => typeof value === "number");
  const seed = trace.seed !== null && !("seed" in trace.settings) ? [["seed", trace.seed]] : [];
  return make("header", {}, [
    make("h1", {}, t("title")),
    make("p", { class: "lead" }, rich("lead", { token: term("token", t("formTokens")), probability: term("probability"), filter: term("filter", t("formFilters")), draw: term("draw", t("formDrawn")) })),
    make("ul", { class: "chips", "aria-label": t("settings") }, [
      make("li", {}, plain(trace.model.split(/[\\/]/).at(-1))),
      make("li", {}, t("chipTokens", { count: count(trace.token_ids.length), time: seconds(trace.total_s) })),
      ...[...settings, ...seed].map(([name, value]) => make("li", {}, `${name.replaceAll("_", "-")} ${value}`)),
      make("li", {}, plain(trace.backend)),
    ]),
  ]);
}

function footer(trace) {
  return make("footer", {}, make("p", {}, t("madeBy", { version: trace.engine })));
}

function card(id, title, ...content) {
  return make("section", { class: "card", id, "aria-labelledby": `${id}-heading` }, make("h2", { id: `${id}-heading` }, title), content.flat().filter(Boolean));
}

function shortened(text) {
  const most = 400;
  return text.length > most ? `${text.slice(0, most)} …` : text;
}

document.documentElement.lang = speakOneOf(navigator.languages);
document.title = t("title");
new Report(unpacked(JSON.parse(document.getElementById("trace-data").textContent)));
