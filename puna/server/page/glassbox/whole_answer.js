// A version of an answer as a whole: why it ended, what the K/V cache saved, all its tokens at a glance, and what the model read.

import { element } from "../dom.js";
import { t } from "../languages.js";
import { term } from "../report/explain.js";
import { keptView } from "../report/kept.js";
import { seconds } from "../report/numbers.js";
import { overviewView } from "../report/overview.js";
import { promptView } from "../report/prompt.js";
import { Timeline } from "../report/timeline.js";
import { rich, t as told } from "../report/words.js";
import { rich as richOfPage } from "./speech.js";

const REASONS = { stop: "stop", length: "length", full: "length" }; // how a chat names an end: the finish reason that the report explains

export class WholeAnswer {
  #shown = null; // of which version, and how many of its steps
  #timeline = null;

  /** `choose(index)`: a token was chosen in the timeline. */
  constructor(choose) {
    this.choose = choose;
    this.element = element("div", { class: "whole-answer" });
  }

  /** `version`: with all its steps, or those that have come; `index`: of the chosen token. */
  show(version, index) {
    const [known, length] = this.#shown ?? [];
    if (known !== version || length !== version.steps.length) this.#fill(version);
    if (index < version.steps.length) this.#timeline?.select(index);
  }

  #fill(version) {
    const { steps, prompt, filters, seed, end, node } = version;
    this.#shown = [version, steps.length];
    this.#timeline = new Timeline(steps, this.choose);
    this.element.replaceChildren(
      card("end", told("partEnd"), endingOf(node, end)),
      card("kept", told("partKept"), keptView({ steps }), guessesOf(node.run)),
      card("time", told("partTimeline"), overviewView({ steps, filters, seed }), this.#timeline.element),
      card("read", told("partPrompt"), promptView(prompt)),
    );
  }
}

function card(name, title, ...content) {
  return element("section", { class: "whole-card", id: `whole-${name}`, "aria-labelledby": `whole-${name}-title` }, element("h2", { id: `whole-${name}-title` }, title), content);
}

/** Where tokens were guessed, some shared a step, and wrong ones were computed in vain. */
function guessesOf({ guessed = 0, right = 0 }) {
  if (!guessed) return null;
  const values = { right, wrong: guessed - right };
  return element("p", { class: "hint" }, richOfPage("gbGuessed", { speculation: term("speculation") }, values));
}

/** Why it ended, and how long it took. */
function endingOf({ finish, stats }, end) {
  const reason = REASONS[finish];
  return [
    element("p", { class: "because" }, end),
    reason ? element("p", { class: "caption" }, rich(reason, { reason: term("finish reason") })) : null,
    stats ? element("p", { class: "hint" }, told("endTimes", timesOf(stats))) : null,
  ];
}

function timesOf({ output, firstMs, outputMs }) {
  return { count: t("statsTokens", { count: output }), time: seconds((firstMs + outputMs) / 1000), first: seconds(firstMs / 1000) };
}
