// Copies text. On pages that came by plain http from another machine, browsers have no navigator.clipboard.

import { element, icon, iconButton } from "./dom.js";
import { t } from "./languages.js";

const SHOWN_MS = 1500;

export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { class: "unseen", value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  return area.remove();
}

/** A button that copies what `read` gives, and says so for a moment. */
export function copyButton(read, label = t("copy")) {
  const button = iconButton("copy", label, async () => {
    await copy(read());
    button.replaceChildren(icon("check"));
    button.setAttribute("aria-label", t("copied"));
    setTimeout(() => restore(button, label), SHOWN_MS);
  });
  return button;
}

function restore(button, label) {
  button.replaceChildren(icon("copy"));
  button.setAttribute("aria-label", label);
}
