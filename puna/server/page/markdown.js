// Reads Markdown into plain data: blocks, and the pieces of a line. It knows nothing of the page; markdown_view.js shows it.
// Every step moves on by at least one character or line, and what a search did not find is not searched again.

const MAX_DEPTH = 8; // of lists in quotes in lists; deeper ones are text

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])\s*(?:\1\s*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const MATH_OPEN = /^\s*(?:(\$\$|\\\[)|\\begin\{((?:equation|align|alignat|gather|multline|eqnarray|displaymath)\*?)\})/;
const MATH_CLOSE = { "$$": "$$", "\\[": "\\]" };
const MAX_MATH_LINES = 200;

// A reader takes the lines and the number of the first one. It gives a block and the number of the line after it, or null.
const READERS = [readFence, readMath, readHeading, readRule, readQuote, readList, readTable];

/** The blocks of a text. Each has a `kind`, and `source`: the lines it was read from. */
export function readBlocks(text, depth = 0) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const { block, next } = readBlock(lines, at, depth) ?? readParagraph(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, next).join("\n") });
    at = next;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  for (const reader of READERS) {
    const found = reader(lines, at, depth);
    if (found) return found;
  }
  return null;
}

function readFence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return null;
  const isEnd = (line) => line.trim().length >= open[1].length && line.trim() === open[1][0].repeat(line.trim().length);
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  return { block: { kind: "code", language: open[2].trim().split(/\s/)[0], text: code }, next: Math.min(end + 1, lines.length) };
}

/** A formula of its own. One whose end is missing is text: it may be still on its way, or be no formula. */
function readMath(lines, at) {
  const open = MATH_OPEN.exec(lines[at]);
  if (!open) return null;
  const close = open[2] ? `\\end{${open[2]}}` : MATH_CLOSE[open[1]];
  const end = endOfMath(lines, at, open[0].length, close);
  if (end < 0) return null;
  const whole = lines.slice(at, end + 1).join("\n").trim();
  const [, inner, mark] = /^([\s\S]*?)([.,;:]?)$/.exec(whole);
  const text = open[2] ? inner : inner.slice(open[1].length, -close.length).trim();
  if (!open[2] && text.includes(close)) return null; // two formulas with words between them
  return { block: { kind: "math", text: text + mark }, next: end + 1 };
}

/** The line that ends with `close`, perhaps with a full stop after it; -1 if there is none. */
function endOfMath(lines, at, start, close) {
  for (let end = at; end < Math.min(lines.length, at + MAX_MATH_LINES); end += 1) {
    const line = (end === at ? lines[end].slice(start) : lines[end]).trimEnd().replace(/[.,;:]$/, "");
    if (line.endsWith(close)) return end;
    if (close === "$$" && !line.trim() && end > at) return -1;
  }
  return -1;
}

function readHeading(lines, at) {
  const found = HEADING.exec(lines[at]);
  return found && { block: { kind: "heading", level: found[1].length, pieces: readPieces(found[2]) }, next: at + 1 };
}

function readRule(lines, at) {
  return RULE.test(lines[at]) ? { block: { kind: "rule" }, next: at + 1 } : null;
}

function readQuote(lines, at, depth) {
  if (!QUOTE.test(lines[at]) || depth >= MAX_DEPTH) return null;
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, "")).join("\n");
  return { block: { kind: "quote", blocks: readBlocks(inner, depth + 1) }, next: end };
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  if (!first || depth >= MAX_DEPTH) return null;
  const isOrdered = /\d/.test(first[2]);
  const items = [];
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (!item || /\d/.test(item[2]) !== isOrdered || item[1].length > first[1].length + 1 || RULE.test(lines[next])) break;
    const read = readItem(lines, next, item);
    items.push(readBlocks(read.text, depth + 1));
    next = read.next;
    while (next < lines.length && !lines[next].trim() && ITEM.test(lines[next + 1] ?? "")) next += 1;
  }
  return { block: { kind: "list", isOrdered, start: isOrdered ? Number.parseInt(first[2], 10) : 1, items }, next };
}

/** The lines of an item: those that are indented, and those that go on with its paragraph. */
function readItem(lines, at, item) {
  const indent = item[1].length + Math.min(2, item[2].length + 1);
  const taken = [lines[at].slice(item[0].length)];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const isIndented = line.search(/\S/) >= indent;
    if (!line.trim() ? !isGoingOn(lines, next + 1, indent) : !isIndented && !isPlain(line)) break;
    if (!lines[next - 1].trim() && !isIndented && line.trim()) break;
    taken.push(isIndented ? line.slice(indent) : line);
  }
  return { text: taken.join("\n"), next };
}

