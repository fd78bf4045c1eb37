// The list of chats: search, open, delete, export, import.

import { chatsOfFile, fileOfChats } from "./chat_file.js";
import { isFound } from "./conversation.js";
import { byId, element, iconButton, textButton } from "./dom.js";
import { formatDay, t } from "./languages.js";

export class Sidebar {
  /** `actions`: open(id), create(), rename(id, title), removed(id), tell(text). */
  constructor(history, actions) {
    Object.assign(this, { history, actions, current: null });
    byId("new-chat").addEventListener("click", () => actions.create());
    byId("search").addEventListener("input", () => this.refresh());
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
  }

  /** Shows the chats as they are now; later, if one of them is just getting a name. */
  async refresh(current = this.current) {
    this.current = current;
    const query = byId("search").value.trim();
    const chats = (await this.history.all()).filter((chat) => isFound(chat, query));
    if (byId("chats").querySelector(".rename")) return;
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
    const open = textButton(title, ({ detail }) => detail < 2 && this.actions.open(chat.id), { class: "open", title });
    open.dataset.chat = chat.id;
    if (chat.id === this.current) open.setAttribute("aria-current", "true");
    const rename = iconButton("edit", t("renameChat", { title }), () => this.#rename(row, chat));
    const row = element("li", {}, open, rename, iconButton("delete", t("deleteChat", { title }), () => this.#ask(row, chat)));
    open.addEventListener("dblclick", () => this.#rename(row, chat));
    open.addEventListener("keydown", (event) => event.key === "F2" && this.#rename(row, chat));
    return row;
  }

  /** The name is a field of the row. Enter, or to go elsewhere, keeps it; Escape leaves it as it was. */
  #rename(row, chat) {
    const field = element("input", { class: "rename", value: chat.title, maxLength: 200, "aria-label": t("renameChat", { title: chat.title }) });
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault();
      if (event.key === "Escape") field.value = chat.title;
      field.blur();
    });
    field.addEventListener("blur", ({ relatedTarget }) => this.#named(chat, field, relatedTarget === null));
    row.replaceChildren(field);
    field.select();
  }

  /** `byKey`: nothing else took the focus. */
  async #named(chat, field, byKey) {
    const title = field.value.trim();
    if (title !== chat.title) await this.actions.rename(chat.id, title);
    field.remove();
    await this.refresh();
    if (byKey) byId("chats").querySelector(`[data-chat="${CSS.escape(chat.id)}"]`)?.focus();
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
