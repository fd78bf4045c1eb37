// Long work in slices, so that the page stays alive between them. A worker cannot do it: the policy of the page lets no script make one
// from an address (`trusted-types 'none'`).

import { DocumentProblem } from "./problem.js";

const MAX_WORK_MS = 60_000;
const SLICE_MS = 12; // less than a frame of a screen
const MAX_SLICE_MS = 5000; // of work that cannot pause; honest files need less than one second

export class Pace {
  #worked = 0;
  #begun = performance.now();

  /** `signal`: an AbortSignal that ends the work. */
  constructor(signal = null, maxWorkMs = MAX_WORK_MS) {
    Object.assign(this, { signal, maxWorkMs });
  }

  /** Throws DocumentProblem once the work takes too long. To be called at least every few milliseconds. */
  check() {
    const spent = performance.now() - this.#begun;
    if (spent > MAX_SLICE_MS || this.#worked + spent > this.maxWorkMs) throw new DocumentProblem("fileTooSlow");
  }

  /** Lets the page do other things if the slice is over. */
  async pause() {
    this.check();
    const spent = performance.now() - this.#begun;
    if (spent < SLICE_MS) return;
    await nextTask();
    this.signal?.throwIfAborted();
    this.#worked += spent;
    this.#begun = performance.now();
  }
}

/** After what waits in the page's queue. Unlike a timer, a message is not slowed down in a hidden tab. */
function nextTask() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
