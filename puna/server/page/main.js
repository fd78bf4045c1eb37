// Puts the page together: start reading here.

import { ServerError, Unreachable, listModels } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { shownNodes } from "./conversation.js";
import { byId, textButton } from "./dom.js";
import { measuredDraft } from "./draft.js";
import { Explorer } from "./glassbox/explorer.js";
import { openHistory } from "./history.js";
import { Inspector } from "./inspector.js";
import { askForKey } from "./key_dialog.js";
import { t, translatePage, useLanguage } from "./languages.js";
import { MachinePanel } from "./machine.js";
import { ModelPicker } from "./models.js";
import { closeOpen, openPanel, showSidebar, wirePanels } from "./panels.js";
import { showSettings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";

const NOTICE_MS = 6000;
const history = await openHistory();

const models = new ModelPicker({ chosen: modelChosen, opened: () => loadModels() });
const inspector = new Inspector(byId("inspector-body"));
const machine = new MachinePanel(byId("machine-body"), { lost: () => connection.lost(), refused: () => loadModels() });
const thread = new Thread(byId("thread"), byId("scroll"), {
  edit: (node, text) => chat.edit(node, text),
  regenerate: (node) => chat.regenerate(node),
  resume: (node) => chat.resume(node),
  hurry: (node) => chat.hurry(node),
  create: () => startChat(),
  choose: (node) => chat.choose(node),
  explore: (node) => explorer.open(node),
  why: (node) => explain(node.problem),
}, () => chat.isBusy);
const chat = new Chat(history, { thread, inspector }, models, {
  changed: showAll,
  saved: (saved) => sidebar.refresh(saved === chat.current ? saved.id : undefined),
  grown: (node) => explorer.grown(node),
  finished,
  lost: () => connection.lost(),
  refused: () => loadModels(),
});
const explorer = new Explorer(byId("glassbox"), chat, (node) => thread.focusLook(node));
const composer = new Composer({
  send: (text, files) => chat.send(text, files),
  stop: () => chat.stop(),
  tell: tellForAWhile,
  measure: (draft) => measuredDraft(chat.current, draft, models),
});
const sidebar = new Sidebar(history, { open: openChat, create: startChat, rename, removed, tell: tellForAWhile });
const connection = new Connection(serverChanged);

function showAll() {
  thread.show(chat.current);
  if (chat.current.nodes.length) window.history.replaceState(null, "", `#${chat.current.id}`);
  byId("welcome").hidden = chat.current.nodes.length > 0;
  showTitle();
  composer.setBusy(chat.isBusy);
  showContext();
}

function showTitle() {
  const { title } = chat.current;
  byId("title").textContent = title;
  byId("title").hidden = !title;
  document.title = title ? `${title} · puna` : "puna";
}

function modelChosen() {
  showContext();
  if (!byId("settings").hidden) fillSettings();
}

function showContext() {
  const stats = shownNodes(chat.current).findLast((node) => node.stats)?.stats;
  composer.showContext(stats ? stats.prompt + stats.output : 0, models.contextLength);
}

/** A screen reader hears an answer once, when it is whole. */
function finished(node) {
  composer.setBusy(chat.isBusy);
  showContext();
  explorer.finished(node);
  byId("announcer").textContent = node.content || node.problem || "";
  if (node.finish !== "error" && models.isToLoad) loadModels();
}

async function openChat(id) {
  if (await chat.open(id)) showChat();
}

function startChat() {
  chat.start();
  showChat();
}

function showChat() {
  explorer.close();
  location.hash = chat.current.nodes.length ? chat.current.id : "";
  showAll();
  sidebar.refresh(chat.current.id);
  showSidebar(false);
  if (!byId("settings").hidden) fillSettings();
  composer.focus();
}

async function rename(id, title) {
  await chat.rename(id, title);
  showTitle();
}

function removed(id) {
  if (id === chat.current.id) startChat();
}

function fillSettings() {
  showSettings(byId("settings-body"), chat.current.system, models.chosen, { system: (text) => chat.setSystem(text), language: changeLanguage });
}

function changeLanguage(name) {
  useLanguage(name);
  translateAll();
  fillSettings();
  byId("choose-language").focus();
}

function translateAll() {
  translatePage();
  models.translate();
  machine.show();
  showSuggestions();
  showAll();
  explorer.translate();
  sidebar.refresh();
}

function showSuggestions() {
  const texts = ["suggestion1", "suggestion2", "suggestion3"].map((name) => t(name));
  byId("suggestions").replaceChildren(...texts.map((text) => textButton(text, () => composer.fill(text))));
}

function explain(problem) {
  openPanel("machine");
  machine.explain(problem);
}

function tell(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function tellForAWhile(text) {
  tell(text);
  setTimeout(() => byId("notice").textContent === text && tell(""), NOTICE_MS);
}

/** A notice goes with the next thing that is done, unless it tells how things are: that the server is gone. */
function endNotice() {
  if (connection.isUp) tell("");
}

async function serverChanged(isUp) {
  if (!isUp) return tell(t("serverGone"));
  tellForAWhile(t("serverBack"));
  return loadModels();
}

/** Lists the models; asks for the key if the server wants one. */
async function loadModels() {
  try {
    models.show(await listModels());
    showContext();
  } catch (error) {
    if (error instanceof ServerError && error.status === 401) {
      await askForKey();
      await loadModels();
    } else if (error instanceof Unreachable) connection.lost();
    else if (error instanceof ServerError) tell(error.message);
    else throw error;
  }
}

document.addEventListener("click", endNotice, { capture: true });
document.addEventListener("keydown", ({ key }) => ["Enter", "Escape"].includes(key) && endNotice(), { capture: true });
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || byId("key-dialog").open) return;
  if (document.querySelector(":popover-open")) return; // it closes by itself
  if (!models.close() && !closeOpen() && !explorer.close()) chat.stop();
});
wirePanels({ settings: fillSettings, inspector: () => inspector.show(), machine: () => machine.show() });
translateAll();
if (location.hash) await openChat(location.hash.slice(1));
composer.focus();
await loadModels();
