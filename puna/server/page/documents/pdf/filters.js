// Unpacks the bytes of a stream (ISO 32000-1, 7.4). Filters of pictures are none of ours: they hold no text.

import { inflateZlib, isTooLong } from "../inflate.js";
import { DocumentProblem } from "../problem.js";
import { Name } from "./objects.js";

const FILTERS = {
  FlateDecode: flate,
  Fl: flate,
  LZWDecode: lzw,
  LZW: lzw,
  ASCIIHexDecode: asciiHex,
  AHx: asciiHex,
  ASCII85Decode: ascii85,
  A85: ascii85,
  RunLengthDecode: runLength,
  RL: runLength,
};

/** The bytes of a stream; null where a filter is unknown. `get(dictionary, ...names)` reads an entry. Throws DocumentProblem for a bomb. */
export function unpacked(stream, get, maxBytes, pace) {
  const names = listOf(get(stream.dictionary, "Filter", "F"));
  const settings = listOf(get(stream.dictionary, "DecodeParms", "DP"));
  let bytes = stream.packed;
  for (const [at, name] of names.entries()) {
    const filter = name instanceof Name && Object.hasOwn(FILTERS, name.text) ? FILTERS[name.text] : null;
    if (!filter) return null;
    const setting = settings[at] instanceof Map ? settings[at] : new Map();
    bytes = filter(bytes, (key, missing) => number(get(setting, key), missing), maxBytes, pace);
  }
  return bytes;
}

const listOf = (value) => (Array.isArray(value) ? value : value === null || value === undefined ? [] : [value]);
const number = (value, missing) => (Number.isFinite(value) ? value : missing);

function flate(bytes, setting, maxBytes, pace) {
  const found = inflateZlib(bytes, maxBytes, pace);
  if (isTooLong(found)) throw new DocumentProblem("fileTooLong");
  return predicted(found.bytes, setting);
}

// --- predictors (7.4.4.4)

function predicted(bytes, setting) {
  const kind = setting("Predictor", 1);
  if (kind < 2) return bytes;
  const [colours, bits, columns] = [setting("Colors", 1), setting("BitsPerComponent", 8), setting("Columns", 1)];
  const step = Math.max(1, (colours * bits) >> 3);
  const width = Math.ceil((colours * bits * columns) / 8);
  if (!(width > 0 && width <= 1 << 20)) throw new DocumentProblem("fileDamaged");
  return kind === 2 ? tiff(bytes, width, step) : png(bytes, width, step);
}

function tiff(bytes, width, step) {
  const found = bytes.slice();
  for (let at = 0; at < found.length; at += 1) if (at % width >= step) found[at] += found[at - step];
  return found;
}

/** Each row begins with the number of its predictor (PNG, 9.2). */
function png(bytes, width, step) {
  const rows = Math.ceil(bytes.length / (width + 1));
  const found = new Uint8Array(rows * width);
  let above = new Uint8Array(width);
  for (let row = 0; row < rows; row += 1) {
    const start = row * (width + 1);
    const line = found.subarray(row * width, (row + 1) * width);
    line.set(bytes.subarray(start + 1, Math.min(bytes.length, start + 1 + width)));
    (PREDICTORS[bytes[start]] ?? PREDICTORS[0])(line, above, step);
    above = line;
  }
  return found;
}

const PREDICTORS = [
  () => {},
  (line, _, step) => line.forEach((byte, at) => (line[at] = byte + (line[at - step] ?? 0))),
  (line, above) => line.forEach((byte, at) => (line[at] = byte + above[at])),
  (line, above, step) => line.forEach((byte, at) => (line[at] = byte + (((line[at - step] ?? 0) + above[at]) >> 1))),
  (line, above, step) =>
    line.forEach((byte, at) => (line[at] = byte + paeth(line[at - step] ?? 0, above[at], above[at - step] ?? 0))),
];

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [toLeft, toUp, toCorner] = [left, up, corner].map((one) => Math.abs(guess - one));
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

// --- the others

function lzw(bytes, setting, maxBytes, pace) {
  const found = new Growing(maxBytes);
  const early = setting("EarlyChange", 1);
  let [at, hold, count, width] = [0, 0, 0, 9];
  let [table, before] = [[], null];
  while (at < bytes.length || count >= width) {
    while (count < width && at < bytes.length) [hold, count] = [((hold << 8) | bytes[at++]) & 0xffffff, count + 8];
    if (count < width) break;
    const word = (hold >> (count - width)) & ((1 << width) - 1);
    count -= width;
    if (word === 257) break;
    if (word === 256) [table, before, width] = [[], null, 9];
    else {
      const piece = word < 256 ? Uint8Array.of(word) : table[word - 258] ?? (before && longer(before, before[0]));
      if (!piece) break;
      if (before && table.length < 4096 - 258) table.push(longer(before, piece[0]));
      found.add(piece);
      before = piece;
      width = Math.min(12, Math.max(9, 32 - Math.clz32(table.length + 258 + early)));
      if ((found.length & 0xffff) < piece.length) pace.check();
    }
  }
  return predicted(found.bytes(), setting);
}

function longer(piece, byte) {
  const made = new Uint8Array(piece.length + 1);
  made.set(piece);
  made[piece.length] = byte;
  return made;
}

function asciiHex(bytes) {
  const text = new TextDecoder("latin1").decode(bytes).split(">", 1)[0].replaceAll(/[^0-9a-f]/gi, "");
  return Uint8Array.from({ length: Math.ceil(text.length / 2) }, (_, at) => Number.parseInt(text.slice(2 * at, 2 * at + 2).padEnd(2, "0"), 16));
}

function ascii85(bytes, _, maxBytes) {
  const found = new Growing(maxBytes);
  let digits = [];
  for (const byte of bytes) {
    if (byte === 0x7e) break; // "~"
    if (byte === 0x7a && !digits.length) found.add(new Uint8Array(4)); // "z"
    else if (byte >= 33 && byte <= 117) digits.push(byte - 33);
    if (digits.length === 5) {
      found.add(base85(digits));
      digits = [];
    }
  }
  if (digits.length > 1) found.add(base85([...digits, 84, 84, 84, 84].slice(0, 5)).subarray(0, digits.length - 1));
  return found.bytes();
}

function base85(digits) {
  const value = digits.reduce((sum, digit) => sum * 85 + digit, 0);
  return Uint8Array.of(value / 2 ** 24, value / 2 ** 16, value / 2 ** 8, value);
}

function runLength(bytes, _, maxBytes) {
  const found = new Growing(maxBytes);
  for (let at = 0; at < bytes.length && bytes[at] !== 128; ) {
    const count = bytes[at];
    if (count < 128) found.add(bytes.subarray(at + 1, at + 2 + count));
    else found.add(new Uint8Array(257 - count).fill(bytes[at + 1]));
    at += count < 128 ? count + 2 : 2;
  }
  return found.bytes();
}

/** Bytes that come piece by piece. */
class Growing {
  #bytes = new Uint8Array(4096);
  length = 0;

  constructor(maxBytes) {
    this.maxBytes = maxBytes;
  }

  add(piece) {
    const length = this.length + piece.length;
    if (length > this.maxBytes) throw new DocumentProblem("fileTooLong");
    if (length > this.#bytes.length) {
      const larger = new Uint8Array(2 * length);
      larger.set(this.#bytes.subarray(0, this.length));
      this.#bytes = larger;
    }
    this.#bytes.set(piece, this.length);
    this.length = length;
  }

  bytes() {
    return this.#bytes.subarray(0, this.length);
  }
}
