// Where one writes: the text, the attached files, and the two buttons.

import { byId, element, icon, iconButton } from "./dom.js";
import { formatNumber, t } from "./languages.js";

const MAX_BYTES = 1 << 20; // of one file; the server refuses bodies above 8 MiB

export class Composer {
  #files = [];

  /** `actions`: send(text, files), stop(), tell(text): a problem in words. */
  constructor(actions) {
    this.actions = actions;
    this.area = byId("prompt");
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
    byId("context").textContent = used ? t(length ? "contextOf" : "contextUsed", values) : "";
  }

  #send() {
    const text = this.area.value;
    if (this.isBusy || (!text.trim() && !this.#files.length)) return;
    this.actions.send(text, this.#files);
    this.area.value = "";
    this.#files = [];
    this.#grow();
    this.#showFiles();
  }

  /** Enter sends. While an input method composes (Chinese, Japanese), Enter belongs to it. */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #grow() {
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
    await this.#attach([...input.files]);
    input.value = "";
  }

  async #attach(files) {
    for (const file of files) {
      const text = file.size > MAX_BYTES ? null : await textOf(file);
      if (file.size > MAX_BYTES) this.actions.tell(t("fileTooLarge", { name: file.name }));
      else if (text === null) this.actions.tell(t("fileNoText", { name: file.name }));
      else this.#files.push({ name: file.name, text });
    }
    this.#showFiles();
    this.focus();
  }

  #showFiles() {
    const items = this.#files.map((file) => {
      const remove = iconButton("close", t("removeFile", { name: file.name }), () => this.#remove(file));
      return element("li", { class: "file" }, icon("file"), file.name, remove);
    });
    byId("attachments").hidden = !items.length;
    byId("attachments").replaceChildren(...items);
  }

  #remove(file) {
    this.#files = this.#files.filter((other) => other !== file);
    this.#showFiles();
    this.focus();
  }
}

/** The text of a file; null for one that is no text. */
async function textOf(file) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}
