// A chat is a tree of messages. An edited message or another answer becomes a sibling, so one can go back to the first.
// `nodes` lists them in the order of their making; `chosen` tells which child of a message is shown.

const ROOT = "root";

/** Random and short. crypto.randomUUID is missing on pages that came by plain http from another machine. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newChat(system) {
  const now = Date.now();
  return { id: newId(), title: "", system, createdAt: now, updatedAt: now, nodes: [], chosen: {} };
}

/** A copy to keep: an answer that is still coming is one that the page left, should it not come back to it. */
export function settled(chat) {
  return structuredClone({ ...chat, nodes: chat.nodes.map((node) => (node.live ? { ...node, live: null, finish: "left" } : node)) });
}

/** Adds a message below another one, or at the top (null), and shows it. */
export function addNode(chat, parent, fields) {
  const node = { id: newId(), parent: parent?.id ?? ROOT, at: Date.now(), content: "", ...fields };
  chat.nodes.push(node);
  chooseNode(chat, node);
  return node;
}

/** Shows a message in the place of its siblings. */
export function chooseNode(chat, node) {
  chat.chosen[node.parent] = node.id;
}

export const siblingsOf = (chat, node) => chat.nodes.filter((other) => other.parent === node.parent);
export const parentOf = (chat, node) => chat.nodes.find((other) => other.id === node.parent) ?? null;

/** Whether an answer is one to compare with another: nothing but the model or the person ended it. */
export const isWhole = (node) => ["stop", "length", "full", "stopped"].includes(node.finish);

/** The messages that are shown, from the first on. */
export function shownNodes(chat) {
  const shown = [];
  for (let node = childOf(chat, ROOT); node; node = childOf(chat, node.id)) shown.push(node);
  return shown;
}

function childOf(chat, id) {
  const children = chat.nodes.filter((node) => node.parent === id);
  return children.find((node) => node.id === chat.chosen[id]) ?? children.at(-1);
}

/** The messages of a request whose answer comes after `last`. `instructions`: the system prompt. */
export function messagesUpTo(chat, last, instructions = chat.system) {
  const nodes = [];
  for (let node = last; node; node = parentOf(chat, node)) nodes.unshift(node);
  const system = instructions.trim() ? [{ role: "system", content: instructions }] : [];
  return [...system, ...nodes.map(messageOf)];
}

/** Thoughts go back with the answer they led to: a model's template decides what it shows the model of them. */
export function messageOf(node) {
  const thoughts = node.reasoning ? { reasoning_content: node.reasoning } : {};
  return { role: node.role, content: textOf(node), ...thoughts };
}

/** What the model reads of a message: its files first, then the words that refer to them. */
export function textOf(node) {
  const files = (node.files ?? []).map((file) => `${headOf(file)}:\n${fenced(file.text)}\n\n`);
  return files.join("") + node.content;
}

/** What the model is told of a file before its text. */
function headOf({ name, pages, readPages, isCut }) {
  if (!isCut) return name;
  return pages && readPages < pages ? `${name} (pages 1 to ${readPages} of ${pages})` : `${name} (its beginning)`;
}

/** A code block whose fence is longer than any in the text. */
function fenced(text) {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`{3,}/g), (match) => match[0].length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

/** The title of a chat: its first words. */
export function titleOf(chat) {
  const first = chat.nodes.find((node) => node.role === "user");
  const words = first?.content.trim() || first?.files?.[0]?.name || "";
  return words.split("\n", 1)[0].slice(0, 80);
}

/** Whether a chat holds all of the words, in any message. */
export function isFound(chat, query) {
  const text = [chat.title, ...chat.nodes.map((node) => node.content)].join("\n").toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
