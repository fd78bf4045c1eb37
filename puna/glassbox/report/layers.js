// Inside the model at one position: what would follow after each layer (the logit lens), and what attention looked at.

import { spelledOut, textOf } from "./characters.js";
import { make, shape } from "./elements.js";
import { term } from "./explain.js";
import { count, ordinal, percent, seconds } from "./numbers.js";
import { nameOf } from "./step_view.js";
import { flowing, tokenLabel } from "./token_text.js";
import { rich, t } from "./words.js";

const LEVELS = 8; // shades of attention
const MOST_NAMED = 5; // tokens that a head took most from

/** The mean of some heads' weights. */
export function meanOf(heads) {
  return heads[0].map((_, place) => heads.reduce((sum, head) => sum + head[place], 0) / heads.length);
}

/** A shade from 0 to LEVELS. The root, because one token often takes nearly all. */
export function shadeOf(weight) {
  return Math.round(Math.sqrt(Math.min(1, weight)) * LEVELS);
}

/** The places with the largest weights, the largest first. */
export function largest(weights, number) {
  return weights.map((weight, place) => [weight, place]).sort(([one], [other]) => other - one).slice(0, number);
}

export class LayersView {
  #chosen = 0;
  #layer;
  #head = -1; // all

  constructor(trace) {
    this.layers = trace.layers;
    this.tokens = [...trace.prompt.tokens, ...Array(trace.prompt.num_left_out).fill(null), ...trace.steps.map((step) => step.token)];
    this.#layer = this.layers.num_layers;
    this.body = make("div", { class: "layers-body" });
    this.select = make("select", { change: () => this.show(Number(this.select.value)) }, this.layers.positions.map((one, place) => make("option", { value: place }, nameOfPosition(one))));
    this.missing = make("p", { class: "hint", "aria-live": "polite" });
    const chooser = make("label", { class: "chooser" }, `${t("layersChoose")} `, this.select);
    this.element = make("div", {}, make("p", {}, this.#intro()), chooser, this.missing, this.body, make("p", { class: "hint" }, this.#note()));
    this.show(0);
  }

  /** The position before a step's token, if the trace holds it. */
  showStep(index) {
    const place = this.layers.positions.findIndex((one) => one.step === index);
    this.missing.textContent = place < 0 ? t("layersOther", { number: index + 1 }) : "";
    if (place >= 0 && place !== this.#chosen) this.show(place);
  }

  show(place) {
    this.#chosen = place;
    this.select.value = String(place);
    const position = this.layers.positions[place];
    if (position) this.body.replaceChildren(lensTable(position), this.#attention(position));
  }

  #intro() {
    return rich("layersIntro", { layers: count(this.layers.num_layers), layer: term("layer", t("formLayers")), lens: term("logit lens") });
  }

  #note() {
    const { arithmetic, total_s, distance, num_left_out } = this.layers;
    const values = { arithmetic, time: seconds(total_s), distance: distance?.toPrecision(2) };
    const left = num_left_out ? ` ${t("layersLeftOut", { count: count(num_left_out) })}` : "";
    return t(distance === null ? "layersNoteNone" : "layersNote", values) + left;
  }

  #attention(position) {
    const home = make("div", { class: "attention" });
    const picture = make("div", {});
    const layer = make("select", {}, position.layers.filter((one) => one.attention).map((one) => make("option", { value: one.layer }, String(one.layer))));
    const head = make("select", {}, make("option", { value: -1 }, t("attentionAll")), Array.from({ length: this.layers.num_heads }, (_, number) => make("option", { value: number }, String(number + 1))));
    const draw = () => {
      [this.#layer, this.#head] = [Number(layer.value), Number(head.value)];
      picture.replaceChildren(...this.#picture(position));
    };
    [layer.value, head.value] = [String(this.#layer), String(this.#head)];
    for (const one of [layer, head]) one.addEventListener("change", draw);
    const choosers = make("div", { class: "choosers" }, make("label", {}, `${t("attentionLayer")} `, layer), make("label", {}, `${t("attentionHead")} `, head));
    home.append(make("h3", {}, t("attentionTitle", { token: nameOf(position.token) })), make("p", { class: "caption" }, rich("attentionNote", { attention: term("attention") })), choosers, picture);
    draw();
    return home;
  }

  #picture(position) {
    const found = position.layers[this.#layer];
    const weights = this.#head < 0 ? meanOf(found.attention) : found.attention[this.#head];
    const seen = this.tokens.slice(found.first, position.position + 1).map((token) => token ?? { id: -1, piece: "…", text: "…", bytes: "", is_control: false });
    const spelled = spelledOut(seen);
    const strip = seen.map((token, place) => {
      const { text, control, part } = spelled[place];
      return make("span", { class: `token shade-${shadeOf(weights[place])}${control ? " control" : ""}`, title: percent(weights[place]) }, part ? make("span", { class: "sign" }, part) : flowing(text));
    });
    const most = largest(weights, MOST_NAMED).map(([weight, place]) => lensBar(seen[place], weight, nameOf(seen[place])));
    return [
      make("div", { class: "strip attended", tabIndex: 0, role: "region", "aria-label": t("attentionStrip") }, make("div", { dir: "auto" }, strip)),
      make("p", { class: "caption" }, t("attentionMost")),
      make("ol", { class: "bars" }, most),
    ];
  }
}

function nameOfPosition(one) {
  return t("layersPosition", { place: one.position + 1, token: nameOf(one.token), taken: nameOf(one.taken) });
}

function lensBar(token, share, name) {
  return make("li", { class: "bar" }, make("bdi", { class: "token-label" }, name), meter(share), make("span", { class: "share" }, percent(share)));
}

function meter(share) {
  return shape("svg", { class: "meter", "aria-hidden": "true" }, shape("rect", { class: "fill", width: `${(share * 100).toFixed(2)}%`, height: "100%", rx: 2 }));
}

/** From the last layer at the top to the embedding at the bottom. */
function lensTable(position) {
  const head = ["layersLayer", "layersTop", "", "layersTaken", "layersRank"].map((name) => make(name ? "th" : "td", name ? { scope: "col" } : {}, name && t(name, { token: nameOf(position.taken) })));
  const rows = position.layers.map((layer) => lensRow(layer, position.taken)).reverse();
  return make("div", { class: "scroller lens", tabIndex: 0, role: "region", "aria-label": t("layersTable") }, make("table", {}, make("caption", {}, t("layersTable")), make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)));
}

function lensRow(layer, taken) {
  const [best] = layer.top;
  return make(
    "tr",
    { class: best?.id === taken.id ? "agrees" : "" },
    make("th", { scope: "row" }, layer.layer === 0 ? t("layersEmbedding") : String(layer.layer)),
    make("td", {}, best ? tokenLabel(textOf(best)) : "–"),
    make("td", { class: "share" }, best ? percent(best.probability) : ""),
    make("td", {}, meter(layer.taken.probability), make("span", { class: "share" }, percent(layer.taken.probability))),
    make("td", {}, ordinal(layer.rank)),
  );
}
