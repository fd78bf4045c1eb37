// Texts of one's own at a place of an answer: how likely each is, and a way to go on with it.

import { element, textButton } from "../dom.js";
import { formatAmount, formatNumber, t } from "../languages.js";
import { percent } from "../report/numbers.js";
import { meter } from "../report/stages.js";
import { tokenLabel } from "../report/token_text.js";

const MOST = 64; // options that the server takes at once

export class OwnWords {
  #running = null;

  /** `rank(texts, here, signal)` asks the server; `take(result)` goes on with one; `here`: the text of the token here, null at the beginning. */
  constructor({ rank, take, here, isBusy }) {
    Object.assign(this, { rank, take, here });
    this.area = element("textarea", { id: "own-words", rows: 3, placeholder: t("gbOwnHint"), "aria-describedby": "own-words-hint", "aria-label": t("gbOwn") });
    this.results = element("ol", { class: "choices ranked", "aria-live": "polite" });
    this.problem = element("p", { class: "problem", hidden: true });
    this.isBusy = isBusy;
    const buttons = [
      textButton(t("gbRank"), () => this.#rank(), { id: "rank" }),
      textButton(t("gbForce"), () => this.#force(), { id: "force", disabled: isBusy }),
    ];
    this.element = element(
      "div",
      { class: "own-words" },
      this.area,
      element("p", { id: "own-words-hint", class: "hint" }, t(here?.startsWith(" ") ? "gbOwnSpaced" : "gbOwnAbout")),
      element("div", { class: "buttons" }, buttons),
      this.problem,
      this.results,
    );
  }

  close() {
    this.#running?.abort();
  }

  /** One option for each line. The server knows what they mean: whether a space comes before them, as before the token here. */
  get #texts() {
    return this.area.value.split("\n").filter((line) => line.trim()).slice(0, MOST);
  }

  async #rank() {
    const found = await this.#ask(this.#texts);
    if (found) this.results.replaceChildren(element("li", { class: "ranked-by" }, t("gbRankedBy")), ...found.map((one) => this.#row(one, found)));
  }

  async #force() {
    const found = await this.#ask(this.#texts.slice(0, 1));
    if (found) this.take(found[0]);
  }

  async #ask(texts) {
    this.close();
    if (!texts.length) return void this.area.focus();
    const running = (this.#running = new AbortController());
    this.problem.hidden = true;
    try {
      return await this.rank(texts, this.here, running.signal);
    } catch (error) {
      if (running.signal.aborted) return null;
      this.problem.textContent = error.message || t("noteUnanswered");
      this.problem.hidden = false;
      return null;
    }
  }

  #row(one, all) {
    const best = all[0].logprob;
    const bits = formatNumber(-one.mean_logprob / Math.LN2, 2);
    return element(
      "li",
      { class: "choice-row ranked-row" },
      tokenLabel(one.text),
      meter(Math.exp(one.logprob - best), null),
      element("span", { class: "share" }, shareOf(one.logprob)),
      element("span", { class: "by" }, t("gbEach", { count: one.token_ids.length, bits })),
      textButton(t("gbTake"), () => this.take(one), { disabled: this.isBusy, "aria-label": t("gbTakeToken", { token: `“${one.text}”` }) }),
    );
  }
}

/** A probability; very small ones as one of how many. */
function shareOf(logprob) {
  const share = Math.exp(logprob);
  return share >= 0.0001 ? percent(share) : t("gbOneIn", { number: formatAmount(-logprob / Math.LN10) });
}
