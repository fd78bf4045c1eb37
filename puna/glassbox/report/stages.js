// One step of sampling as cards: the model's candidates, and what each filter made of them. The arithmetic stands in `rowsOf`.

import { quoted, textOf } from "./characters.js";
import { make, shape } from "./elements.js";
import { term } from "./explain.js";
import { count, given, percent } from "./numbers.js";
import { tokenLabel } from "./token_text.js";
import { rich, t } from "./words.js";

const MAX_ROWS = 10; // shown at first
const MAX_REMOVED = 4;
const SCALES = [1, 0.5, 0.25, 0.1]; // what a full bar may stand for
const SAME_LOGIT = 1e-3;
// How filters are spelled, and which word of the glossary explains them.
const NAMES = {
  greedy: "temperature 0",
  top_p: "top-p", top_k: "top-k", min_p: "min-p", typical_p: "typical-p", top_n_sigma: "top-n-sigma", xtc: "XTC", dry: "DRY", adaptive_p: "adaptive-p",
  dynamic_temperature: "dynamic temperature", logit_bias: "logit bias", bad_words: "bad words", banned_strings: "banned string",
  penalties: "repetition penalty", logits_processors: "logits processor",
};
const CAPTIONS = { greedy: greedyCaption, top_p: nucleusCaption, top_k: topKCaption, min_p: minPCaption, temperature: temperatureCaption, xtc: xtcCaption };

/** A stage's rows: the candidates, best first, then those of the stage before that it surely removed. */
export function rowsOf(stage, before) {
  const shares = new Map(before?.top.map((one) => [one.id, one.probability]));
  const kept = stage.top.map((one) => ({ ...one, before: shares.get(one.id) ?? null }));
  return { kept, removed: before && stage.cut ? removedOf(stage, before) : [], rest: stage.num_candidates - stage.top.length };
}

/** Of a stage that lists not all it kept, a candidate is surely gone if it is likelier than one that is listed, at the same logits. */
function removedOf(stage, before) {
  const after = new Map(stage.top.map((one) => [one.id, one.logit]));
  const common = before.top.filter((one) => after.has(one.id));
  const listsAll = stage.num_candidates === stage.top.length;
  const sameLogits = common.every((one) => Math.abs(one.logit - after.get(one.id)) < SAME_LOGIT);
  const least = Math.min(...common.map((one) => one.logit));
  const isGone = (one) => listsAll || one.id === stage.cut.first_removed.id || (sameLogits && one.logit > least);
  const gone = before.top.filter((one) => !after.has(one.id) && isGone(one));
  return gone.length ? gone : [stage.cut.first_removed];
}

/** The stages of a step; of one that temperature 0 took, with a last one, in which the likeliest token has 100%. */
export function stagesOf(step) {
  const last = step.stages.at(-1);
  if (!last || step.draw || step.is_given || step.logprob === null) return step.stages;
  const taken = last.chosen ?? last.top[0];
  const other = last.top.find((one) => one.id !== taken.id);
  const cut = other ? { num_removed: last.num_candidates - 1, probability: 1 - taken.probability, last_kept: taken, first_removed: other } : null;
  const only = { ...taken, probability: 1, logprob: 0 };
  return [...step.stages, { name: "greedy", num_candidates: 1, entropy_bits: 0, top: [only], chosen: only, cut, uniform: null }];
}

/** What a full bar stands for: the same for all stages of a step. */
export function scaleOf(stages) {
  const most = Math.max(0, ...stages.flatMap((stage) => stage.top.map((one) => one.probability)));
  return SCALES.findLast((scale) => most <= scale) ?? 1;
}

export function filterName(name) {
  return NAMES[name] ?? name.replaceAll("_", " ");
}

/** A card for each stage; `filters`: those of the trace. */
export function stageCards(step, filters) {
  const stages = stagesOf(step);
  const scale = scaleOf(stages);
  return stages.map((stage, place) => {
    const before = stages[place - 1];
    const used = filters.find((one) => one.name === stage.name);
    return make(
      "section",
      { class: "stage", "aria-label": titleText(stage, used) },
      make("h3", {}, make("span", { class: "number", "aria-hidden": "true" }, String(place + 1)), title(stage, used)),
      make("p", { class: "caption" }, caption(stage, before, used, step)),
      bars(stage, before, step, scale),
    );
  });
}

function titleText(stage, used) {
  return stage.name === "model" ? t("modelStage") : `${filterName(stage.name)}${setting(used)}`;
}

function title(stage, used) {
  if (stage.name === "model") return make("span", {}, t("modelStage"));
  if (stage.name === "greedy") return make("span", {}, term("temperature"), " 0");
  return make("span", {}, term(filterName(stage.name)), setting(used));
}

/** " 0.9": the value of a filter that has one only. */
function setting(used) {
  const values = Object.values(used?.settings ?? {});
  return values.length === 1 && typeof values[0] === "number" ? ` ${given(values[0])}` : "";
}

// ---- captions

function caption(stage, before, used, step) {
  if (!before) {
    return rich("modelCaption", { count: count(stage.num_candidates), vocabulary: term("vocabulary"), probability: term("probability") });
  }
  return (CAPTIONS[stage.name] ?? anyCaption)(stage, before, used?.settings ?? {}, step);
}

