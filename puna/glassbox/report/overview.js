// The whole answer in a few sentences: how often the first choice was taken, and what each filter did on average.

import { make } from "./elements.js";
import { term } from "./explain.js";
import { count, given, percent } from "./numbers.js";
import { filterName } from "./stages.js";
import { rich, t } from "./words.js";

const SMALL = 0.0005; // a change of a probability that no digit shows

/** What the sentences say of the steps that sampled. */
export function overviewOf(steps) {
  const sampled = steps.filter((step) => step.stages.length > 0 && step.rank !== null);
  const names = sampled[0]?.stages.slice(1).map((stage) => stage.name) ?? [];
  return { sampled: sampled.length, first: sampled.filter((step) => step.rank === 1).length, filters: names.map((name) => filterOf(name, sampled)) };
}

function filterOf(name, steps) {
  const pairs = steps.flatMap((step) => {
    const place = step.stages.findIndex((stage) => stage.name === name);
    return place > 0 ? [[step.stages[place], step.stages[place - 1]]] : [];
  });
  return {
    name,
    removed: mean(pairs.map(([stage]) => stage.cut?.probability ?? 0)),
    left: median(pairs.map(([stage]) => stage.num_candidates)),
    cuts: pairs.some(([stage]) => stage.cut),
    before: mean(pairs.map(([, before]) => before.top[0].probability)),
    after: mean(pairs.map(([stage]) => stage.top[0].probability)),
  };
}

function mean(numbers) {
  return numbers.length ? numbers.reduce((sum, number) => sum + number, 0) / numbers.length : 0;
}

function median(numbers) {
  return [...numbers].sort((one, other) => one - other)[Math.floor((numbers.length - 1) / 2)] ?? 0;
}

export function overviewView(trace) {
  const found = overviewOf(trace.steps);
  if (!found.sampled) return null;
  const filters = found.filters.map((one) => make("li", {}, make("strong", {}, term(filterName(one.name)), setting(one.name, trace.filters)), " ", sentence(one)));
  const first = t(trace.seed === null ? "overviewGreedy" : "overviewFirst", { first: count(found.first), count: count(found.sampled), other: count(found.sampled - found.first) });
  return make("div", { class: "overview" }, make("p", {}, first), filters.length ? make("ul", {}, filters) : null);
}

function setting(name, filters) {
  const values = Object.values(filters.find((one) => one.name === name)?.settings ?? {});
  return values.length === 1 && typeof values[0] === "number" ? ` ${given(values[0])}` : "";
}

function sentence(one) {
  const values = { removed: percent(one.removed), left: term("candidate", one.left === 1 ? t("oneCandidate") : t("candidates", { count: count(one.left) })), before: percent(one.before), after: percent(one.after) };
  if (one.cuts) return rich("overviewCuts", values);
  return rich(Math.abs(one.after - one.before) < SMALL ? "overviewNothing" : "overviewChanges", values);
}
