// Words that explain themselves where they stand: a button opens what the glossary says, with mouse, finger or keyboard.

import { make } from "./elements.js";
import { TERMS } from "./terms.js";
import { ownTerm, rich, t } from "./words.js";

const GAP = 6; // pixels between a word and its explanation
// Words that a guided tour is about, and its name (`puna explain NAME`).
const TOURS = {
  KV: "kv-cache", "prefix cache": "kv-cache", attention: "attention", tokenizer: "tokenizer", token: "tokenizer", batch: "batching", padding: "batching",
  sampling: "sampling", temperature: "sampling", "top-p": "sampling", "top-k": "sampling", "min-p": "sampling", draw: "sampling", filter: "sampling", greedy: "sampling",
};
let opened = null;

const nameOfTerm = (word) => ownTerm(word)?.[0] ?? word;
const definitionOf = (word) => ownTerm(word)?.[1] ?? TERMS[word];

/** A word of the glossary; `shown`: how it is spelled here. Without an explanation it is plain text. */
export function term(word, shown = nameOfTerm(word), definition = definitionOf(word)) {
  if (!definition) return make("span", {}, shown);
  const open = (event) => explain(event.currentTarget, nameOfTerm(word), definition, TOURS[word]);
  return make("button", { type: "button", class: "term", "aria-haspopup": "dialog", click: open }, shown);
}

function explain(button, word, definition, tour) {
  opened?.remove();
  const close = make("button", { type: "button", class: "close", "aria-label": t("close"), click: () => opened.hidePopover() }, "×");
  opened = make("div", { class: "explanation", popover: "auto", role: "dialog", tabIndex: -1, "aria-label": word }, [
    make("p", {}, make("strong", {}, word), `: ${definition}`),
    tour ? make("p", { class: "tour" }, rich("tour", { command: make("code", {}, `puna explain ${tour}`) })) : null,
    close,
  ]);
  button.after(opened);
  opened.showPopover();
  place(opened, button.getBoundingClientRect());
  opened.focus({ preventScroll: true });
}

/** Below the word, or above it where there is no room; a narrow screen shows it at its lower edge (views.css). */
function place(box, word) {
  const { width, height } = box.getBoundingClientRect();
  const below = word.bottom + GAP + height <= innerHeight;
  box.style.left = `${Math.max(GAP, Math.min(word.left, innerWidth - width - GAP))}px`;
  box.style.top = `${below ? word.bottom + GAP : Math.max(GAP, word.top - GAP - height)}px`;
}
