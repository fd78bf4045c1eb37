// Shows Markdown as elements. Everything is made of text nodes and of the few elements of the tables below.

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";
import { t } from "./languages.js";
import { formula, formulaInText } from "./mathematics.js";
import { readBlocks } from "./markdown.js";

const BLOCKS = {
  paragraph: (block) => element("p", {}, piecesOf(block.pieces)),
  // A message lies below the page's own headings.
  heading: (block) => element(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, piecesOf(block.pieces)),
  code: codeBlock,
  math: (block) => element("div", { class: "formula" }, formula(block.text, true)),
  rule: () => element("hr"),
  quote: (block) => element("blockquote", {}, block.blocks.map(blockOf)),
  list: listOf,
  table: tableOf,
};

const PIECES = {
  text: (piece) => document.createTextNode(piece.text),
  break: () => element("br"),
  code: (piece) => element("code", {}, piece.text),
  math: (piece) => formulaInText(piece.text, piece.isBlock),
  strong: (piece) => element("strong", {}, piecesOf(piece.pieces)),
  emphasis: (piece) => element("em", {}, piecesOf(piece.pieces)),
  deleted: (piece) => element("del", {}, piecesOf(piece.pieces)),
  link: (piece) =>
    element("a", { href: piece.address, title: piece.address, target: "_blank", rel: "noopener noreferrer" }, piecesOf(piece.pieces)),
};

const blockOf = (block) => BLOCKS[block.kind](block);
const piecesOf = (pieces) => pieces.map((piece) => PIECES[piece.kind](piece));

function codeBlock(block) {
  const head = element("div", { class: "code-head" }, element("span", {}, block.language), copyButton(() => block.text, t("copyCode")));
  return element("div", { class: "code" }, head, element("pre", { tabIndex: 0 }, element("code", {}, block.text)));
}

function listOf(block) {
  const items = block.items.map((blocks) => element("li", {}, itemOf(blocks)));
  return block.isOrdered ? element("ol", { start: block.start }, items) : element("ul", {}, items);
}

/** The first paragraph of an item stands beside its bullet, without the space of a paragraph. */
function itemOf(blocks) {
  const [first, ...rest] = blocks;
  if (first?.kind !== "paragraph") return blocks.map(blockOf);
  return [...piecesOf(first.pieces), ...rest.map(blockOf)];
}

function tableOf(block) {
  const row = (name) => (cells) => element("tr", {}, cells.map((cell, column) => cellOf(name, cell, block.sides[column])));
  const head = element("thead", {}, row("th")(block.head));
  const body = element("tbody", {}, block.rows.map(row("td")));
  return element("div", { class: "table", tabIndex: 0, role: "region", "aria-label": t("table") }, element("table", {}, head, body));
}

const cellOf = (name, cell, side) => element(name, { class: side }, piecesOf(cell));

/** Shows a text in `home`. Blocks whose source did not change stay as they are, so that a stream costs its last block only. */
export function showMarkdown(home, text) {
  const shown = home.sources ?? [];
  const blocks = readBlocks(text);
  let same = 0;
  while (same < blocks.length && blocks[same].source === shown[same]) same += 1;
  while (home.childNodes.length > same) home.lastChild.remove();
  home.append(...blocks.slice(same).map(blockOf));
  home.sources = blocks.map((block) => block.source);
}
