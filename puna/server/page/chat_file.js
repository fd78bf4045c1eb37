// Chats as a JSON file. What comes from a file is checked, field by field, before it enters the history.

import { SAMPLING } from "./sampling.js";

const FORMAT = "puna-chats-1";
const ID = /^[A-Za-z0-9-]{1,64}$/;

export const fileOfChats = (chats) => JSON.stringify({ format: FORMAT, chats }, null, 1);

/** The chats of a file. Throws Error for any other file. */
export function chatsOfFile(text) {
  const file = JSON.parse(text);
  if (file?.format !== FORMAT || !Array.isArray(file.chats)) throw new Error("this is no file of chats");
  return file.chats.map(checkedChat);
}

function checkedChat(chat) {
  const nodes = list(chat?.nodes).map(checkedNode);
  requireTree(nodes);
  const [createdAt, updatedAt] = [number(chat.createdAt), number(chat.updatedAt)];
  return { id: id(chat.id), title: text(chat.title), system: text(chat.system), createdAt, updatedAt, nodes, chosen: choices(chat.chosen) };
}

function checkedNode(node) {
  if (!["user", "assistant"].includes(node?.role)) throw new Error("a message has no role");
  return {
    id: id(node.id),
    parent: id(node.parent),
    role: node.role,
    at: number(node.at),
    content: text(node.content),
    reasoning: text(node.reasoning),
    thoughtMs: number(node.thoughtMs),
    model: text(node.model),
    finish: text(node.finish),
    files: list(node.files).map(checkedFile),
    stats: checkedStats(node.stats),
    drawn: checkedDrawn(node.drawn),
    run: checkedRun(node.run),
    branch: checkedBranch(node.branch),
  };
}

/** How an answer was made; null where a part is missing or wrong: then nobody can look into it. */
function checkedRun(run) {
  const isId = (value) => Number.isInteger(value) && value >= 0;
  if (!run || !Array.isArray(run.ids) || !run.ids.every(isId)) return null;
  const settings = Object.fromEntries(SAMPLING.filter(({ name }) => isSetting(run.settings?.[name])).map(({ name }) => [name, run.settings[name]]));
  const seed = Number.isFinite(run.seed) ? run.seed : null;
  return { ids: run.ids, num_opened: number(run.num_opened), seed, computed: number(run.computed), settings, system: text(run.system), isWhole: run.isWhole === true, guessed: number(run.guessed), right: number(run.right) };
}

const isSetting = (value) => Number.isFinite(value) || typeof value === "string" || (Array.isArray(value) && value.every((one) => typeof one === "string"));

function checkedBranch(branch) {
  return typeof branch?.of === "string" && ID.test(branch.of) ? { of: branch.of, at: number(branch.at), text: text(branch.text), kind: text(branch.kind) } : null;
}

function checkedFile(file) {
  const [pages, readPages] = [number(file?.pages), number(file?.readPages)];
  return { name: text(file?.name), text: text(file?.text), pages, readPages, isCut: file?.isCut === true };
}

function checkedStats(stats) {
  if (!stats) return null;
  return Object.fromEntries(["prompt", "cached", "output", "opened", "firstMs", "outputMs"].map((name) => [name, number(stats[name])]));
}

function checkedDrawn(drawn) {
  return Object.fromEntries(["temperature", "seed"].filter((name) => Number.isFinite(drawn?.[name])).map((name) => [name, drawn[name]]));
}

/** Each message must come after its parent, and no two share an id: else walking the tree would not end. */
function requireTree(nodes) {
  const seen = new Set(["root"]);
  for (const node of nodes) {
    if (!seen.has(node.parent) || seen.has(node.id)) throw new Error("the messages are no tree");
    seen.add(node.id);
  }
}

function choices(given) {
  return Object.fromEntries(Object.entries(given ?? {}).map(([parent, child]) => [id(parent), id(child)]));
}

function id(value) {
  if (typeof value !== "string" || !ID.test(value)) throw new Error("an id is wrong");
  return value;
}

const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : 0);
const list = (value) => (Array.isArray(value) ? value : []);
