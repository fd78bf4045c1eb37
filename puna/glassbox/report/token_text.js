// A token's text as elements.

import { labelled, visible } from "./characters.js";
import { make } from "./elements.js";

/** Text as it flows: line breaks break, and what cannot be seen is a mark. */
export function flowing(text) {
  return visible(text).flatMap((piece) => [drawn(piece), piece.breaks ? "\n" : null]);
}

/** A token's name on one line; it keeps its own direction. */
export function tokenLabel(text) {
  return make("bdi", { class: "token-label" }, labelled(text).map(drawn));
}

function drawn({ text, mark }) {
  return mark ? make("span", { class: "sign" }, text) : text;
}