const isGoingOn = (lines, at, indent) => at < lines.length && lines[at].search(/\S/) >= indent;
const isPlain = (line) => ![FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line));

function readTable(lines, at) {
  if (!lines[at].includes("|") || !TABLE_RULE.test(lines[at + 1] ?? "") || !lines[at + 1].includes("-")) return null;
  const head = cellsOf(lines[at]);
  const sides = cellsOf(lines[at + 1]).map(sideOf);
  if (sides.length !== head.length) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
  const rows = lines.slice(at + 2, end).map((line) => cellsOf(line).slice(0, head.length));
  const readRow = (row) => row.map((cell) => readPieces(cell));
  return { block: { kind: "table", head: readRow(head), sides, rows: rows.map(readRow) }, next: end };
}

function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function sideOf(rule) {
  if (rule.endsWith(":")) return rule.startsWith(":") ? "middle" : "right";
  return "left";
}

function readParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines, end, depth)) end += 1;
  return { block: { kind: "paragraph", pieces: readPieces(lines.slice(at, end).join("\n").trim()) }, next: end };
}

/** What may begin in the middle of a paragraph. Of numbered lists only those that begin at 1. */
function startsBlock(lines, at, depth) {
  const item = ITEM.exec(lines[at]);
  if (item) return depth < MAX_DEPTH && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1);
  if (MATH_OPEN.test(lines[at])) return readMath(lines, at) !== null;
  return !isPlain(lines[at]) || readTable(lines, at) !== null;
}

