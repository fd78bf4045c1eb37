// Shows a formula as MathML, which browsers draw themselves and screen readers read aloud. What is not understood is shown as it was
// written. Elements are made one by one, and their text enters as text nodes, so no formula can become markup.

import { element } from "./dom.js";
import { readFormula } from "./mathematics/reader.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";

export function formula(text, isBlock) {
  const tree = readFormula(text);
  if (!tree) return element("code", { class: isBlock ? "formula-text" : "" }, text);
  const math = made({ name: "math", attributes: { alttext: text, ...(isBlock ? { display: "block" } : {}) }, children: [tree] });
  return math;
}

function made({ name, attributes, children, text }) {
  const one = document.createElementNS(MATHML, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (children) one.append(...children.map(made));
  else one.textContent = text;
  return one;
}
