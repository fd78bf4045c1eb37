// What else a token could have been: the model's candidates, which filter removed one, and a way to go on with another.

import { element, textButton } from "../dom.js";
import { t } from "../languages.js";
import { quoted } from "../report/characters.js";
import { percent } from "../report/numbers.js";
import { filterName, meter, scaleOf } from "../report/stages.js";
import { tokenLabel } from "../report/token_text.js";

const SHOWN = 8;
const MOST = 60;

/** The list; `take(candidate)` goes on with one, unless `isBusy`. */
export function alternatives(step, take, isBusy) {
  const all = step.stages[0].top.slice(0, MOST);
  const list = element("ol", { class: "choices" });
  const scale = scaleOf(step.stages.slice(0, 1));
  const rows = all.map((one) => row(one, step, scale, take, isBusy));
  list.append(...rows.slice(0, SHOWN));
  if (rows.length > SHOWN) list.append(moreRow(rows.slice(SHOWN)));
  return list;
}

function row(candidate, step, scale, take, isBusy) {
  const isTaken = candidate.id === step.token.id;
  const by = removedBy(candidate, step.stages);
  const state = isTaken ? "taken" : by ? "removed" : "";
  return element(
    "li",
    { class: `choice-row ${state}` },
    tokenLabel(candidate.text || `#${candidate.id}`),
    meter(candidate.probability / scale, null),
    element("span", { class: "share" }, percent(candidate.probability)),
    by ? element("span", { class: "by" }, `✂ ${filterName(by)}`) : element("span", { class: "by" }),
    isTaken ? element("span", { class: "badge" }, t("gbTaken")) : takeButton(candidate, take, isBusy),
  );
}

function takeButton(candidate, take, isBusy) {
  return textButton(t("gbTake"), () => take(candidate), { disabled: isBusy, "aria-label": t("gbTakeToken", { token: quoted(candidate.text) }) });
}

function moreRow(rows) {
  const item = element("li", { class: "more" });
  const show = () => {
    item.replaceWith(...rows);
    rows[0].querySelector("button")?.focus();
  };
  item.append(textButton(t("gbMore", { count: rows.length }), show));
  return item;
}

/** The filter that removed a candidate of the model's; null: none did, as far as the trace shows. */
export function removedBy(candidate, stages) {
  const found = stages.slice(1).find((stage) => stage.cut && !stage.top.some((one) => one.id === candidate.id));
  return found?.name ?? null;
}
