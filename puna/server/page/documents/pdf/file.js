// The objects of a PDF file by their numbers (ISO 32000-1, 7.5): found by the cross-reference table, or, where it is missing or wrong, by
// looking through the whole file for them.

import { DocumentProblem } from "../problem.js";
import { unpacked } from "./filters.js";
import { END, Lexer } from "./lexer.js";
import { Keyword, Ref, Stream, isKeyword, isName } from "./objects.js";

const MAX_STREAM = 32 << 20; // bytes of one stream
const MAX_TOTAL = 256 << 20; // bytes of all streams
const MAX_TABLES = 1000; // one for each time that the file was changed
const MAX_REFS = 32; // references to references
const TAIL = 2048; // where the place of the last table is told

const latin1 = (text) => Uint8Array.from(text, (one) => one.charCodeAt(0));

/** Where some bytes come next, from `at` on and before `end`; -1 if they do not. */
function find(bytes, wanted, at, end = bytes.length) {
  for (let start = bytes.indexOf(wanted[0], at); start >= 0 && start < end; start = bytes.indexOf(wanted[0], start + 1)) {
    if (wanted.every((byte, place) => bytes[start + place] === byte)) return start;
  }
  return -1;
}

const [START, ENDSTREAM, OBJ, TRAILER] = ["startxref", "endstream", "obj", "trailer"].map(latin1);

export class PdfFile {
  #places = new Map(); // number -> { at } in the file, or { holder, index } in an object stream
  #objects = new Map();
  #held = new Map(); // the objects of an object stream
  #reading = new Set();
  #unpacked = 0;
  #lastEnd = [0, -1]; // from where an end of a stream was looked for, and where it was found
  isRecovered = false; // it was damaged, and this is what was found of it

