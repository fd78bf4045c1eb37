// "< 2/3 >" beside a message that has siblings.

import { siblingsOf } from "./conversation.js";
import { element, iconButton } from "./dom.js";
import { t } from "./languages.js";

/** The steps to the other versions of a message; null where there are none. */
export function branches(node, thread) {
  const all = siblingsOf(thread.chat, node);
  if (all.length < 2) return null;
  const at = all.indexOf(node);
  const step = (name, label, other) =>
    iconButton(name, label, () => thread.actions.choose(other), { disabled: !other || thread.isBusy() });
  const place = element("span", { "aria-label": t("branchOf", { at: at + 1, all: all.length }), role: "img" }, `${at + 1}/${all.length}`);
  return element("span", { class: "branches" }, step("left", t("branchBefore"), all[at - 1]), place, step("right", t("branchAfter"), all[at + 1]));
}
