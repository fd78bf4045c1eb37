// The list of chats: search, open, delete, export, import.

import { chatsOfFile, fileOfChats } from "./chat_file.js";
import { isFound } from "./conversation.js";
import { byId, element, iconButton, textButton } from "./dom.js";
import { formatDay, t } from "./languages.js";

export class Sidebar {
  /** `actions`: open(id), create(), removed(id), tell(text). */
  constructor(history, actions) {
    Object.assign(this, { history, actions, current: null });
    byId("new-chat").addEventListener("click", () => actions.create());
    byId("search").addEventListener("input", () => this.refresh());
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
  }

  async refresh(current = this.current) {
    this.current = current;
    const query = byId("search").value.trim();
    const chats = (await this.history.all()).filter((chat) => isFound(chat, query));
    byId("chats").replaceChildren(...this.#days(chats));
    byId("no-chats").hidden = chats.length > 0;
    byId("no-chats").textContent = t(query ? "noneFound" : "noChats");
  }

  /** A list for each day, the newest first. */
  #days(chats) {
    const days = Map.groupBy(chats, (chat) => formatDay(chat.updatedAt));
    return [...days].flatMap(([day, own]) => [element("h2", { class: "day" }, day), element("ul", {}, own.map((chat) => this.#row(chat)))]);
  }

  #row(chat) {
    const title = chat.title || t("untitled");
    const open = textButton(title, () => this.actions.open(chat.id), { class: "open", title });
    if (chat.id === this.current) open.setAttribute("aria-current", "true");
    const row = element("li", {}, open, iconButton("delete", t("deleteChat", { title }), () => this.#ask(row, chat)));
    return row;
  }

  /** Deleting cannot be taken back, so it asks once, in the row itself. */
  #ask(row, chat) {
    const yes = textButton(t("deleteYes"), () => this.#remove(chat), { class: "danger" });
    const no = textButton(t("cancel"), () => this.refresh());
    row.replaceChildren(element("span", { class: "ask" }, t("deleteAsk")), no, yes);
    no.focus();
  }

  async #remove(chat) {
    await this.history.remove(chat.id);
    this.actions.removed(chat.id);
    await this.refresh();
    byId("search").focus();
  }

  async #export() {
    const file = new Blob([fileOfChats(await this.history.all())], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(file), download: `puna-chats-${new Date().toISOString().slice(0, 10)}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  async #import(input) {
    try {
      const chats = chatsOfFile(await input.files[0].text());
      for (const chat of chats) await this.history.save(chat);
      this.actions.tell(t("imported", { count: chats.length }));
    } catch (error) {
      this.actions.tell(t("importFailed", { problem: error.message }));
    }
    input.value = "";
    await this.refresh();
  }
}