  /** Throws DocumentProblem for a file that cannot be read. */
  constructor(bytes, pace) {
    Object.assign(this, { bytes, pace, trailer: new Map() });
    if (!this.#readTables()) this.#recover();
    if (this.trailer.has("Encrypt")) throw new DocumentProblem("fileEncrypted");
  }

  /** The catalogue, from which all else is found. */
  get root() {
    return this.get(this.trailer, "Root");
  }

  /** What a value means: the object of a reference, or the value itself. */
  resolve(value) {
    let found = value;
    for (let count = 0; found instanceof Ref && count < MAX_REFS; count += 1) found = this.#object(found.number);
    return found instanceof Ref ? null : found;
  }

  /** The first entry of a dictionary that is there, resolved; undefined without one. */
  get(dictionary, ...names) {
    const name = names.find((one) => dictionary.has(one));
    return name === undefined ? undefined : this.resolve(dictionary.get(name));
  }

  /** The same where the entry must be a dictionary; an empty one stands for another thing. A stream counts as its dictionary. */
  dictionary(parent, name) {
    const found = this.get(parent, name);
    if (found instanceof Stream) return found.dictionary;
    return found instanceof Map ? found : new Map();
  }

  list(parent, name) {
    const found = this.get(parent, name);
    return Array.isArray(found) ? found.map((one) => this.resolve(one)) : [];
  }

  /** The bytes of a stream; none where its filter is unknown. */
  data(stream) {
    const get = (dictionary, ...names) => {
      const found = this.get(dictionary, ...names);
      return Array.isArray(found) ? found.map((one) => this.resolve(one)) : found;
    };
    const found = unpacked(stream, get, MAX_STREAM, this.pace) ?? new Uint8Array(0);
    this.#unpacked += found.length;
    if (this.#unpacked > MAX_TOTAL) throw new DocumentProblem("fileTooLong");
    return found;
  }

  /** Every object of the file that is a dictionary. */
  *dictionaries() {
    for (const number of [...this.#places.keys()].sort((one, other) => one - other)) {
      this.pace.check();
      const found = this.#object(number);
      if (found instanceof Map) yield found;
    }
  }

  // --- objects

  #object(number) {
    if (this.#objects.has(number)) return this.#objects.get(number);
    if (this.#reading.has(number)) return null; // it needs itself
    this.#reading.add(number);
    const found = this.#read(number);
    this.#reading.delete(number);
    this.#objects.set(number, found);
    return found;
  }

  #read(number) {
    const place = this.#places.get(number);
    if (!place) return null;
    if (place.holder !== undefined) return this.#objectsOf(place.holder).get(number) ?? null;
    const found = this.#objectAt(place.at, number);
    if (found !== undefined || this.isRecovered) return found ?? null;
    this.#recover();
    return this.#read(number);
  }

  /** The object at a place of the file; undefined if no object of that number is there. */
  #objectAt(at, number) {
    const lexer = new Lexer(this.bytes, at);
    const [first, , word] = [lexer.token(), lexer.token(), lexer.token()];
    if (first !== number || !isKeyword(word, "obj")) return undefined;
    const value = lexer.object();
    if (value instanceof Keyword) return null;
    if (!(value instanceof Map) || !isKeyword(lexer.token(), "stream")) return value;
    return this.#stream(value, lexer.at);
  }

  #stream(dictionary, at) {
    let start = at;
    if (this.bytes[start] === 13) start += 1;
    if (this.bytes[start] === 10) start += 1;
    return new Stream(dictionary, this.bytes.subarray(start, this.#endOfStream(start, this.get(dictionary, "Length"))));
  }

  /** The told length, if the stream ends there; else where `endstream` comes next. */
  #endOfStream(start, length) {
    const told = start + length;
    if (length >= 0 && told <= this.bytes.length && find(this.bytes, ENDSTREAM, told, told + 8) >= 0) return told;
    return this.#nextEnd(start);
  }

  /** The next end of a stream. It is remembered, as a damaged file may ask for the same one for each of its streams. */
  #nextEnd(start) {
    const [from, end] = this.#lastEnd;
    if (start >= from && start <= end) return end;
    const found = find(this.bytes, ENDSTREAM, start);
    this.#lastEnd = [start, found < 0 ? this.bytes.length : found];
    return this.#lastEnd[1];
  }

  #objectsOf(holder) {
    if (this.#held.has(holder)) return this.#held.get(holder);
    this.#held.set(holder, new Map()); // one that names itself holds nothing
    const stream = this.#object(holder);
    const found = stream instanceof Stream ? this.#readHolder(stream) : new Map();
    this.#held.set(holder, found);
    return found;
  }

  #readHolder(stream) {
    const bytes = this.data(stream);
    const [count, first] = [this.get(stream.dictionary, "N"), this.get(stream.dictionary, "First")];
    const heads = new Lexer(bytes);
    const found = new Map();
    for (let at = 0; at < count && heads.at < first; at += 1) {
      const [number, place] = [heads.token(), heads.token()];
      if (!Number.isInteger(number) || !Number.isInteger(place)) break;
      const value = new Lexer(bytes, first + place).object();
      found.set(number, value instanceof Keyword ? null : value);
      if (at % 64 === 0) this.pace.check();
    }
    return found;
  }

  // --- cross-reference tables

