// Asks for the API key of a server that wants one.

import { keepKey, readKey } from "./api.js";
import { byId } from "./dom.js";

/** Asks until a key is given; resolves then. */
export function askForKey() {
  const dialog = byId("key-dialog");
  byId("key-wrong").hidden = !readKey();
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(), { once: true });
    byId("key-form").addEventListener("submit", () => keepKey(byId("key").value.trim()), { once: true });
  });
}
