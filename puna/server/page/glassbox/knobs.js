// Temperature and top-p of one step: what stays moves at once, and the server then says exactly which token the draw would take.

import { element, textButton } from "../dom.js";
import { formatNumber, t } from "../languages.js";
import { quoted } from "../report/characters.js";
import { term } from "../report/explain.js";
import { percent } from "../report/numbers.js";
import { meter, scaleOf } from "../report/stages.js";
import { tokenLabel } from "../report/token_text.js";
import { nucleus } from "./nucleus.js";

const SHOWN = 10;
const WAIT_MS = 140; // after the last move, until the server is asked
const EDITS = ["model", "constraint", "logits_processors", "logit_bias", "bad_words", "banned_strings", "penalties", "dry"]; // they come first
const FILTERS_FIRST = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"];
const TEMPERATURE_FIRST = ["penalties", "dry", "temperature", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc"];
// `log`: most of what matters of top-p lies near 1
const KNOBS = [
  { name: "temperature", word: "temperature", low: 0, high: 2, step: 0.05 },
  { name: "top_p", word: "top-p", low: 0.05, high: 1, step: 0.01 },
];

export class Knobs {
  #timer = 0;
  #running = null;

  /** `exact(changed, signal)` asks the server for the step with other settings; `go(changed)` goes on from here with these. */
  constructor(step, filters, { exact, go, isBusy }) {
    Object.assign(this, { step, exact, go });
    this.base = step.stages.findLast((stage) => EDITS.includes(stage.name));
    this.given = { temperature: 0, top_p: 1, ...Object.assign({}, ...filters.map((one) => one.settings)) };
    this.isTemperatureFirst = temperatureComesFirst(filters);
    this.list = element("ol", { class: "choices nucleus", "aria-label": t("gbKept") });
    this.words = element("p", { class: "caption", "aria-live": "polite" });
    this.button = textButton(t("gbGoOnSettings"), () => this.go(this.#changed()), { disabled: isBusy });
    this.inputs = Object.fromEntries(KNOBS.map((knob) => [knob.name, this.#input(knob)]));
    this.order = element("input", { type: "checkbox", checked: this.isTemperatureFirst, change: () => this.#moved() });
    this.element = element(
      "div",
      { class: "knobs" },
      KNOBS.map((knob) => this.#field(knob)),
      element("label", { class: "switch" }, this.order, element("span", {}, t("gbTemperatureFirst"))),
      this.list,
      this.words,
      this.button,
    );
    this.#show(this.#nucleus());
    this.#sayExact({ step, filters });
  }

  /** Ends what still runs. */
  close() {
    clearTimeout(this.#timer);
    this.#running?.abort();
  }

  #input({ name, low, high, step }) {
    const value = Math.min(high, this.given[name]);
    return element("input", { type: "range", id: `knob-${name}`, min: low, max: high, step, value: String(value), input: () => this.#moved() });
  }

  #field({ name, word }) {
    const output = element("output", { for: `knob-${name}`, id: `knob-${name}-value` }, formatNumber(Number(this.inputs[name].value), 2));
    return element("div", { class: "knob" }, element("label", { for: `knob-${name}` }, t(name)), this.inputs[name], output, element("span", { class: "about" }, term(word, t("gbWhatIs"))));
  }

  #value(name) {
    return Number(this.inputs[name].value);
  }

  get #isGreedy() {
    return this.#value("temperature") === 0;
  }

  /** Tries a temperature, as if the slider had been moved to it. */
  tryTemperature(value) {
    this.inputs.temperature.value = String(value);
    this.#moved();
    this.inputs.temperature.focus();
  }

  /** The settings of a request: those that stand here. */
  #changed() {
    const order = this.order.checked === this.isTemperatureFirst ? {} : { samplers: this.order.checked ? TEMPERATURE_FIRST : FILTERS_FIRST };
    return { temperature: this.#value("temperature"), top_p: this.#value("top_p"), ...order };
  }

  #nucleus() {
    const { top, num_candidates: all } = this.base;
    const settings = { ...this.given, ...this.#changed(), isTemperatureFirst: this.order.checked };
    return nucleus(top, all - top.length, settings);
  }

  #moved() {
    for (const { name } of KNOBS) this.element.querySelector(`#knob-${name}-value`).value = formatNumber(this.#value(name), 2);
    const found = this.#nucleus();
    this.#show(found);
    this.words.textContent = this.#keeps(found.count, found.kept[0]);
    this.close();
    this.#timer = setTimeout(() => this.#ask(), WAIT_MS);
  }

  async #ask() {
    const running = (this.#running = new AbortController());
    try {
      const found = await this.exact(this.#changed(), running.signal);
      if (!running.signal.aborted && found.step) this.#sayExact(found);
    } catch (error) {
      if (!running.signal.aborted) this.words.textContent = error.message || t("noteUnanswered");
    }
  }

  /** The exact result: its bars, and which token the draw takes. */
  #sayExact({ step }) {
    const last = step.stages.at(-1);
    const { kept, count } = this.#isGreedy ? this.#nucleus() : { kept: last.top, count: last.num_candidates };
    this.#show({ kept });
    const values = { token: quoted(step.token.text || step.token.piece), number: step.draw ? formatNumber(step.draw.uniform, 4) : "" };
    const takes = step.is_given ? "" : ` ${t(step.draw ? "gbDrawTakes" : "gbGreedyTakes", values)}`;
    this.words.textContent = this.#keeps(count, kept[0]) + takes;
  }

  #keeps(count, first) {
    if (this.#isGreedy) return t("gbKeepsGreedy", { token: quoted(first.text) });
    return t("gbKeeps", { count, token: quoted(first.text), share: percent(first.probability) });
  }

  #show({ kept }) {
    const shares = new Map(kept.map((one) => [one.id, one.probability]));
    const scale = scaleOf([{ top: kept }, this.base]);
    this.list.replaceChildren(...this.base.top.slice(0, SHOWN).map((one) => this.#row(one, shares.get(one.id), scale)));
  }

  #row(candidate, share, scale) {
    const isGone = share === undefined;
    return element(
      "li",
      { class: `choice-row ${isGone ? "removed" : "kept"}` },
      tokenLabel(candidate.text),
      meter((share ?? 0) / scale, candidate.probability / scale),
      element("span", { class: "share" }, isGone && !this.#isGreedy ? t("gbGone") : percent(share ?? 0)),
    );
  }
}

/** Whether the temperature ran before the filters that its order matters for; where none ran, as puna has it: after them. */
function temperatureComesFirst(filters) {
  const names = filters.map((one) => one.name);
  return names.includes("temperature") && names.includes("top_p") && names.indexOf("temperature") < names.indexOf("top_p");
}
