// Shows the messages of a chat, and what one can do with each.

import { attachedFile } from "./attached_file.js";
import { copyButton } from "./clipboard.js";
import { shownNodes, siblingsOf } from "./conversation.js";
import { element, iconButton, textButton } from "./dom.js";
import { speedOf } from "./generation.js";
import { formatNumber, t } from "./languages.js";
import { showMarkdown } from "./markdown_view.js";

const NEAR_END = 80; // pixels; whoever reads further up is not scrolled away

export class Thread {
  #views = new Map(); // of a message's id

  /** `actions`: edit(node, text), regenerate(node), resume(node), choose(node). `isBusy()`: whether an answer is coming. */
  constructor(home, scroller, actions, isBusy) {
    Object.assign(this, { home, scroller, actions, isBusy, chat: null });
  }

  show(chat) {
    this.chat = chat;
    this.#views.clear();
    this.home.replaceChildren(...shownNodes(chat).map((node) => this.#viewOf(node)));
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Shows what has changed in a message. */
  update(node) {
    const view = this.#views.get(node.id);
    if (!view) return;
    const isAtEnd = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR_END;
    view.show();
    if (isAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** An answer has ended: what waited for that in the other messages is possible again. */
  wake() {
    for (const view of this.#views.values()) view.show();
  }

  #viewOf(node) {
    const view = node.role === "user" ? new UserMessage(node, this) : new Answer(node, this);
    this.#views.set(node.id, view);
    view.show();
    return view.element;
  }
}

class UserMessage {
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
      element("div", { class: "bubble" }, this.node.content),
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

class Answer {
  constructor(node, thread) {
    Object.assign(this, { node, thread });
    this.thoughts = element("div", { class: "thoughts-text" });
    this.summary = element("summary");
    this.reasoning = element("details", { class: "thoughts" }, this.summary, this.thoughts);
    this.waiting = element("div", { class: "waiting" });
    this.body = element("div", { class: "body" });
    this.foot = element("div");
    this.element = element("li", { class: "message assistant" });
    this.element.append(element("h2", { class: "unseen" }, t("answer")), this.reasoning, this.waiting, this.body, this.foot);
  }

  get #isRunning() {
    return !this.node.finish;
  }

  show() {
    this.element.setAttribute("aria-busy", String(this.#isRunning));
    this.#showThoughts();
    this.#showWaiting();
    showMarkdown(this.body, this.node.content);
    this.foot.replaceChildren(...(this.#isRunning ? [] : [this.#note(), this.#actions()].filter(Boolean)));
  }

  #showThoughts() {
    const text = this.node.reasoning ?? "";
    this.reasoning.hidden = !text;
    this.summary.textContent = this.#isRunning && !this.node.content ? t("thinking") : t("thoughts");
    if (this.thoughts.textContent !== text) this.thoughts.textContent = text;
  }

  #showWaiting() {
    const hasText = this.node.content || this.node.reasoning;
    this.waiting.hidden = !this.#isRunning || Boolean(hasText);
    if (this.waiting.hidden) return;
    const { progress } = this.node;
    if (!progress?.total) this.waiting.replaceChildren(element("span", { class: "pulse", role: "img", "aria-label": t("waiting") }));
    else this.waiting.replaceChildren(...progressOf(progress));
  }

  #note() {
    const text = noteOf(this.node);
    if (!text) return null;
    const resume = ["length", "stopped", "broken"].includes(this.node.finish) && this.node.content && this.node === shownNodes(this.thread.chat).at(-1);
    const buttons = [
      resume ? textButton(t("continueAnswer"), () => this.thread.actions.resume(this.node)) : null,
      this.node.finish === "length" ? null : textButton(t("tryAgain"), () => this.thread.actions.regenerate(this.node)),
    ];
    const kind = this.node.finish === "error" ? "note problem" : "note";
    return element("div", { class: kind }, element("span", {}, text), buttons);
  }

  #actions() {
    const again = iconButton("again", t("regenerate"), () => this.thread.actions.regenerate(this.node));
    const stats = element("span", { class: "stats" }, statsOf(this.node));
    return element("div", { class: "actions" }, branches(this.node, this.thread), copyButton(() => this.node.content), again, stats);
  }
}

function progressOf({ processed, total, cache }) {
  const values = { processed, total, cache };
  const label = t(cache ? "readingCached" : "reading", values);
  return [element("span", { class: "hint" }, label), element("progress", { max: total, value: processed, "aria-label": label })];
}

function noteOf(node) {
  const names = { stopped: "noteStopped", broken: "noteBroken", length: "noteLength" };
  if (node.finish === "error") return node.problem || t("noteError");
  return node.finish in names ? t(names[node.finish]) : "";
}

/** "128 tokens · 42.1 tokens/s · 512 of 640 prompt tokens from the cache" */
function statsOf(node) {
  if (!node.stats) return "";
  const { prompt, cached, output, firstMs } = node.stats;
  const speed = speedOf(node.stats);
  const parts = [t("statsTokens", { count: output })];
  if (speed) parts.push(t("statsSpeed", { speed: formatNumber(speed, speed < 10 ? 1 : 0) }));
  parts.push(t("statsFirst", { seconds: formatNumber(firstMs / 1000, 1) }));
  if (cached) parts.push(t("statsCached", { cached, prompt }));
  return parts.join(" · ");
}

/** "< 2/3 >" for a message that has siblings. */
function branches(node, thread) {
  const all = siblingsOf(thread.chat, node);
  if (all.length < 2) return null;
  const at = all.indexOf(node);
  const step = (name, label, other) =>
    iconButton(name, label, () => thread.actions.choose(other), { disabled: !other || thread.isBusy() });
  const place = element("span", { "aria-label": t("branchOf", { at: at + 1, all: all.length }), role: "img" }, `${at + 1}/${all.length}`);
  return element("span", { class: "branches" }, step("left", t("branchBefore"), all[at - 1]), place, step("right", t("branchAfter"), all[at + 1]));
}