const ESCAPED = /\\([!-/:-@[-`{-~])/y;
const LINK = /!?\[([^\]\n]{0,500})\]\(\s*<?([^)\s<>]{1,2000})>?(?:\s+"[^"\n]{0,200}")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`|\\^{}]{1,2000}/y;
const SAFE_ADDRESS = /^(?:https?:\/\/|mailto:)/i; // nothing else becomes a link
const PLAIN = /[^\\`*_~$![\nh]+/y;
const WORD = /[\p{L}\p{N}]/u;

// The marks around a piece, the longest first.
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "deleted"], ["*", "emphasis"], ["_", "emphasis"]];

/** The pieces of a paragraph, each with a `kind`: text, code, math, break, link, strong, emphasis, deleted. */
export function readPieces(text, depth = 0) {
  const reader = new PieceReader(text, depth);
  while (reader.at < text.length) reader.step();
  return reader.pieces;
}

/** Of a text that is no Markdown but may hold formulas: pieces of the kinds text and math, each with the `source` it was read from. */
export function readFormulas(text) {
  const reader = new FormulaReader(text, 0);
  while (reader.at < text.length) reader.step();
  return reader.pieces;
}

class PieceReader {
  afterDollars = /\d/; // what may not follow a formula in dollars

  constructor(text, depth) {
    Object.assign(this, { text, depth, at: 0, pieces: [] });
    this.missing = new Set(); // ends that do not come any more
  }

  step() {
    const readers = [this.plain, this.lineBreak, this.escaped, this.code, this.math, this.link, this.address, this.marked];
    if (!readers.some((reader) => reader.call(this))) this.put(this.text[this.at], this.at + 1);
  }

  put(text, next) {
    const last = this.pieces.at(-1);
    if (last?.kind === "text") last.text += text;
    else this.pieces.push({ kind: "text", text });
    this.at = next;
    return true;
  }

  add(piece, next) {
    this.pieces.push(piece);
    this.at = next;
    return true;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    return pattern.exec(this.text);
  }

  /** Where `end` comes next, from `from` on; -1 if it does not. */
  find(end, from) {
    if (this.missing.has(end)) return -1;
    const found = this.text.indexOf(end, from);
    if (found < 0) this.missing.add(end);
    return found;
  }

  plain() {
    const found = this.match(PLAIN);
    return found && this.put(found[0], this.at + found[0].length);
  }

  lineBreak() {
    return this.text[this.at] === "\n" && this.add({ kind: "break" }, this.at + 1);
  }

  escaped() {
    const found = this.match(ESCAPED);
    if (!found || found[1] === "(" || found[1] === "[") return false;
    return this.put(found[1], this.at + 2);
  }

  code() {
    if (this.text[this.at] !== "`") return false;
    const ticks = this.match(/`+/y)[0];
    let end = this.find(ticks, this.at + ticks.length);
    while (end >= 0 && this.text[end + ticks.length] === "`") end = this.find(ticks, this.pastTicks(end));
    if (end < 0) return this.put(ticks, this.at + ticks.length);
    const inner = this.text.slice(this.at + ticks.length, end).replaceAll("\n", " ");
    const isPadded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
    return this.add({ kind: "code", text: isPadded ? inner.slice(1, -1) : inner }, end + ticks.length);
  }

  pastTicks(from) {
    let end = from;
    while (this.text[end] === "`") end += 1;
    return end;
  }

  math() {
    if (this.text.startsWith("\\(", this.at)) return this.mathUntil("\\)", false);
    if (this.text.startsWith("\\[", this.at)) return this.mathUntil("\\]", true);
    if (this.text.startsWith("$$", this.at)) return this.mathUntil("$$", true);
    return this.text[this.at] === "$" && this.dollars();
  }

  /** A formula between marks of two characters. While its end is on its way, all of it is plain text. */
  mathUntil(end, isBlock) {
    const close = this.find(end, this.at + 2);
    if (close < 0) return end !== "$$" && this.put(this.text.slice(this.at), this.text.length);
    return this.add({ kind: "math", isBlock, text: this.text.slice(this.at + 2, close).trim() }, close + 2);
  }

  /** $x$ is a formula; "$5 and $6" are prices: a formula has no space or code inside its dollars, and no digit after them. */
  dollars() {
    let close = this.find("$", this.at + 1);
    while (close > 0 && this.text[close - 1] === "\\") close = this.find("$", close + 1);
    const inner = close < 0 ? "" : this.text.slice(this.at + 1, close);
    if (!inner || /^\s|\s$|\n\n|`/.test(inner) || this.afterDollars.test(this.text[close + 1] ?? "")) return false;
    return this.add({ kind: "math", isBlock: false, text: inner }, close + 1);
  }

  link() {
    const found = this.match(LINK);
    if (!found) return false;
    const next = this.at + found[0].length;
    if (!SAFE_ADDRESS.test(found[2])) return this.put(found[0], next);
    const pieces = this.depth < MAX_DEPTH ? readPieces(found[1] || found[2], this.depth + 1) : [{ kind: "text", text: found[1] }];
    return this.add({ kind: "link", address: found[2], pieces }, next);
  }

  address() {
    const found = this.match(ADDRESS);
    if (!found) return false;
    const address = found[0].replace(/[.,;:!?)\]*_]+$/, "");
    return this.add({ kind: "link", address, pieces: [{ kind: "text", text: address }] }, this.at + address.length);
  }

  marked() {
    const [mark, kind] = MARKS.find(([one]) => this.text.startsWith(one, this.at)) ?? [];
    if (!mark || this.depth >= MAX_DEPTH) return false;
    const end = this.endOf(mark);
    if (end < 0) return this.put(mark, this.at + mark.length);
    const inner = this.text.slice(this.at + mark.length, end);
    return this.add({ kind, pieces: readPieces(inner, this.depth + 1) }, end + mark.length);
  }

  /** Where a marked piece ends; -1 where the mark means itself, as in 2 * 3 and snake_case. */
  endOf(mark) {
    const start = this.at + mark.length;
    if (/\s/.test(this.text[start] ?? " ") || (mark[0] === "_" && WORD.test(this.text[this.at - 1] ?? ""))) return -1;
    for (let end = this.find(mark, start + 1); end >= 0; end = this.find(mark, end + 1)) {
      if (this.isEnd(mark, end)) return end;
    }
    this.missing.add(mark);
    return -1;
  }

  isEnd(mark, end) {
    const [before, after] = [this.text[end - 1], this.text[end + mark.length] ?? ""];
    if (/\s/.test(before) || (mark[0] === "_" && WORD.test(after))) return false;
    return mark.length > 1 ? after !== mark[0] : after !== mark && before !== mark;
  }
}

/** Leaves everything but formulas as it was typed, so $HOME/$USER and code are no formulas. */
class FormulaReader extends PieceReader {
  afterDollars = WORD;

  step() {
    const [start, count] = [this.at, this.pieces.length];
    if (this.text.startsWith("\\$", this.at)) this.put("\\$", this.at + 2);
    else if (!this.plain() && !this.math() && !this.code()) this.put(this.text[this.at], this.at + 1);
    const last = this.pieces.at(-1);
    if (last.kind === "math") last.source = this.text.slice(start, this.at);
    else if (last.kind === "code") this.#asText(start, count);
  }

  #asText(start, count) {
    this.pieces.length = count;
    this.put(this.text.slice(start, this.at), this.at);
  }
}
