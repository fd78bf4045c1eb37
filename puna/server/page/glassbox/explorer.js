// The glass box: any answer of a chat, token by token; what else each could have been; and other versions of it, side by side.

import { ServerError, Unreachable } from "../api.js";
import { siblingsOf } from "../conversation.js";
import { byId, element, icon, textButton } from "../dom.js";
import { formatNumber, t } from "../languages.js";
import { quoted } from "../report/characters.js";
import { term } from "../report/explain.js";
import { surpriseLegend } from "../report/token_strip.js";
import { canLookInto, rankedAt, stepAt, stepWith } from "./answers.js";
import { rich, useLanguageOfPage } from "./speech.js";
import { StepPane } from "./step_pane.js";
import { Version } from "./version.js";
import { WholeAnswer } from "./whole_answer.js";

const PEEK = 140; // pixels of a part that one sees at least
const REST_MS = 90; // whoever walks along the tokens by the arrow keys asks only for those where they rest

export class Explorer {
  #node = null; // the version whose token is looked at
  #other = null; // the one beside it
  #versions = new Map(); // of a message's id
  #index = -1;
  #known = new Map(); // steps by "id:index"
  #traces = new Map(); // of whole answers, by a message's id: what was asked for once is not computed again
  #running = null;
  #timer = 0;

  /** `chat`: the open chat, which branches answers (`Chat`); `closed(node)` hears that one goes back to the chat. */
  constructor(home, chat, closed) {
    Object.assign(this, { home, chat, closed });
  }

  get isOpen() {
    return this.#node !== null;
  }

  /** Looks into an answer. */
  open(node) {
    this.#known.clear();
    this.#traces.clear();
    useLanguageOfPage();
    document.body.classList.add("with-glassbox");
    this.home.hidden = false;
    this.#index = -1;
    this.#show(node, this.#siblings(node).length > 1 ? this.#neighbour(node) : null);
    byId("close-glassbox").focus();
  }

  /** Back to the chat; false if it was there already. */
  close() {
    if (!this.isOpen) return false;
    const node = this.#node;
    this.#end();
    this.#node = this.#other = null;
    this.home.hidden = true;
    this.home.replaceChildren();
    document.body.classList.remove("with-glassbox");
    this.closed(node);
    return true;
  }

  /** In another language. */
  translate() {
    if (!this.isOpen) return;
    useLanguageOfPage();
    this.#show(this.#node, this.#other);
  }

  /** More of an answer has come. */
  grown(node) {
    const version = this.#versions.get(node.id);
    if (version && node.live) version.grow();
  }

  /** An answer has ended: now one can look into it. */
  finished(node) {
    if (!this.isOpen) return;
    const known = this.#known.get(this.#place);
    if (this.#versions.has(node.id)) this.#show(this.#node, this.#other);
    else if (known) this.#shown(known); // what waited for that is possible again
  }

  // ---- what is shown

  #siblings(node) {
    return siblingsOf(this.chat.current, node).filter((one) => canLookInto(one) || one.live);
  }