function anyCaption(stage, before) {
  if (!stage.cut) return changed(stage, before) ?? t("changedNothing");
  const { num_removed, probability, last_kept: last, first_removed: first } = stage.cut;
  return t("removedSome", {
    count: tokens(num_removed), share: percent(probability), last: quoted(textOf(last)), lastShare: percent(last.probability),
    first: quoted(textOf(first)), firstShare: percent(first.probability),
  });
}

function nucleusCaption(stage, before, settings) {
  const limit = percent(settings.top_p ?? 1);
  if (!stage.cut) return t("nucleusAll", { limit });
  const { num_removed, probability, last_kept: last } = stage.cut;
  return t("nucleus", { limit, kept: count(stage.num_candidates), share: percent(1 - probability), last: quoted(textOf(last)), count: tokens(num_removed) });
}

function topKCaption(stage, before, settings) {
  if (!stage.cut) return t("removedNone");
  return t("topK", { k: count(settings.top_k), count: tokens(stage.cut.num_removed), share: percent(stage.cut.probability) });
}

function minPCaption(stage, before, settings) {
  if (!stage.cut) return t("removedNone");
  const limit = percent(settings.min_p * before.top[0].probability);
  return t("minP", { factor: given(settings.min_p), limit, count: tokens(stage.cut.num_removed), share: percent(stage.cut.probability) });
}

function greedyCaption(stage) {
  return t("greedyStage", { token: quoted(textOf(stage.top[0])) });
}

function xtcCaption(stage, before, settings) {
  const values = { number: stage.uniform.toFixed(6), limit: settings.xtc_probability };
  if (stage.uniform >= settings.xtc_probability) return t("xtcRests", values);
  return `${t("xtcActs", values)} ${stage.cut ? anyCaption(stage, before) : t("changedNothing")}`;
}

function temperatureCaption(stage, before, settings) {
  if (stage.num_candidates === 1) return t("oneOnly");
  const found = mostChanged(stage, before);
  if (!found || !("temperature" in settings) || settings.temperature === 1) return changed(stage, before) ?? t("changedNothing");
  return t(settings.temperature < 1 ? "sharper" : "flatter", { temperature: given(settings.temperature), ...shown(found) });
}

function changed(stage, before) {
  const found = mostChanged(stage, before);
  return found && rich("changedMost", { logits: term("logits"), ...shown(found) });
}

function mostChanged(stage, before) {
  const pairs = rowsOf(stage, before).kept.filter((one) => one.before !== null && Math.abs(one.before - one.probability) > 1e-6);
  return pairs.sort((one, other) => Math.abs(other.before - other.probability) - Math.abs(one.before - one.probability))[0] ?? null;
}

function shown(one) {
  return { token: quoted(textOf(one)), before: percent(one.before), after: percent(one.probability) };
}

function tokens(number) {
  return number === 1 ? t("oneToken") : t("tokens", { count: count(number) });
}

// ---- bars

function bars(stage, before, step, scale) {
  const { kept, removed, rest } = rowsOf(stage, before);
  const rows = kept.map((one) => bar(one, scale, one.id === step.token.id ? "taken" : ""));
  const list = make("ol", { class: "bars" }, rows.slice(0, MAX_ROWS));
  if (rows.length > MAX_ROWS) list.append(moreButton(rows.slice(MAX_ROWS)));
  if (rest > 0) list.append(restRow(kept, rest));
  if (stage.cut) {
    const text = t("cutRow", { count: tokens(stage.cut.num_removed), share: percent(stage.cut.probability) });
    list.append(make("li", { class: "cut" }, make("span", {}, "✂ ", text)), ...removed.slice(0, MAX_REMOVED).map((one) => bar(one, scale, "removed")));
  }
  return list;
}

function bar(candidate, scale, state) {
  const marks = state ? make("span", { class: "unseen" }, `, ${t(state === "taken" ? "chosenLabel" : "removedLabel")}`) : null;
  return make(
    "li",
    { class: `bar ${state}` },
    tokenLabel(textOf(candidate)),
    meter(candidate.probability / scale, candidate.before === null || candidate.before === undefined ? null : candidate.before / scale),
    make("span", { class: "share" }, percent(candidate.probability), marks),
  );
}

/** A bar; `before`: where a mark shows what it was. Both are shares of a full one. */
export function meter(share, before) {
  const full = (part) => `${(Math.min(1, part) * 100).toFixed(2)}%`;
  const ghost = before === null ? null : shape("rect", { class: "ghost", x: full(before), width: 1.5, height: "100%" });
  return shape("svg", { class: "meter", "aria-hidden": "true" }, shape("rect", { class: "fill", width: full(share), height: "100%", rx: 2 }), ghost);
}

function restRow(kept, rest) {
  const share = Math.max(0, 1 - kept.reduce((sum, one) => sum + one.probability, 0));
  return make("li", { class: "rest" }, make("span", {}, t("others", { count: count(rest) })), make("span", { class: "share" }, percent(share)));
}

function moreButton(rows) {
  const item = make("li", { class: "more" });
  item.append(make("button", { type: "button", click: () => item.replaceWith(...rows) }, t("more", { count: count(rows.length) })));
  return item;
}
