// The panel of errors and of this machine: `puna why` for a pasted text, and what the doctor finds.

import { ServerError, Unreachable, explainError, findingsOfMachine } from "./api.js";
import { explanation } from "./cause.js";
import { element, textButton } from "./dom.js";
import { findingsView } from "./findings.js";
import { t } from "./languages.js";

export class MachinePanel {
  #text = "";
  #cause = null; // the server's answer, or an error
  #isAsking = false;
  #machine = null;
  #isLooking = false;

  /** `tell.lost()`: the server did not answer; `tell.refused()`: it wants a key. */
  constructor(home, tell) {
    Object.assign(this, { home, tell });
  }

  show() {
    const focused = this.home.contains(document.activeElement) ? document.activeElement.id : "";
    this.home.replaceChildren(this.#why(), this.#doctor());
    if (focused) this.home.querySelector(`#${focused}`)?.focus();
  }

  /** Explains a text, as if it had been pasted. */
  async explain(text) {
    this.#text = text;
    this.show();
    this.home.querySelector("#why-text").focus();
    await this.#ask();
  }

  #why() {
    const area = element("textarea", { id: "why-text", rows: 5, value: this.#text, spellcheck: false, "aria-label": t("whyText"), "aria-describedby": "why-hint" });
    area.addEventListener("input", () => (this.#text = area.value));
    const ask = textButton(t("whyAsk"), () => this.#ask(), { id: "why-ask", "aria-disabled": String(this.#isAsking) });
    const hint = element("p", { class: "hint", id: "why-hint" }, t("whyHint"));
    const result = element("div", { id: "why-result", role: "status" }, this.#isAsking ? t("whyAsking") : viewOf(this.#cause, explanation));
    return element("section", {}, element("h3", {}, t("whyTitle")), hint, area, ask, result);
  }

  #doctor() {
    const look = textButton(t("doctorLook"), () => this.#look(), { id: "doctor-look", "aria-disabled": String(this.#isLooking) });
    const result = element("div", { id: "doctor-result", role: "status" }, this.#isLooking ? t("doctorLooking") : viewOf(this.#machine, findingsView));
    return element("section", {}, element("h3", {}, t("doctorTitle")), element("p", { class: "hint" }, t("doctorHint")), look, result);
  }

  async #ask() {
    if (this.#isAsking || !this.#text.trim()) return;
    this.#isAsking = true;
    this.show();
    this.#cause = await this.#answerOf(() => explainError(this.#text));
    this.#isAsking = false;
    this.show();
  }

  async #look() {
    if (this.#isLooking) return;
    this.#isLooking = true;
    this.show();
    this.#machine = await this.#answerOf(findingsOfMachine);
    this.#isLooking = false;
    this.show();
  }

  /** What the server says, or its error, which is shown in the same place. */
  async #answerOf(ask) {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof Unreachable) this.tell.lost();
      else if (!(error instanceof ServerError)) throw error;
      else if (error.status === 401) this.tell.refused();
      return error;
    }
  }
}

function viewOf(answer, view) {
  if (answer instanceof ServerError) return element("p", { class: "problem" }, answer.message);
  return answer === null || answer instanceof Unreachable ? null : view(answer);
}
