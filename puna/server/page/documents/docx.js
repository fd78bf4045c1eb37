// Reads a Word document (ECMA-376): its paragraphs as Markdown, with headings, lists, tables and footnotes.

import { FORMULA_CLOSERS, FORMULA_OPENERS, tidied } from "./docx_formulas.js";
import { DocumentProblem } from "./problem.js";
import { readXml } from "./xml.js";

const MAX_PART = 32 << 20; // bytes of document.xml; a book of a thousand pages has 20 MiB
const MAIN = "word/document.xml";

// Elements whose inside is no text of the document: what was deleted, and the second copy of a shape for older programs.
const SKIPPED = new Set(["del", "moveFrom", "Fallback", "rPr", "sectPr", "pPrChange"]);

/** The name of the document inside of the archive; "" if this is no Word document. */
export function mainPartOf(zip) {
  return zip.entries.has(MAIN) ? MAIN : [...zip.entries.keys()].find((name) => /^word\/document\d*\.xml$/.test(name)) ?? "";
}

/** `{ text }` of a Word document. */
export async function readDocx(zip, pace) {
  const folder = mainPartOf(zip).replace(/[^/]*$/, "");
  const part = (name) => textOf(zip.read(folder + name, MAX_PART));
  const look = { styles: stylesOf(part("styles.xml")), numbering: numberingOf(part("numbering.xml")) };
  const body = new Story(look);
  await body.read(textOf(zip.read(mainPartOf(zip), MAX_PART)), pace);
  const notes = await notesOf(part, look, body.notes, pace);
  const text = joined([...body.blocks, ...notes]);
  if (!text.trim()) throw new DocumentProblem("fileEmpty");
  return { text };
}

const textOf = (bytes) => (bytes ? new TextDecoder(bytes[0] === 0xff ? "utf-16le" : "utf-8").decode(bytes) : "");

/** Blocks are a line apart from each other, those of a list are not. */
function joined(blocks) {
  return blocks.map((block, at) => (at === 0 ? "" : block.isItem && blocks[at - 1].isItem ? "\n" : "\n\n") + block.text).join("");
}

/** One flow of text: the document, or its footnotes. */
class Story {
  constructor(look) {
    Object.assign(this, { look, blocks: [], paragraphs: [], tables: [], fences: [], names: [], skipped: 0, counters: new Map(), notes: new Set() });
  }

  async read(source, pace) {
    let count = 0;
    for (const event of readXml(source)) {
      this.take(event);
      count += 1;
      if (count % 256 === 0) await pace.pause();
    }
  }

  take({ open, close, text }) {
    if (open) this.open(open);
    else if (close !== undefined) this.close(close);
    else if (!this.skipped && this.names.at(-1) === "t") this.write(text);
  }

  open(tag) {
    this.names.push(tag.local);
    if (SKIPPED.has(tag.local)) this.skipped += 1;
    if (!this.skipped) OPENERS[tag.local]?.(this, tag);
  }

  close(name) {
    const at = this.names.lastIndexOf(name);
    if (at < 0) return;
    for (const left of this.names.splice(at)) if (SKIPPED.has(left)) this.skipped -= 1;
    if (!this.skipped) CLOSERS[name]?.(this);
  }

  write(text) {
    const last = this.paragraphs.at(-1);
    if (last) last.text += text;
  }

  /** What a run holds beside text. The same names elsewhere tell the place of a tab. */
  writeInRun(text) {
    if (this.names.at(-2) === "r") this.write(text);
  }

  endParagraph() {
    const paragraph = this.paragraphs.pop();
    const cell = this.tables.at(-1)?.rows.at(-1)?.at(-1);
    const block = this.blockOf(paragraph);
    if (!block.text) return;
    if (cell) cell.push(block.text);
    else this.blocks.push(block);
  }

  blockOf({ text, style, level, list }) {
    const known = this.look.styles.get(style) ?? {};
    const words = tidied(text.trim());
    const heading = level ?? known.heading;
    const number = words ? this.numberOf(list ?? known.list) : null;
    if (heading !== undefined && words) return { text: headingText(heading, (number?.mark ?? "") + words) };
    if (number) return { text: `${"  ".repeat(number.level)}${number.mark}${words}`, isItem: true };
    return { text: words };
  }

