// Builds elements. Text enters as text nodes only, so nothing that a model writes can become markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element. `properties`: `class`, event listeners by name ("click"), attributes, or properties of the element. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) assign(made, key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function assign(made, key, value) {
  if (typeof value === "function") made.addEventListener(key, value);
  else if (key === "class") made.className = value;
  else if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
  else made[key] = value;
}

/** A picture of icons.svg; a screen reader does not see it. */
export function icon(name) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 24 24");
  picture.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `page/icons.svg#${name}`);
  picture.append(use);
  return picture;
}

/** A button that shows an icon and is named by `label`. */
export function iconButton(name, label, onClick, properties = {}) {
  return element("button", { type: "button", class: "icon", title: label, "aria-label": label, click: onClick, ...properties }, icon(name));
}

export function textButton(text, onClick, properties = {}) {
  return element("button", { type: "button", click: onClick, ...properties }, text);
}
