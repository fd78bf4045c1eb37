// One version of an answer as a column: its tokens by surprise, how likely it is as a whole, or its text while it still comes.

import { element, textButton } from "../dom.js";
import { formatNumber, t } from "../languages.js";
import { term } from "../report/explain.js";
import { TokenStrip } from "../report/token_strip.js";
import { surpriseBits } from "../report/surprise.js";
import { stepsOf } from "./answers.js";
import { cachedOf } from "./own_run.js";
import { rich } from "./speech.js";

export class Version {
  #running = new AbortController();
  #strip = null;
  #selected = -1;

  /** `name`: begins the ids of its tokens; `choose(index)`; `stop()` while it comes; `shared`: how many tokens it has in common with what it is compared with. */
  constructor(node, { title, name, choose, stop, shared = 0, failed }) {
    Object.assign(this, { node, name, choose, shared, failed, steps: [], prompt: null });
    this.stop = textButton(t("stop"), stop, { hidden: true });
    this.title = element("h2", {}, title);
    this.text = element("div", { class: "version-text" });
    this.facts = element("div", { class: "version-facts", role: "status" });
    this.element = element("section", { class: "version", "aria-label": title }, this.title, this.text, this.facts, this.stop);
  }

  /** Asks for the steps of the whole answer, unless `known` (by a message's id) has them; `begun` hears of the first ones, `came` of all. */
  async load(chat, known, begun, came) {
    const { signal } = this.#running;
    const traces = [];
    this.facts.textContent = t("gbReading");
    try {
      for await (const trace of known.get(this.node.id) ?? stepsOf(chat, this.node, signal)) {
        if (signal.aborted) return;
        traces.push(trace);
        this.steps.push(...trace.steps);
        this.prompt ??= trace.prompt;
        Object.assign(this, { filters: trace.filters, seed: trace.seed });
        this.#show(trace.settings);
        if (traces.length === 1) begun?.();
        came?.();
      }
      known.set(this.node.id, traces);
    } catch (error) {
      if (!signal.aborted) this.failed(error, this);
    }
  }

  /** Why it ended, in a sentence. */
  get end() {
    return endOf(this.node, this.steps.at(-1));
  }

  close() {
    this.#running.abort();
  }

  /** Its text while it comes. */
  grow() {
    this.element.setAttribute("aria-busy", "true");
    this.text.textContent = (this.node.reasoning ?? "") + this.node.content;
    this.facts.textContent = t("gbComing");
    this.stop.hidden = false;
  }

  /** Whether its tokens are those that one looks at. */
  setActive(isActive) {
    this.element.classList.toggle("active", isActive);
    if (isActive) this.element.setAttribute("aria-current", "true");
    else this.element.removeAttribute("aria-current");
  }

  fail(text) {
    this.facts.textContent = text;
  }

  select(index, focus = false) {
    this.#selected = index;
    if (index >= 0) this.#strip?.select(index, { focus });
    else this.#strip?.element.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  }

  /** Where another answer begins to differ. */
  compareWith(shared) {
    this.shared = shared;
    this.#mark();
  }

  #show(settings) {
    const [hadFocus, top] = [this.#strip?.hasFocus, this.#strip?.element.scrollTop ?? 0];
    this.element.removeAttribute("aria-busy");
    this.#strip = new TokenStrip(this.steps.map((step) => step.token), {
      label: t("gbStripOf", { title: this.title.textContent }), logprobs: this.steps.map((step) => step.logprob), choose: this.choose, name: this.name,
    });
    this.text.replaceChildren(this.#strip.element);
    this.#strip.element.scrollTop = top;
    this.#mark();
    if (this.#selected >= 0) this.select(this.#selected, hadFocus);
    this.facts.replaceChildren(...factsOf(this.steps, this.node, settings).map((line) => element("p", {}, line)));
  }

  #mark() {
    const tokens = [...(this.#strip?.element.children ?? [])];
    tokens.forEach((token, index) => token.classList.toggle("shared", index < this.shared));
    const at = this.node.branch?.at;
    if (at !== undefined) tokens[at]?.classList.add("forced");
  }
}

const TOLD = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"]; // of the settings

/** What one can say of an answer as a whole, as lines: its length, how it was drawn, and what a branch cost. */
function factsOf(steps, node, settings) {
  const known = steps.filter((step) => step.logprob !== null);
  const bits = known.reduce((sum, step) => sum + surpriseBits(step.logprob), 0) / Math.max(1, known.length);
  return [
    [t("statsTokens", { count: steps.length }), " · ", rich("gbBitsEach", { surprise: term("surprise") }, { bits: formatNumber(bits, 2) })],
    settingsOf(settings, node.run.seed),
    costOf(node),
  ].filter(Boolean);
}

function settingsOf(settings, seed) {
  if (!settings.temperature) return t("gbGreedy");
  const named = TOLD.filter((name) => name in settings).map((name) => `${t(name)} ${formatNumber(settings[name], 2)}`);
  return [...named, ...(seed === null ? [] : [`${t("seed")} ${seed}`])].join(" · ");
}

const ENDS = { length: "gbEndLength", full: "noteFull", stopped: "noteStopped", left: "noteLeft", broken: "noteBroken" };

/** Why it ended: the model's own sign, a stop text, a limit, or the person. */
function endOf({ finish, problem }, last) {
  if (finish === "error") return problem || t("noteError");
  if (finish in ENDS) return t(ENDS[finish]);
  return last?.token.is_control ? t("gbEndSign", { token: last.token.piece }) : t("gbEndText");
}

/** The tokens that a branch has in common with others were in the cache. */
function costOf(node) {
  const { run, branch, stats } = node;
  if (!branch || !stats) return null;
  return rich("gbCost", { cache: term("prefix cache") }, { cached: cachedOf(node), before: stats.prompt + run.num_opened, place: run.num_opened + 1 });
}
