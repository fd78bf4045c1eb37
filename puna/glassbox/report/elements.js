// Builds elements of HTML and SVG. Text enters as text nodes only, so nothing that a model writes can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `properties`: `class`, listeners by their event ("click"), properties of the element, or attributes. */
export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) assign(made, key, value);
  made.append(...present(children));
  return made;
}

/** An element of a picture; all properties are attributes. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...present(children));
  return made;
}

function assign(made, key, value) {
  if (typeof value === "function") made.addEventListener(key, value);
  else if (key === "class") made.className = value;
  else if (key in made && !key.startsWith("aria")) made[key] = value;
  else made.setAttribute(key, value);
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== "");
}
