// One open chat: sending, stopping, editing, and going back to another branch.

import { ServerError, Unreachable, endThinking } from "./api.js";
import { addNode, chooseNode, isWhole, newChat, parentOf, settled, shownNodes, siblingsOf, titleOf } from "./conversation.js";
import { bodyOf, generate } from "./generation.js";
import { anotherOf, readTyped, samplingOf } from "./sampling.js";

const SYSTEM = "puna.system"; // what new chats begin with
const KEEP_MS = 1000; // so much of an answer is lost at most if the page is closed

export class Chat {
  #running = null; // the AbortController of the answer that is coming
  #frame = 0;
  #keptAt = 0;

  /**
   * `views.thread`, `views.inspector`; `models` knows which model answers; `tell` hears of: changed() at the begin and end of an
   * answer, saved(chat), grown(node), finished(node), lost() when the server went away, refused() when it wants a key.
   */
  constructor(history, views, models, tell) {
    Object.assign(this, { history, views, models, tell });
    this.start();
  }

  get isBusy() {
    return this.#running !== null;
  }

  start() {
    this.stop();
    this.current = newChat(localStorage.getItem(SYSTEM) ?? "");
  }

  async open(id) {
    const chat = await this.history.read(id);
    if (!chat) return false;
    this.stop();
    this.current = chat;
    return true;
  }

  setSystem(text) {
    localStorage.setItem(SYSTEM, text);
    this.current.system = text;
    if (this.current.nodes.length) this.#save(this.current);
  }

  /** Names a chat, this one or another; without a title it has its first words again. It keeps its place in the list. */
  async rename(id, title) {
    const chat = id === this.current.id ? this.current : await this.history.read(id);
    if (!chat) return;
    chat.title = title || titleOf(chat);
    await this.#keep(chat);
  }

  send(text, files = []) {
    const last = shownNodes(this.current).at(-1) ?? null;
    return this.#answer(addNode(this.current, last, { role: "user", content: text, files }));
  }

  /** The edited message becomes a sibling of the first one, and gets an answer of its own. */
  edit(node, text) {
    const edited = addNode(this.current, parentOf(this.current, node), { role: "user", content: text, files: node.files });
    return this.#answer(edited);
  }

  /** Another answer beside `node`. One that never came whole is asked for as before. */
  regenerate(node) {
    const count = siblingsOf(this.current, node).length;
    const drawn = isWhole(node) ? anotherOf(this.#settings, this.models.chosen, count) : (node.drawn ?? {});
    return this.#answer(parentOf(this.current, node), drawn);
  }

  /** Goes on with an answer that ended too early: from its tokens, where they are known, and else from its text. */
  resume(node) {
    const { ids = [], seed = null } = node.run?.isWhole ? node.run : {};
    if (!ids.length || node.model !== this.models.name) return this.#fill(node, node);
    const drawn = seed === null ? {} : { seed }; // with the same settings it goes on as it would have
    return this.#fill(node, parentOf(this.current, node), ids, { ...drawn, ...this.#settings, ...node.drawn });
  }

  /** Another answer beside `node`, with its settings but for `changed`, that begins with the tokens `ids`; `branch` tells where it left. */
  branch(node, ids, branch, changed = {}) {
    if (this.isBusy) return null;
    const parent = parentOf(this.current, node);
    const settings = { ...node.run.settings, ...(node.run.seed === null ? {} : { seed: node.run.seed }), ...changed };
    const made = addNode(this.current, parent, { role: "assistant", model: node.model, drawn: {}, branch: { of: node.id, ...branch } });
    this.#fill(made, parent, ids, settings);
    return made;
  }

  choose(node) {
    if (this.isBusy) return;
    chooseNode(this.current, node);
    this.#save(this.current);
    this.tell.changed();
  }

  stop() {
    this.#running?.abort();
  }

  /** Ends the thinking of the answer that is coming. If that fails, the model thinks on, and one can ask again. */
  async hurry(node) {
    const { live } = node;
    if (!live || live.isHurried) return;
    live.isHurried = true;
    this.views.thread.update(node);
    try {
      await endThinking(live.requestId);
    } catch (error) {
      if (!(error instanceof ServerError || error instanceof Unreachable)) throw error;
      live.isHurried = false;
      this.views.thread.update(node);
    }
  }

  get #settings() {
    return samplingOf(readTyped(), this.models.chosen);
  }

  /** `drawn`: settings of this answer alone, which it keeps. */
  #answer(question, drawn = {}) {
    if (this.isBusy) return null;
    return this.#fill(addNode(this.current, question, { role: "assistant", model: this.models.name, drawn }), question);
  }

  /** Streams into `node` what comes after `last`; `opening`: the token ids that it begins with. */
  async #fill(node, last, opening = [], settings = { ...this.#settings, ...node.drawn }) {
    if (this.isBusy) return;
    const chat = this.current;
    const body = bodyOf(chat, last, opening.length ? node.model : this.models.name, room(settings, opening.length), opening);
    const running = (this.#running = new AbortController());
    const record = this.views.inspector.begin(body);
    node.live = { isLoading: this.models.isToLoad, isHurried: false, requestId: "", progress: null, isOpening: opening.length > 0 };
    node.run = { ids: [...opening], num_opened: opening.length, seed: null, settings, system: chat.system, isWhole: last !== node };
    chat.title ||= titleOf(chat);
    this.tell.changed();
    await this.#save(chat);
    await generate(node, body, running.signal, (event) => {
      record.event(event);
      this.#showSoon(node);
      this.#keepSometimes(chat);
    });
    this.#running = null;
    if (node.finish === "length" && this.#isFull(node)) node.finish = "full";
    record.end(node.finish);
    await this.#save(chat);
    this.#ended(chat, node);
  }

  #isFull({ stats }) {
    return stats && this.models.contextLength && stats.prompt + stats.output >= this.models.contextLength;
  }

  #ended(chat, node) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.views.thread.update(node);
    this.views.thread.wake();
    if (node.finish === "broken") this.tell.lost();
    if (node.status === 401) this.tell.refused();
    this.tell.finished(node);
  }

  /** Once for each frame that the browser draws, however many tokens came in between. */
  #showSoon(node) {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.views.thread.update(node);
      this.tell.grown(node);
    });
  }

  #keepSometimes(chat) {
    if (performance.now() - this.#keptAt > KEEP_MS) this.#keep(chat);
  }

  async #save(chat) {
    chat.updatedAt = Date.now();
    await this.#keep(chat);
    await this.tell.saved(chat);
  }

  #keep(chat) {
    this.#keptAt = performance.now();
    return this.history.save(settled(chat));
  }
}

/** A limit of tokens counts those that an answer is given: the settings with room for as many new ones. */
const room = (settings, given) => (given && settings.max_tokens ? { ...settings, max_tokens: settings.max_tokens + given } : settings);
