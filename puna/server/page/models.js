// The list of served models: what each needs, whether it fits, and which one answers.

import { byId, element } from "./dom.js";
import { formatBytes, formatNumber, t } from "./languages.js";

const NAME = "puna.model";

export class ModelPicker {
  #models = [];
  #freeBytes = 0;

  /** `actions`: chosen() hears of another choice, and opened() that the list is looked at. */
  constructor(actions) {
    Object.assign(this, { actions, button: byId("model"), list: byId("models") });
    this.button.addEventListener("click", () => this.#open(this.list.hidden));
    this.list.addEventListener("change", (event) => this.#choose(event.target.value));
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("pointerdown", (event) => event.target.closest(".picker") || this.#open(false));
  }

  show({ models, free_bytes: freeBytes }) {
    this.#models = models;
    this.#freeBytes = freeBytes;
    this.#show();
  }

  /** The model that answers; undefined until the list is known. */
  get chosen() {
    const wanted = localStorage.getItem(NAME);
    return this.#models.find(({ name }) => name === wanted) ?? this.#models[0];
  }

  get name() {
    return this.chosen?.name ?? "";
  }

  /** The tokens of its context; undefined where that is not known. */
  get contextLength() {
    return this.chosen?.max_context || undefined;
  }

  /** Whether the next answer must wait until the model is in memory. */
  get isToLoad() {
    return this.chosen !== undefined && this.chosen.state !== "loaded";
  }

  /** Closes the list; false if it was closed. */
  close() {
    if (this.list.hidden) return false;
    this.#open(false);
    this.button.focus();
    return true;
  }

  translate() {
    this.#show();
  }

  #open(isOpen) {
    if (isOpen === !this.list.hidden) return;
    this.list.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) return;
    this.list.querySelector("input:checked")?.focus();
    this.actions.opened();
  }

  /** Enter closes; the button, which then has the focus, must not hear it too. */
  #key(event) {
    if (event.key !== "Enter") return;
    event.preventDefault();
    this.close();
  }

  /** A click chooses and closes. The arrow keys choose too, by clicks without a button (detail 0), and leave the list open. */
  #clicked(event) {
    if (event.detail && event.target.closest(".choice:not(:has(:disabled))")) this.close();
  }

  #choose(name) {
    localStorage.setItem(NAME, name);
    this.#showName();
    this.actions.chosen();
  }

  #showName() {
    byId("model-name").textContent = this.name || "…";
  }

  #show() {
    const had = this.list.contains(document.activeElement) ? document.activeElement.value : null;
    this.#showName();
    this.list.replaceChildren(...this.#models.map((model) => this.#choice(model)));
    if (had !== null) this.list.querySelector(`input[value="${CSS.escape(had)}"]`)?.focus();
  }

  #choice(model) {
    const { name, problem, state } = model;
    const isRefused = Boolean(problem) && model !== this.chosen;
    const input = element("input", { type: "radio", name: "model", value: name, checked: model === this.chosen, disabled: isRefused });
    const badge = state === "unloaded" ? null : element("span", { class: "badge" }, t(`model_${state}`));
    const facts = problem ? element("span", { class: "plan wrong" }, this.#problemOf(model)) : element("span", { class: "plan" }, factsOf(model));
    return element("label", { class: "choice" }, input, element("span", { class: "choice-name" }, name, badge), facts);
  }

  #problemOf({ problem, needed_bytes: needed }) {
    if (problem === "memory") return t("modelTooLarge", { needed: formatBytes(needed), free: formatBytes(this.#freeBytes) });
    return t("modelUnreadable");
  }
}

/** "2.61 GiB of memory · 4,096 tokens of context · about 12 tokens/s" */
function factsOf({ needed_bytes: needed, max_context: length, tokens_per_s: speed }) {
  const parts = [t("modelMemory", { size: formatBytes(needed) }), t("modelContext", { length })];
  if (speed) parts.push(t("modelSpeed", { speed: formatNumber(Number(speed.toPrecision(2)), speed < 10 ? 1 : 0) }));
  return parts.join(" · ");
}
