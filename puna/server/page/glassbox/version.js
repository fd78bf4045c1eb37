// One version of an answer as a column: its tokens by surprise, how likely it is as a whole, or its text while it still comes.

import { element, textButton } from "../dom.js";
import { formatNumber, t } from "../languages.js";
import { TokenStrip } from "../report/token_strip.js";
import { surpriseBits } from "../report/surprise.js";
import { stepsOf } from "./answers.js";

export class Version {
  #running = new AbortController();
  #strip = null;
  #selected = -1;

  /** `name`: begins the ids of its tokens; `choose(index)`; `stop()` while it comes; `shared`: how many tokens it has in common with what it is compared with. */
  constructor(node, { title, name, choose, stop, shared = 0, failed }) {
    Object.assign(this, { node, name, choose, shared, failed, steps: [] });
    this.stop = textButton(t("stop"), stop, { hidden: true });
    this.title = element("h2", {}, title);
    this.text = element("div", { class: "version-text" });
    this.facts = element("p", { class: "hint version-facts" });
    this.element = element("section", { class: "version", "aria-label": title }, this.title, this.text, this.facts, this.stop);
  }

  /** Asks for the steps of the whole answer; `begun` hears of the first ones. */
  async load(chat, begun) {
    const { signal } = this.#running;
    this.facts.textContent = t("gbReading");
    try {
      for await (const steps of stepsOf(chat, this.node, signal)) {
        if (signal.aborted) return;
        this.steps.push(...steps);
        this.#show();
        if (this.steps.length === steps.length) begun?.();
      }
    } catch (error) {
      if (!signal.aborted) this.failed(error, this);
    }
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

  #show() {
    const hadFocus = this.#strip?.hasFocus;
    this.element.removeAttribute("aria-busy");
    this.#strip = new TokenStrip(this.steps.map((step) => step.token), {
      label: t("gbStripOf", { title: this.title.textContent }), logprobs: this.steps.map((step) => step.logprob), choose: this.choose, name: this.name,
    });
    this.text.replaceChildren(this.#strip.element);
    this.#mark();
    if (this.#selected >= 0) this.select(this.#selected, hadFocus);
    this.facts.textContent = factsOf(this.steps, this.node);
  }

  #mark() {
    const tokens = [...(this.#strip?.element.children ?? [])];
    tokens.forEach((token, index) => token.classList.toggle("shared", index < this.shared));
    const at = this.node.branch?.at;
    if (at !== undefined) tokens[at]?.classList.add("forced");
  }
}

/** "57 tokens · 1.32 bits of surprise each"; of a branch also what it cost: the rest was in the cache. */
function factsOf(steps, { run, branch, stats }) {
  const known = steps.filter((step) => step.logprob !== null);
  const bits = known.reduce((sum, step) => sum + surpriseBits(step.logprob), 0) / Math.max(1, known.length);
  const parts = [t("statsTokens", { count: steps.length }), t("gbBitsEach", { bits: formatNumber(bits, 2) })];
  if (branch && run.computed && stats) parts.push(t("gbCost", { computed: run.computed, all: stats.prompt + stats.output }));
  return parts.join(" · ");
}
