// Where one writes: the text, the attached files, and the two buttons.

import { Attachments } from "./attachments.js";
import { byId } from "./dom.js";
import { formatNumber, t } from "./languages.js";
import { TooLong } from "./too_long.js";

export class Composer {
  /** `actions`: send(text, files), stop(), tell(text): a problem in words; measure({ content, files }): its tokens, as `draft.js` says. */
  constructor(actions) {
    this.actions = actions;
    this.area = byId("prompt");
    this.attachments = new Attachments(byId("attachments"), actions.tell, () => this.#filesChanged());
    this.tooLong = new TooLong(byId("too-long"), () => actions.measure({ content: this.area.value, files: this.attachments.files }));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.area.addEventListener("keydown", (event) => this.#key(event));
    this.area.addEventListener("input", () => this.#grow());
    byId("stop").addEventListener("click", () => actions.stop());
    byId("attach").addEventListener("click", () => byId("attach-file").click());
    byId("attach-file").addEventListener("change", (event) => this.#attachAll(event.target));
    this.#takeDrops(byId("composer"));
  }

  focus() {
    this.area.focus();
  }

  fill(text) {
    this.area.value = text;
    this.#grow();
    this.focus();
  }

  setBusy(isBusy) {
    // The focus stays where it was: on the button that took the place of the other.
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = isBusy;
    byId("stop").hidden = !isBusy;
    if (hadFocus) byId(isBusy ? "stop" : "send").focus();
    this.isBusy = isBusy;
  }

  /** How much of the context is used, as far as one knows. */
  showContext(used, length) {
    const meter = byId("context-meter");
    meter.hidden = !used || !length;
    if (!meter.hidden) meter.value = Math.min(1, used / length);
    const values = { used: formatNumber(used), length: formatNumber(length ?? 0) };
    this.tooLong.changed();
    byId("context").textContent = used ? t(length ? "contextOf" : "contextUsed", values) : "";
  }

  #send() {
    const text = this.area.value;
    if (this.isBusy || (!text.trim() && this.attachments.isEmpty)) return;
    if (this.attachments.isReading) return this.actions.tell(t("fileStillReading"));
    this.actions.send(text, this.attachments.take());
    this.area.value = "";
    this.#grow();
  }

  /** Enter sends. While an input method composes (Chinese, Japanese), Enter belongs to it. */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #grow() {
    this.tooLong.changed();
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
  }

  #takeDrops(home) {
    home.addEventListener("dragover", (event) => event.preventDefault());
    home.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#attach([...event.dataTransfer.files]);
    });
  }

  async #attachAll(input) {
    const files = [...input.files];
    input.value = ""; // the same file may be chosen again
    await this.#attach(files);
  }

  async #attach(files) {
    await this.attachments.add(files);
    this.#filesChanged();
  }

  #filesChanged() {
    this.tooLong.changed();
    this.focus();
  }
}
