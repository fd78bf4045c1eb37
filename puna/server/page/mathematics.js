// Shows a formula. What is not understood is shown as it was written.

import { element } from "./dom.js";

export function formula(text, isBlock) {
  return element("code", { class: isBlock ? "formula-text" : "" }, text);
}
