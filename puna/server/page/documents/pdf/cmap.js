// Character maps (Adobe Technical Note 5014): how the bytes of a string part into codes, and which text a code is.

import { END, Lexer } from "./lexer.js";
import { Keyword } from "./objects.js";

const MAX_CODES = 200_000; // of one map, also where it tells a code twice

/** `texts`: code -> text; `cids`: code -> character of the font; `spaces`: `{ size, low, high }` of the codes of each length. */
export function readCMap(bytes, pace) {
  const map = { texts: new Map(), cids: new Map(), spaces: [], left: MAX_CODES };
  const lexer = new Lexer(bytes);
  let values = [];
  for (let value = lexer.object(false); value !== END; value = lexer.object(false)) {
    if (!(value instanceof Keyword)) values.push(value);
    else {
      READERS[value.text]?.(map, values);
      values = [];
      pace.check();
    }
  }
  return map;
}

const READERS = {
  __proto__: null,
  endcodespacerange: (map, values) => {
    for (const [low, high] of groups(values, 2)) map.spaces.push({ size: low.length, low: codeOf(low), high: codeOf(high) });
  },
  endbfchar: (map, values) => {
    for (const [code, text] of groups(values, 2)) put(map, "texts", codeOf(code), textOf(text));
  },
  endbfrange: (map, values) => {
    for (const [low, high, text] of groups(values, 3)) putTexts(map, codeOf(low), codeOf(high), text);
  },
  endcidchar: (map, values) => {
    for (const [code, cid] of groups(values, 2)) put(map, "cids", codeOf(code), cid);
  },
  endcidrange: (map, values) => {
    for (const [low, high, cid] of groups(values, 3)) putRange(map, "cids", codeOf(low), codeOf(high), (at) => cid + at);
  },
};

function* groups(values, size) {
  for (let at = 0; at + size <= values.length; at += size) yield values.slice(at, at + size);
}

const codeOf = (bytes) => (bytes instanceof Uint8Array ? bytes.reduce((value, byte) => value * 256 + byte, 0) : -1);
const textOf = (bytes) => (bytes instanceof Uint8Array ? new TextDecoder("utf-16be").decode(bytes.length === 1 ? Uint8Array.of(0, bytes[0]) : bytes) : "");

function put(map, table, code, value) {
  if (code < 0 || map.left <= 0) return;
  map.left -= 1;
  map[table].set(code, value);
}

function putRange(map, table, low, high, valueAt) {
  for (let code = low; code <= high && map.left > 0; code += 1) put(map, table, code, valueAt(code - low));
}

/** A range counts on in the last character of its text, or lists its texts. */
function putTexts(map, low, high, text) {
  if (Array.isArray(text)) return putRange(map, "texts", low, Math.min(high, low + text.length - 1), (at) => textOf(text[at]));
  const first = Array.from(textOf(text));
  const last = first.pop()?.codePointAt(0) ?? 0;
  return putRange(map, "texts", low, Math.min(high, low + 0x10ffff - last), (at) => first.join("") + String.fromCodePoint(last + at));
}
