// The text and the widths of a font's codes (ISO 32000-1, 9.5 to 9.10).

import { ENCODINGS, LABELS, OF_FONTS, encodingOfBitmaps } from "./encodings.js";
import { readCMap } from "./cmap.js";
import { textOfGlyph } from "./glyph_names.js";
import { Name, Stream, isName } from "./objects.js";
import { widthOf } from "./widths.js";

const SPACE = 32;
const MAX_CODE_SIZE = 4;
const MAX_WIDTHS = 200_000;
const SYMBOLIC = 4; // a flag of a font whose codes are its own

/** Ligatures, and letters that Unicode has twice, as plain letters. Other characters stay: a superscript two is no 2. */
const TWICE = /[\u2e80-\u2fd5\uf900-\ufaff\ufb00-\ufb06]/gu;

export const plainLetters = (text) => text.replaceAll(TWICE, (one) => one.normalize("NFKC")).replaceAll("\0", "");

/** A font, from its dictionary. */
export function fontOf(dictionary, file) {
  const isComposite = isName(file.get(dictionary, "Subtype"), "Type0");
  return isComposite ? new CompositeFont(dictionary, file) : new SimpleFont(dictionary, file);
}

function toUnicode(dictionary, file) {
  const stream = file.get(dictionary, "ToUnicode");
  return stream instanceof Stream ? readCMap(file.data(stream), file.pace) : { texts: new Map(), cids: new Map(), spaces: [] };
}

const nameOf = (value) => (value instanceof Name ? value.text.replace(/^[A-Z]{6}\+/, "") : "");

/** A font of 256 codes of one byte. */
class SimpleFont {
  isVertical = false;
  #known = []; // the glyphs by their codes

  constructor(dictionary, file) {
    this.name = nameOf(file.get(dictionary, "BaseFont"));
    this.map = toUnicode(dictionary, file).texts;
    this.descriptor = file.dictionary(dictionary, "FontDescriptor");
    this.encoding = encodingOf(dictionary, this, file);
    this.first = file.get(dictionary, "FirstChar") ?? 0;
    this.widths = file.list(dictionary, "Widths");
    this.missing = file.get(this.descriptor, "MissingWidth");
    const matrix = file.list(dictionary, "FontMatrix");
    this.scale = isName(file.get(dictionary, "Subtype"), "Type3") ? Math.abs(matrix[0] || 0.001) : 0.001;
  }

  /** The glyphs of a string: `{ text, width, isSpace }`, widths in parts of the font's size. An unknown text is null. */
  glyphs(bytes) {
    return Array.from(bytes, (code) => (this.#known[code] ??= this.#glyph(code)));
  }

  #glyph(code) {
    const text = this.map.get(code) ?? this.encoding[code] ?? null;
    return { text: text && plainLetters(text), width: this.#width(code, text ?? ""), isSpace: code === SPACE };
  }

  #width(code, text) {
    const told = this.widths[code - this.first] ?? (this.widths.length ? this.missing ?? 0 : this.missing);
    return (Number.isFinite(told) ? told : widthOf(this.name, text)) * this.scale;
  }
}

/** What each code of a simple font means: a base encoding, and where the font differs. */
function encodingOf(dictionary, font, file) {
  const told = file.get(dictionary, "Encoding");
  const base = told instanceof Map ? file.get(told, "BaseEncoding") : told;
  const made = [...(ENCODINGS[nameOf(base)] ?? ownEncoding(dictionary, font, file))];
  const names = told instanceof Map ? namesOf(file.list(told, "Differences")) : [];
  const bitmaps = encodingOfBitmaps(names.filter(([code, name]) => name === `a${code}`).map(([code]) => code));
  for (const [code, name] of names) made[code] = textOfGlyph(name) || (name === `a${code}` && bitmaps[code]) || null;
  return made;
}

/** Pairs of a code and a name: "65 /A /B 97 /a" names the codes 65, 66 and 97. */
function namesOf(differences) {
  const found = [];
  let code = 0;
  for (const one of differences) {
    if (Number.isInteger(one)) code = one;
    else if (one instanceof Name && code < 256) found.push([code++, one.text]);
  }
  return found;
}

/** The encoding that a font has by itself. */
function ownEncoding(dictionary, font, file) {
  const known = OF_FONTS[font.name];
  if (known) return known;
  const program = file.get(font.descriptor, "FontFile");
  if (program instanceof Stream) return encodingOfProgram(file.data(program));
  const isTrueType = isName(file.get(dictionary, "Subtype"), "TrueType");
  return isTrueType || file.get(font.descriptor, "Flags") & SYMBOLIC ? ENCODINGS.WinAnsiEncoding : ENCODINGS.StandardEncoding;
}

/** A Type 1 font lists its glyphs in clear text: "dup 65 /A put". */
function encodingOfProgram(bytes) {
  const clear = new TextDecoder("latin1").decode(bytes.subarray(0, 1 << 16)).split("eexec", 1)[0];
  const made = [...ENCODINGS.StandardEncoding];
  if (/\/Encoding\s+StandardEncoding/.test(clear)) return made;
  made.fill(null);
  for (const [, code, name] of clear.matchAll(/dup\s+(\d{1,3})\s*\/([^\s/]+)\s+put/g)) made[Number(code)] = textOfGlyph(name) || null;
  return made;
}

/** A font of many glyphs, whose codes are longer than a byte (9.7). */
class CompositeFont {
  #known = new Map(); // the glyphs by the bytes of their codes