  /** Reads all tables, the newest first; false if one is wrong, or the catalogue is not found. */
  #readTables() {
    let at = this.#lastTable();
    const seen = new Set();
    const waiting = [at];
    while (waiting.length) {
      at = waiting.shift();
      if (seen.has(at)) continue;
      seen.add(at);
      const trailer = seen.size <= MAX_TABLES && Number.isInteger(at) && at >= 0 && at < this.bytes.length ? this.#table(at) : null;
      if (!trailer) return false;
      for (const [key, value] of trailer) if (!this.trailer.has(key)) this.trailer.set(key, value);
      waiting.push(...["XRefStm", "Prev"].filter((name) => trailer.has(name)).map((name) => trailer.get(name)));
    }
    return this.trailer.has("Encrypt") || this.root instanceof Map;
  }

  #lastTable() {
    const tail = this.bytes.subarray(-TAIL);
    let [found, at] = [-1, find(tail, START, 0)];
    for (; at >= 0; at = find(tail, START, at + 1)) found = at;
    return found < 0 ? -1 : new Lexer(tail, found + START.length).token();
  }

  /** Reads the table at a place; gives its trailer, or null. */
  #table(at) {
    const lexer = new Lexer(this.bytes, at);
    const first = lexer.token();
    if (isKeyword(first, "xref")) return this.#plainTable(lexer);
    return Number.isInteger(first) ? this.#packedTable(this.#objectAt(at, first)) : null;
  }

  #plainTable(lexer) {
    for (;;) {
      const first = lexer.token();
      if (isKeyword(first, "trailer")) break;
      const count = lexer.token();
      if (!Number.isInteger(first) || !Number.isInteger(count)) return null;
      for (let number = first; number < first + count; number += 1) {
        const [at, , kind] = [lexer.token(), lexer.token(), lexer.token()];
        if (!Number.isInteger(at) || !(kind instanceof Keyword) || kind === END) return null;
        if (kind.text === "n") this.#place(number, { at });
      }
    }
    const trailer = lexer.object();
    return trailer instanceof Map ? trailer : null;
  }

  #place(number, place) {
    if (!this.#places.has(number)) this.#places.set(number, place);
  }

  /** A table in a stream (7.5.8): rows of three numbers, as wide as W tells. */
  #packedTable(stream) {
    if (!(stream instanceof Stream)) return null;
    const widths = this.list(stream.dictionary, "W");
    const size = widths[0] + widths[1] + widths[2];
    if (!widths.slice(0, 3).every((width) => width >= 0 && width <= 8) || !(size > 0)) return null;
    const rows = new Rows(this.data(stream), widths, size);
    const sections = this.list(stream.dictionary, "Index");
    if (!sections.length) sections.push(0, this.get(stream.dictionary, "Size"));
    for (let at = 0; at + 1 < sections.length; at += 2) {
      for (let count = 0; count < sections[at + 1] && rows.isMore; count += 1) this.#packedRow(sections[at] + count, rows.next());
    }
    return stream.dictionary;
  }

  #packedRow(number, [kind, place, index]) {
    if (kind === 1) this.#place(number, { at: place });
    if (kind === 2) this.#place(number, { holder: place, index });
  }

  // --- recovery

  /** Looks through the whole file for objects. Of several with one number the last counts, as it was written last. */
  #recover() {
    this.isRecovered = true;
    this.#places.clear();
    this.#objects.clear();
    this.#held.clear();
    this.trailer = new Map();
    const holders = [];
    for (let at = find(this.bytes, OBJ, 0); at >= 0; at = find(this.bytes, OBJ, at + 3)) {
      this.pace.check();
      const [number, start] = this.#numberBefore(at);
      if (number < 0) continue;
      this.#places.set(number, { at: start });
      if (find(this.bytes, latin1("/ObjStm"), at, at + 300) >= 0) holders.push(number);
    }
    for (const holder of holders) for (const number of this.#objectsOf(holder).keys()) this.#place(number, { holder, index: 0 });
    this.#findTrailer();
    if (!(this.root instanceof Map)) this.#findRoot();
  }

  /** The number of the object whose `obj` stands at a place, and where it begins; -1 if it is no object. */
  #numberBefore(at) {
    const before = String.fromCharCode(...this.bytes.subarray(Math.max(0, at - 24), at));
    const found = /(\d{1,10})\s+\d{1,5}\s*$/.exec(before);
    return found ? [Number(found[1]), at - (before.length - found.index)] : [-1, at];
  }

  #findTrailer() {
    for (let at = find(this.bytes, TRAILER, 0); at >= 0; at = find(this.bytes, TRAILER, at + 7)) {
      const found = new Lexer(this.bytes, at + 7).object();
      if (found instanceof Map) for (const [key, value] of found) this.trailer.set(key, value);
    }
    for (const number of this.trailer.has("Root") ? [] : this.#places.keys()) {
      const found = this.#object(number);
      if (!(found instanceof Stream) || !isName(this.get(found.dictionary, "Type"), "XRef")) continue;
      for (const [key, value] of found.dictionary) this.trailer.set(key, value);
    }
  }

  #findRoot() {
    for (const found of this.dictionaries()) {
      if (isName(this.get(found, "Type"), "Catalog")) this.trailer.set("Root", found);
    }
  }
}

/** The rows of a table in a stream. A first number that is missing is 1. */
class Rows {
  #at = 0;

  constructor(bytes, widths, size) {
    Object.assign(this, { bytes, widths, size });
  }

  get isMore() {
    return this.#at + this.size <= this.bytes.length;
  }

  next() {
    return this.widths.slice(0, 3).map((width, place) => (width ? this.#number(width) : place ? 0 : 1));
  }

  #number(width) {
    let value = 0;
    for (let count = 0; count < width; count += 1) value = value * 256 + this.bytes[this.#at++];
    return value;
  }
}