  /** What stands before the paragraph of a list: a bullet or its number. null: it is in no list. */
  numberOf(list) {
    const levels = list && this.look.numbering.get(list.id);
    const level = levels?.[list.level];
    if (!level || level.format === "none") return null;
    if (level.format === "bullet") return { level: list.level, mark: "- " };
    const counts = this.count(list, levels);
    const mark = level.text.replaceAll(/%([1-9])/g, (_, at) => numeral(counts[at - 1] ?? 1, levels[at - 1]?.format));
    return { level: list.level, mark: `${mark || "-"} ` };
  }

  /** Counts on in a list. A level begins anew after one above it. */
  count({ level }, levels) {
    const counts = this.counters.get(levels) ?? [];
    for (let at = 0; at <= level; at += 1) counts[at] ??= levels[at]?.start - (at === level ? 1 : 0) || 0;
    counts[level] += 1;
    counts.length = level + 1;
    this.counters.set(levels, counts);
    return counts;
  }

  /** A cell that is wider than one column is followed by empty ones. */
  endCell() {
    const table = this.tables.at(-1);
    for (let at = 1; at < (table?.span ?? 1); at += 1) table.rows.at(-1)?.push([]);
    if (table) table.span = 1;
  }

  endTable() {
    const { rows } = this.tables.pop();
    const outer = this.tables.at(-1)?.rows.at(-1)?.at(-1);
    if (outer) outer.push(rows.map((row) => row.map(cellText).join(" ")).join("; "));
    else if (rows.length) this.blocks.push({ text: tableText(rows) });
  }

  refer(tag, prefix) {
    const id = prefix + tag.attribute("id");
    this.notes.add(id);
    this.write(`[^${id}]`);
  }
}

const headingText = (level, words) => `${"#".repeat(Math.min(6, level))} ${words.replaceAll("\n", " ")}`;
const cellText = (cell) => cell.join(" ").replaceAll("\n", " ").replaceAll("|", "\\|");

/** Rows in Markdown. A table of one cell is only a frame. */
function tableText(rows) {
  if (rows.length === 1 && rows[0].length === 1) return rows[0][0].join("\n\n");
  const width = Math.max(...rows.map((row) => row.length));
  const line = (cells) => `| ${Array.from({ length: width }, (_, at) => cells[at] ?? "").join(" | ")} |`;
  const [head, ...rest] = rows.map((row) => line(row.map(cellText)));
  return [head, line(Array(width).fill("---")), ...rest].join("\n");
}

const last = (story) => story.paragraphs.at(-1) ?? {};

const OPENERS = {
  ...FORMULA_OPENERS,
  p: (story) => story.paragraphs.push({ text: "" }),
  pStyle: (story, tag) => (last(story).style = tag.attribute("val")),
  outlineLvl: (story, tag) => (last(story).level = headingOf(tag)),
  numPr: (story) => (last(story).list = { level: 0 }),
  ilvl: (story, tag) => Object.assign(last(story).list ?? {}, { level: Math.min(8, Number(tag.attribute("val")) || 0) }),
  numId: (story, tag) => Object.assign(last(story).list ?? {}, { id: tag.attribute("val") }),
  tab: (story) => story.writeInRun("\t"),
  br: (story) => story.writeInRun("\n"),
  cr: (story) => story.writeInRun("\n"),
  noBreakHyphen: (story) => story.writeInRun("\u2011"),
  tbl: (story) => story.tables.push({ rows: [] }),
  tr: (story) => story.tables.at(-1)?.rows.push([]),
  tc: (story) => story.tables.at(-1)?.rows.at(-1)?.push([]),
  gridSpan: (story, tag) => Object.assign(story.tables.at(-1) ?? {}, { span: Math.min(60, Number(tag.attribute("val")) || 1) }),
  footnoteReference: (story, tag) => story.refer(tag, ""),
  endnoteReference: (story, tag) => story.refer(tag, "e"),
};

const CLOSERS = {
  ...FORMULA_CLOSERS,
  p: (story) => story.paragraphs.length && story.endParagraph(),
  tc: (story) => story.endCell(),
  tbl: (story) => story.tables.length && story.endTable(),
};

/** Level 0 of Word is a heading of the first level; 9 is plain text. */
function headingOf(tag) {
  const level = Number(tag.attribute("val"));
  return level >= 0 && level < 9 ? level + 1 : undefined;
}

