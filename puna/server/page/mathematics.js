// Shows a formula as MathML, which browsers draw themselves and screen readers read aloud. What is not understood is shown as it was
// written. Elements are made one by one, and their text enters as text nodes, so no formula can become markup.

import { element } from "./dom.js";
import { readFormula } from "./mathematics/reader.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";

const LONG = 24; // characters; a longer one may be wider than a telephone

export function formula(text, isBlock) {
  return drawn(text, isBlock) ?? asWritten(text, isBlock);
}

/** A formula between words. Browsers do not break it, so one that may be too wide scrolls. `other` stands for one that is not understood. */
export function formulaInText(text, isBlock, other = asWritten(text, isBlock)) {
  const math = drawn(text, isBlock);
  if (!math) return other;
  if (text.length <= LONG) return math;
  return element("span", { class: isBlock ? "formula" : "formula in-line", tabIndex: 0 }, math);
}

const asWritten = (text, isBlock) => element("code", { class: isBlock ? "formula-text" : "" }, text);

function drawn(text, isBlock) {
  const tree = readFormula(text);
  return tree && made({ name: "math", attributes: { alttext: text, ...(isBlock ? { display: "block" } : {}) }, children: [tree] });
}

function made({ name, attributes, children, text }) {
  const one = document.createElementNS(MATHML, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (children) one.append(...children.map(made));
  else one.textContent = text;
  return one;
}
