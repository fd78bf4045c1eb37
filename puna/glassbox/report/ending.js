// Why an answer ended.

import { plain } from "./characters.js";
import { make } from "./elements.js";
import { term } from "./explain.js";
import { count, seconds } from "./numbers.js";
import { rich, t } from "./words.js";

export function endingView(trace) {
  const number = trace.token_ids.length;
  const times = { count: number === 1 ? t("oneToken") : t("tokens", { count: count(number) }), time: seconds(trace.total_s), first: seconds(trace.first_token_s) };
  return [
    make("p", { class: "because" }, t("endsBecause", { why: plain(trace.why) })),
    make("p", { class: "caption" }, rich(trace.finish_reason, { reason: term("finish reason") })),
    trace.num_left_out ? make("p", {}, t("leftOut", { count: count(trace.num_left_out) })) : null,
    make("p", { class: "hint" }, t("endTimes", times)),
  ].filter(Boolean);
}