  /** The version that another one left, or the one before it. */
  #neighbour(node) {
    const all = this.#siblings(node);
    return all.find((one) => one.id === node.branch?.of) ?? all.find((one) => one.branch?.of === node.id) ?? null;
  }

  #show(node, other) {
    this.#end();
    [this.#node, this.#other] = [node, other];
    this.pane = new StepPane({
      move: (by) => this.#choose(this.#node, this.#index + by),
      take: (candidate) => this.#branch([candidate.id], { kind: "token", text: candidate.text }),
      takeText: (result) => this.#branch(result.token_ids, { kind: "text", text: result.text }),
      go: (changed) => this.#branch([], { kind: "settings", text: "" }, changed),
      exact: (changed, signal) => stepWith(this.chat.current, this.#node, this.#index, changed, signal),
      rank: (texts, here, signal) => rankedAt(this.chat.current, this.#node, this.#index, texts, here, signal),
    });
    this.whole = new WholeAnswer((index) => this.#choose(this.#node, index));
    this.versions = element("div", { class: "versions" });
    this.bar = this.#bar();
    const answers = element("div", { class: "answers" }, this.bar, this.versions, surpriseLegend());
    this.home.replaceChildren(this.#head(), element("div", { class: "glassbox-body" }, answers, this.pane.element, this.whole.element));
    this.pane.clear(t("gbChoose"));
    this.#load();
  }

  #head() {
    const back = textButton([], () => this.close(), { id: "close-glassbox", class: "wide-icon" });
    back.append(icon("left"), element("span", {}, t("gbBack")));
    const lead = rich("gbLead", { token: term("token"), probability: term("probability") });
    return element("header", { class: "glassbox-head" }, back, element("h1", { id: "glassbox-title" }, t("gbTitle")), element("p", { class: "caption" }, lead));
  }

  /** The versions of the answer, and which one stands beside it. */
  #bar() {
    const all = this.#siblings(this.#node);
    if (all.length < 2) return element("div", { hidden: true });
    const chip = (node) =>
      textButton(this.#titleOf(node), () => this.#turnTo(node), { class: "chip", "aria-pressed": String(node === this.#node), disabled: Boolean(node.live) || this.chat.isBusy });
    const option = (node) => element("option", { value: node.id, selected: node === this.#other }, this.#titleOf(node));
    const choose = element("select", { id: "compare", change: () => this.#compare(all.find((one) => one.id === choose.value) ?? null) }, [
      element("option", { value: "" }, t("gbNone")),
      all.filter((one) => one !== this.#node).map(option),
    ]);
    return element(
      "div",
      { class: "version-bar" },
      element("div", { class: "chips", role: "group", "aria-label": t("gbVersions") }, all.map(chip)),
      element("label", { for: "compare" }, t("gbCompare")),
      choose,
    );
  }

  #titleOf(node) {
    const number = siblingsOf(this.chat.current, node).indexOf(node) + 1;
    const { branch } = node;
    const name = t("gbVersion", { number });
    if (!branch) return name;
    const all = siblingsOf(this.chat.current, node);
    const of = all.findIndex((one) => one.id === branch.of) + 1;
    const words = branch.kind === "settings" ? "gbFromSettings" : all.length > 2 && of ? "gbFromOf" : "gbFrom";
    return `${name} · ${t(words, { of, place: branch.at + 1, text: quoted(branch.text), settings: settingsOf(node) })}`;
  }

  #turnTo(node) {
    if (node === this.#node) return;
    this.#choose(node, Math.min(this.#index, node.run.ids.length - 1));
    this.home.querySelector('.chip[aria-pressed="true"]')?.focus();
  }

  #compare(other) {
    this.#show(this.#node, other);
    byId("compare").focus();
  }

  #load() {
    const shared = this.#other ? commonLength(this.#node.run.ids, this.#other.run.ids) : 0;
    const shown = this.#siblings(this.#node).filter((one) => [this.#node, this.#other].includes(one)); // each keeps its side
    this.versions.classList.toggle("side-by-side", shown.length > 1);
    for (const [place, node] of shown.entries()) {
      const version = new Version(node, {
        title: this.#siblings(this.#node).length > 1 ? this.#titleOf(node) : t("gbAnswer"),
        name: `token-${place}`,
        choose: (index) => this.#pick(node, index),
        stop: () => this.chat.stop(),
        shared: this.#node.live || this.#other?.live ? 0 : shared,
        failed: (error, at) => at.fail(problemOf(error)),
      });
      this.#versions.set(node.id, version);
      this.versions.append(version.element);
      version.setActive(node === this.#node);
      if (node.live) version.grow();
      else if (canLookInto(node)) this.#read(version);
      else version.fail(node.problem || t("noteUnanswered"));
    }
  }

  #read(version) {
    const isHere = () => version.node === this.#node;
    version.load(this.chat.current, this.#traces, () => isHere() && this.#begin(), () => isHere() && this.whole.show(version, this.#index));
  }

  /** The token that was looked at, or the first that says something: one that was not nearly certain. */
  #begin() {
    const { steps } = this.#versions.get(this.#node.id);
    const open = steps.slice(0, 40).findIndex((step) => step.logprob !== null && step.logprob < Math.log(0.7));
    this.#choose(this.#node, this.#index >= 0 ? Math.min(this.#index, this.#node.run.ids.length - 1) : Math.max(0, open));
  }

  #end() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#versions.forEach((version) => version.close());
    this.#versions.clear();
    this.pane?.clear("");
  }

  // ---- one token

  get #place() {
    return `${this.#node.id}:${this.#index}`;
  }

  /** By hand: where the token's own part stands below the screen, it comes into sight. */
  #pick(node, index) {
    this.#choose(node, index);
    const below = this.pane.element.getBoundingClientRect().top - innerHeight;
    if (below > -PEEK) this.home.scrollTop += below + innerHeight / 2;
  }

  #choose(node, index) {
    if (node !== this.#node) return this.#changeTo(node, index);
    const version = this.#versions.get(node.id);
    if (index < 0 || index >= node.run.ids.length || !version) return undefined;
    this.#index = index;
    this.#versions.forEach((one) => one.select(one === version ? index : -1));
    if (version.prompt) this.whole.show(version, index);
    const known = this.#known.get(this.#place);
    clearTimeout(this.#timer);
    this.#running?.abort();
    if (known) return this.#shown(known);
    this.#timer = setTimeout(() => this.#look(node, index), REST_MS);
    return undefined;
  }

  /** Looks into another version, which stands beside this one or takes the place of the one that did. */
  #changeTo(node, index) {
    const before = this.#node;
    this.#index = index;
    this.chat.choose(node);
    if (!this.#versions.has(node.id)) return this.#show(node, before);
    [this.#node, this.#other] = [node, before];
    this.#versions.forEach((version) => version.setActive(version.node === node));
    const bar = this.#bar();
    this.bar.replaceWith(bar);
    this.bar = bar;
    return this.#choose(node, index);
  }

  async #look(node, index) {
    const [running, place] = [(this.#running = new AbortController()), this.#place];
    try {
      const found = await stepAt(this.chat.current, node, index, running.signal);
      if (running.signal.aborted) return;
      this.#known.set(place, found);
      this.#shown(found);
    } catch (error) {
      if (!running.signal.aborted) this.pane.clear(problemOf(error));
    }
  }

  #shown({ step, filters }) {
    if (!step) return this.pane.clear(t("gbNoStep"));
    const node = this.#node;
    const version = this.#siblings(node).length > 1 ? t("gbVersion", { number: siblingsOf(this.chat.current, node).indexOf(node) + 1 }) : "";
    const place = { index: this.#index, count: node.run.ids.length, version, note: noteOf(node, this.#index, step), end: endNoteOf(node, this.#index, step) };
    return this.pane.show(step, filters, place, this.chat.isBusy);
  }

  /** Goes on from the chosen token with other tokens in its place. What it leaves stands beside it. */
  #branch(ids, branch, changed = {}) {
    const node = this.#node;
    const made = this.chat.branch(node, [...node.run.ids.slice(0, this.#index), ...ids], { ...branch, at: this.#index }, changed);
    if (made) this.#show(made, node);
  }
}

/** "temperature 2, top p 0.9": what a version was drawn with. */
function settingsOf({ run }) {
  const named = ["temperature", "top_p"].filter((name) => Number.isFinite(run.settings[name]));
  return named.map((name) => `${t(name)} ${formatNumber(run.settings[name], 2)}`).join(", ");
}

/** How many tokens two answers begin with alike. */
export function commonLength(one, other) {
  const differs = one.findIndex((id, index) => id !== other[index]);
  return differs < 0 ? one.length : differs;
}

/** Who gave a token that this version did not write: another version, the person, or itself before it was continued. */
function noteOf({ run, branch }, index, step) {
  if (index >= run.num_opened) return "";
  if (!branch) return step.is_given ? t("gbFromBefore") : "";
  if (index < branch.at) return t("gbShared");
  return t(branch.kind === "text" ? "gbYourText" : "gbYourToken");
}

/** What the last token of an answer says that the model ended by itself. */
function endNoteOf({ run, finish }, index, step) {
  return finish === "stop" && index === run.ids.length - 1 && step.token.is_control ? t("gbIsEnd") : "";
}

function problemOf(error) {
  if (error instanceof Unreachable) return t("noteUnanswered");
  if (error instanceof ServerError) return error.message;
  throw error;
}