  constructor(dictionary, file) {
    const [descendant] = file.list(dictionary, "DescendantFonts");
    this.descendant = descendant instanceof Map ? descendant : new Map();
    this.map = toUnicode(dictionary, file).texts;
    const encoding = file.get(dictionary, "Encoding");
    this.code = encoding instanceof Stream ? readCMap(file.data(encoding), file.pace) : { cids: new Map(), spaces: [] };
    const name = encoding instanceof Stream ? nameOf(file.get(encoding.dictionary, "CMapName")) : nameOf(encoding);
    const [, label] = LABELS.find(([pattern]) => pattern.test(name)) ?? [];
    this.decoder = label ? new TextDecoder(label) : null;
    this.isWide = !label || label === "utf-16be";
    this.isVertical = name.endsWith("V") || (encoding instanceof Stream && file.get(encoding.dictionary, "WMode") === 1);
    this.widths = widthsOf(file.list(this.descendant, "W"), file);
    this.missing = file.get(this.descendant, "DW") ?? 1000;
  }

  glyphs(bytes) {
    const found = [];
    for (let at = 0; at < bytes.length; ) {
      const size = Math.max(1, this.#sizeAt(bytes, at));
      found.push(this.#glyphAt(bytes.subarray(at, at + size)));
      at += size;
    }
    return found;
  }

  #glyphAt(bytes) {
    const key = bytes.length === 2 ? bytes[0] * 256 + bytes[1] : bytes.join();
    if (!this.#known.has(key)) this.#known.set(key, this.#glyph(bytes));
    return this.#known.get(key);
  }

  #glyph(bytes) {
    const code = bytes.reduce((value, byte) => value * 256 + byte, 0);
    const text = this.map.get(code) ?? this.decoder?.decode(bytes) ?? null;
    const width = (this.widths.get(this.code.cids.get(code) ?? code) ?? this.missing) / 1000;
    return { text: text && plainLetters(text), width: Number.isFinite(width) ? width : 1, isSpace: bytes.length === 1 && code === SPACE };
  }

  /** How many bytes the next code has. */
  #sizeAt(bytes, at) {
    if (!this.code.spaces.length) return this.isWide ? 2 : bytes[at] < 0x81 ? 1 : 2;
    for (let [size, code] = [1, 0]; size <= MAX_CODE_SIZE && at + size <= bytes.length; size += 1) {
      code = code * 256 + bytes[at + size - 1];
      if (this.code.spaces.some((one) => one.size === size && code >= one.low && code <= one.high)) return size;
    }
    return this.code.spaces[0].size;
  }
}

/** The widths of a composite font: "first [w w w]" and "first last w" (9.7.4.3). */
function widthsOf(list, file) {
  const widths = new Map();
  let left = MAX_WIDTHS;
  for (let at = 0; at + 1 < list.length; ) {
    const [first, second, third] = list.slice(at, at + 3);
    if (Array.isArray(second)) second.forEach((width, place) => widths.set(first + place, file.resolve(width)));
    else for (let code = first; code <= second && left > 0; code += 1, left -= 1) widths.set(code, third);
    at += Array.isArray(second) ? 2 : 3;
    file.pace.check();
  }
  return widths;
}
