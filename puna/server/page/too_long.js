// Warns, before a message is sent, that the model cannot read all of it.

import { t } from "./languages.js";

const PAUSE_MS = 400; // of whoever writes, before the message is measured

export class TooLong {
  #timer = 0;
  #asked = 0;

  /** `measure()` promises what `measuredDraft` does (`draft.js`). */
  constructor(home, measure) {
    Object.assign(this, { home, measure });
  }

  /** The message, the chat or the model is another. */
  changed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#check(), PAUSE_MS);
  }

  /** Of two answers, the one to the later question counts. */
  async #check() {
    const asked = (this.#asked += 1);
    const text = warningOf(await this.measure());
    if (asked !== this.#asked || text === this.home.textContent) return;
    this.home.textContent = text;
    this.home.hidden = !text;
  }
}

function warningOf({ count, isExact, length }) {
  if (!length || count < length) return "";
  return t("tooLong", { tokens: t(isExact ? "statsTokens" : "fileTokens", { count }), length });
}