/** What each style means: the level of a heading, or a list. Its name is English in every language of Word. */
function stylesOf(source) {
  const styles = new Map();
  let style = {};
  for (const { open } of readXml(source)) {
    if (open?.local === "style") styles.set(open.attribute("styleId"), (style = {}));
    else if (open) STYLE_READERS[open.local]?.(style, open);
  }
  return styles;
}

const STYLE_READERS = {
  name: (style, tag) => {
    const [, level] = /^heading (\d)$/i.exec(tag.attribute("val") ?? "") ?? [];
    if (level) style.heading = Number(level);
    else if (/^title$/i.test(tag.attribute("val") ?? "")) style.heading = 1;
  },
  outlineLvl: (style, tag) => (style.heading ??= headingOf(tag)),
  numPr: (style) => (style.list = { level: 0 }),
  ilvl: (style, tag) => style.list && (style.list.level = Math.min(8, Number(tag.attribute("val")) || 0)),
  numId: (style, tag) => style.list && (style.list.id = tag.attribute("val")),
};

/** The levels of each list by its number: `{ format, text, start }`. */
function numberingOf(source) {
  const state = { abstracts: new Map(), numbers: new Map(), levels: [], number: "" };
  for (const { open } of readXml(source)) if (open) NUMBERING_READERS[open.local]?.(state, open);
  return new Map([...state.numbers].map(([id, abstract]) => [id, state.abstracts.get(abstract) ?? []]));
}

const NUMBERING_READERS = {
  abstractNum: (state, tag) => state.abstracts.set(tag.attribute("abstractNumId"), (state.levels = [])),
  lvl: (state) => state.levels.length < 9 && state.levels.push({ format: "decimal", text: "", start: 1 }),
  numFmt: (state, tag) => Object.assign(state.levels.at(-1) ?? {}, { format: tag.attribute("val") }),
  lvlText: (state, tag) => Object.assign(state.levels.at(-1) ?? {}, { text: tag.attribute("val") ?? "" }),
  start: (state, tag) => Object.assign(state.levels.at(-1) ?? {}, { start: Number(tag.attribute("val")) || 0 }),
  num: (state, tag) => (state.number = tag.attribute("numId")),
  abstractNumId: (state, tag) => state.numbers.set(state.number, tag.attribute("val")),
};

const ROMAN = [
  ["m", 1000], ["cm", 900], ["d", 500], ["cd", 400], ["c", 100], ["xc", 90], ["l", 50], ["xl", 40], ["x", 10], ["ix", 9], ["v", 5], ["iv", 4],
  ["i", 1],
];

function roman(count) {
  let [rest, text] = [Math.min(count, 3999), ""];
  for (const [letters, value] of ROMAN) for (; rest >= value; rest -= value) text += letters;
  return text;
}

const letter = (count) => String.fromCharCode(97 + ((count - 1) % 26)).repeat(Math.min(9, Math.ceil(count / 26)));
const NUMERALS = {
  lowerLetter: letter,
  upperLetter: (count) => letter(count).toUpperCase(),
  lowerRoman: roman,
  upperRoman: (count) => roman(count).toUpperCase(),
};
const numeral = (count, format) => NUMERALS[format]?.(count) ?? String(count);

// --- notes

const NOTES = [["footnotes.xml", "footnote", ""], ["endnotes.xml", "endnote", "e"]];

/** The notes that the document refers to, as blocks. */
async function notesOf(part, look, wanted, pace) {
  const blocks = [];
  for (const [name, element, prefix] of NOTES) {
    if (!wanted.size) break;
    const source = part(name);
    for (const [id, inner] of elementsOf(source, element)) {
      if (!wanted.has(prefix + id)) continue;
      const story = new Story(look);
      await story.read(inner, pace);
      blocks.push({ text: `[^${prefix}${id}]: ${joined(story.blocks).replaceAll(/\s*\n\s*/g, " ")}`, isItem: true });
    }
  }
  return blocks;
}

/** The inside of each element of that name, with its id. */
function* elementsOf(source, name) {
  for (const piece of source.split(new RegExp(`(?=<(?:\\w+:)?${name}[\\s>])`)).slice(1)) {
    const [, id] = /^[^>]*?\bid="(-?\d+)"/.exec(piece) ?? [];
    if (id) yield [id, piece];
  }
}
