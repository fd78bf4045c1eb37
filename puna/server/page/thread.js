// Shows the messages of a chat, and what one can do with each.

import { Answer } from "./answer.js";
import { shownNodes } from "./conversation.js";
import { UserMessage } from "./user_message.js";

const NEAR_END = 80; // pixels; whoever reads further up is not scrolled away

export class Thread {
  #views = new Map(); // of a message's id

  /**
   * `actions`: edit(node, text), regenerate(node), resume(node), choose(node), hurry(node): end its thinking, create(): another
   * chat, explore(node): look into it. `isBusy()`: whether an answer is coming.
   */
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

  /** The focus goes back to where one looked into an answer, or to the end of the chat. */
  focusLook(node) {
    this.#views.get(node.id)?.element.querySelector(".look")?.focus();
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
