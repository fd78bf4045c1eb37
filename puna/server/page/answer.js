// A message of the model: what it waits for, its thoughts, its text, and what one can do with it.

import { branches } from "./branches.js";
import { copyButton } from "./clipboard.js";
import { shownNodes } from "./conversation.js";
import { element, icon, iconButton, textButton } from "./dom.js";
import { speedOf } from "./generation.js";
import { canLookInto } from "./glassbox/answers.js";
import { formatNumber, t } from "./languages.js";
import { endsInLoop } from "./loops.js";
import { showMarkdown } from "./markdown_view.js";

export class Answer {
  constructor(node, thread) {
    Object.assign(this, { node, thread });
    this.thoughts = element("div", { class: "thoughts-text" });
    this.summary = element("summary");
    this.hurry = textButton("", () => thread.actions.hurry(node), { class: "hurry" });
    this.reasoning = element("div", { class: "thoughts" }, element("details", {}, this.summary, this.thoughts), this.hurry);
    this.pulse = element("span", { class: "pulse", role: "img" });
    this.bar = element("progress");
    this.words = element("span", { class: "hint" });
    this.waiting = element("div", { class: "waiting" }, this.pulse, this.bar, this.words);
    this.body = element("div", { class: "body" });
    this.foot = element("div");
    this.element = element("li", { class: "message assistant" });
    this.element.append(element("h2", { class: "unseen" }, t("answer")), this.reasoning, this.waiting, this.body, this.foot);
  }

  get #isRunning() {
    return Boolean(this.node.live);
  }

  get #isThinking() {
    return this.#isRunning && Boolean(this.node.reasoning) && !this.node.content;
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
    this.summary.textContent = this.#isThinking ? t("thinking") : thoughtFor(this.node);
    if (this.thoughts.textContent !== text) this.thoughts.textContent = text;
    this.#showHurry();
  }

  /** The button stays where it is while it is used, so that the focus is not lost. */
  #showHurry() {
    const { hurry } = this;
    const hadFocus = document.activeElement === hurry;
    hurry.hidden = !this.#isThinking;
    hurry.textContent = t(this.node.live?.isHurried ? "answeringNow" : "answerNow");
    hurry.setAttribute("aria-disabled", String(Boolean(this.node.live?.isHurried)));
    if (hadFocus && hurry.hidden) this.summary.focus();
  }

  /** What the first word waits for: the model, the prompt, or nothing that one knows of. */
  #showWaiting() {
    const { live, content, reasoning, model } = this.node;
    this.waiting.hidden = !live || Boolean(content || reasoning);
    if (this.waiting.hidden) return;
    const { isLoading, progress } = live;
    this.words.textContent = isLoading ? t("loadingModel", { name: model }) : progress?.total ? readingOf(progress) : "";
    this.pulse.setAttribute("aria-label", t("waiting"));
    this.bar.hidden = !progress?.total;
    this.pulse.hidden = !this.bar.hidden;
    if (this.bar.hidden) return;
    Object.assign(this.bar, { max: progress.total, value: progress.processed });
    this.bar.setAttribute("aria-label", this.words.textContent);
  }

  #note() {
    const text = noteOf(this.node);
    if (!text) return null;
    const { actions } = this.thread;
    const buttons = buttonsOf(this.node, this.node === shownNodes(this.thread.chat).at(-1));
    const kind = this.node.finish === "error" ? "note problem" : "note";
    const words = element("span", {}, text, this.node.code === TOO_LONG ? element("small", {}, this.node.problem) : null);
    return element("div", { class: kind }, words, buttons.map((name) => textButton(t(NOTE_BUTTONS[name]), () => actions[name](this.node))));
  }

  #actions() {
    const again = iconButton("again", t("regenerate"), () => this.thread.actions.regenerate(this.node));
    const stats = element("span", { class: "stats" }, statsOf(this.node));
    const copy = this.node.content ? copyButton(() => this.node.content) : null;
    const look = canLookInto(this.node) ? this.#lookButton() : null;
    return element("div", { class: "actions" }, branches(this.node, this.thread), copy, again, look, stats);
  }

  /** To where one sees how the answer came to be. */
  #lookButton() {
    const look = textButton(t("gbLook"), () => this.thread.actions.explore(this.node), { class: "look", title: t("glassbox") });
    look.prepend(icon("glassbox"));
    return look;
  }
}

const NOTES = { stopped: "noteStopped", broken: "noteBroken", left: "noteLeft", length: "noteLength", full: "noteFull" };
const NOTE_BUTTONS = { resume: "continueAnswer", regenerate: "tryAgain", create: "newChat", why: "why" };
const LOOPS_TILL = ["length", "full", "stopped"]; // a loop has no other end
const TOO_LONG = "context_length_exceeded";

function noteOf(node) {
  if (node.finish === "error") return node.code === TOO_LONG ? t("noteTooLong") : node.problem || t("noteError");
  if (node.finish === "broken" && !node.content && !node.reasoning) return t("noteUnanswered");
  const loops = LOOPS_TILL.includes(node.finish) && endsInLoop(node.content) ? ` ${t("noteLoops", { more: t("moreSampling") })}` : "";
  return node.finish in NOTES ? t(NOTES[node.finish]) + loops : "";
}

/** The actions that help with what a note says. Only the last answer can be continued. */
function buttonsOf(node, isLast) {
  if (node.finish === "full" || node.code === TOO_LONG) return ["create"];
  const canResume = isLast && node.content && ["length", "stopped", "broken", "left"].includes(node.finish);
  const canExplain = node.finish === "error" && node.problem;
  return [...(canResume ? ["resume"] : []), ...(node.finish === "length" ? [] : ["regenerate"]), ...(canExplain ? ["why"] : [])];
}

const readingOf = ({ processed, total, cache }) => t(cache ? "readingCached" : "reading", { processed, total, cache });

function thoughtFor({ thoughtMs }) {
  if (!thoughtMs) return t("thoughts");
  const seconds = thoughtMs / 1000;
  return t("thoughtFor", { seconds: formatNumber(seconds, seconds < 10 ? 1 : 0) });
}

/** The settings that this answer has alone, in words. */
const drawnOf = ({ drawn = {} }) => Object.entries(drawn).map(([name, value]) => `${t(name)} ${name === "seed" ? value : formatNumber(value, 2)}`);

/** "128 tokens · 42.1 tokens/s · 512 of 640 prompt tokens from the cache" */
function statsOf(node) {
  if (!node.stats) return "";
  const { prompt, cached, output, firstMs } = node.stats;
  const speed = speedOf(node.stats);
  const parts = [t("statsTokens", { count: output })];
  if (speed) parts.push(t("statsSpeed", { speed: formatNumber(speed, speed < 10 ? 1 : 0) }));
  parts.push(t("statsFirst", { seconds: formatNumber(firstMs / 1000, firstMs < 1000 ? 2 : 1) }));
  parts.push(...drawnOf(node));
  if (cached) parts.push(t("statsCached", { cached, prompt }));
  return parts.join(" · ");
}
