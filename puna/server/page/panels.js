// The sidebar and the two panels: opening, closing, and where the focus goes.

import { byId } from "./dom.js";

const PANELS = ["settings", "inspector", "machine"]; // one is open at a time

/** Wires the buttons. `shows`: what fills each panel when it opens. */
export function wirePanels(shows) {
  for (const name of PANELS) {
    byId(`open-${name}`).addEventListener("click", () => (byId(name).hidden ? open(name, shows) : close(name)));
    byId(`close-${name}`).addEventListener("click", () => close(name));
  }
  byId("open-sidebar").addEventListener("click", () => showSidebar(true));
  byId("close-sidebar").addEventListener("click", () => showSidebar(false));
  byId("shade").addEventListener("click", () => showSidebar(false));
}

function open(name, shows) {
  openPanel(name);
  shows[name]();
  byId(`close-${name}`).focus();
}

function close(name) {
  hide(name);
  byId(`open-${name}`).focus();
}

function hide(name) {
  byId(name).hidden = true;
  byId(`open-${name}`).setAttribute("aria-expanded", "false");
}

/** Shows a panel without its button. The focus goes to where the caller puts it. */
export function openPanel(name) {
  PANELS.filter((other) => other !== name).forEach(hide);
  byId(name).hidden = false;
  byId(`open-${name}`).setAttribute("aria-expanded", "true");
}

/** Closes what is open; false if nothing was. */
export function closeOpen() {
  const name = PANELS.find((one) => !byId(one).hidden);
  if (name) close(name);
  else if (document.body.classList.contains("with-sidebar")) showSidebar(false);
  else return false;
  return true;
}

/** On a narrow screen the list of chats lies over the page; on a wide one it is always there. */
export function showSidebar(isShown) {
  const wasShown = document.body.classList.contains("with-sidebar");
  document.body.classList.toggle("with-sidebar", isShown);
  byId("shade").hidden = !isShown;
  byId("open-sidebar").setAttribute("aria-expanded", String(isShown));
  if (isShown !== wasShown) byId(isShown ? "close-sidebar" : "open-sidebar").focus();
}
