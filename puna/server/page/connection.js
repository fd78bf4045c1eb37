// Watches whether the server answers, and notices by itself when it is back.

import { isAlive } from "./api.js";

const [CALM_MS, ANXIOUS_MS] = [15_000, 1500];

export class Connection {
  isUp = true;
  #timer = 0;

  /** `tell(isUp)` hears of each change. */
  constructor(tell) {
    this.tell = tell;
    this.#later();
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  /** The server did not answer. */
  lost() {
    this.#know(false);
    this.#later();
  }

  async check() {
    this.#know(await isAlive());
    this.#later();
  }

  #know(isUp) {
    if (isUp === this.isUp) return;
    this.isUp = isUp;
    this.tell(isUp);
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (document.hidden ? this.#later() : this.check()), this.isUp ? CALM_MS : ANXIOUS_MS);
  }
}
