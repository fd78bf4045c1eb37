// One open chat: sending, stopping, editing, and going back to another branch.

import { addNode, chooseNode, newChat, parentOf, shownNodes, titleOf } from "./conversation.js";
import { bodyOf, generate } from "./generation.js";
import { readTyped, samplingOf } from "./sampling.js";

const SYSTEM = "puna.system"; // what new chats begin with

export class Chat {
  #running = null; // the AbortController of the answer that is coming
  #frame = 0;

  /**
   * `views.thread`, `views.inspector`; `model()` names the model; `tell` hears of: changed() at the begin and end of an answer,
   * finished(node), lost() when the server went away, refused() when it wants a key.
   */
  constructor(history, views, model, tell) {
    Object.assign(this, { history, views, model, tell });
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

  send(text, files = []) {
    const last = shownNodes(this.current).at(-1) ?? null;
    return this.#answer(addNode(this.current, last, { role: "user", content: text, files }));
  }

  /** The edited message becomes a sibling of the first one, and gets an answer of its own. */
  edit(node, text) {
    const edited = addNode(this.current, parentOf(this.current, node), { role: "user", content: text, files: node.files });
    return this.#answer(edited);
  }

  regenerate(node) {
    return this.#answer(parentOf(this.current, node));
  }

  /** Goes on with an answer that ended too early. */
  resume(node) {
    return this.#fill(node, node);
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

  #answer(question) {
    if (this.isBusy) return null;
    return this.#fill(addNode(this.current, question, { role: "assistant", model: this.model() }), question);
  }

  /** Streams into `node` what comes after `last`. */
  async #fill(node, last) {
    if (this.isBusy) return;
    const chat = this.current;
    const body = bodyOf(chat, last, this.model(), samplingOf(readTyped()));
    const running = (this.#running = new AbortController());
    const record = this.views.inspector.begin(body);
    node.finish = "";
    chat.title ||= titleOf(chat);
    this.tell.changed();
    await this.#save(chat);
    await generate(node, body, running.signal, (event) => {
      record.event(event);
      this.#showSoon(node);
    });
    this.#running = null;
    record.end(node.finish);
    await this.#save(chat);
    this.#ended(chat, node);
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
    });
  }

  async #save(chat) {
    chat.updatedAt = Date.now();
    await this.history.save(structuredClone(chat));
    await this.tell.saved(chat);
  }
}
