// A message of the person: its text, its files, and its editor.

import { attachedFile } from "./attached_file.js";
import { branches } from "./branches.js";
import { copyButton } from "./clipboard.js";
import { element, iconButton, textButton } from "./dom.js";
import { t } from "./languages.js";
import { readFormulas } from "./markdown.js";
import { formulaInText } from "./mathematics.js";

const LONG = 1500; // characters; from there on the text scrolls in its bubble

export class UserMessage {
  constructor(node, thread) {
    Object.assign(this, { node, thread });
    this.element = element("li", { class: "message user" });
  }

  show() {
    const files = (this.node.files ?? []).map(attachedFile);
    const edit = iconButton("edit", t("edit"), () => this.#edit());
    this.element.replaceChildren(
      element("h2", { class: "unseen" }, t("you")),
      ...(files.length ? [element("ul", { class: "files" }, files)] : []),
      bubble(this.node.content),
      element("div", { class: "actions" }, branches(this.node, this.thread), copyButton(() => this.node.content), edit),
    );
  }

  #edit() {
    if (this.thread.isBusy()) return;
    const area = element("textarea", { value: this.node.content, rows: Math.min(12, this.node.content.split("\n").length + 1), "aria-label": t("edit") });
    const send = () => area.value.trim() && this.thread.actions.edit(this.node, area.value);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        this.#endEdit();
      }
    });
    const buttons = [textButton(t("cancel"), () => this.#endEdit()), textButton(t("send"), send, { class: "primary" })];
    this.element.replaceChildren(element("div", { class: "editor" }, area, element("div", { class: "buttons" }, buttons)));
    area.focus();
  }

  #endEdit() {
    this.show();
    this.element.querySelector(".actions button:last-of-type").focus();
  }
}

/** The keyboard scrolls what has the focus. */
function bubble(text) {
  const properties = text.length > LONG ? { class: "bubble long", tabIndex: 0, role: "region", "aria-label": t("prompt") } : { class: "bubble" };
  return element("div", properties, readFormulas(text).map(shownPiece));
}

/** What is no formula that one can draw stays as it was typed. */
const shownPiece = ({ kind, text, source, isBlock }) => (kind === "text" ? text : formulaInText(text, isBlock, source));
