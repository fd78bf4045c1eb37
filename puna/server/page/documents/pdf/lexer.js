// Reads objects from bytes (ISO 32000-1, 7.2 and 7.3), both of a file and of the content of a page.

import { DocumentProblem } from "../problem.js";
import { Keyword, Name, Ref } from "./objects.js";

const MAX_DEPTH = 60; // of arrays and dictionaries in each other
const MAX_NAME = 512;

/** What comes after the last object. */
export const END = new Keyword("");

const [REGULAR, SPACE, DELIMITER] = [0, 1, 2];
const KINDS = new Uint8Array(256);
for (const byte of [0, 9, 10, 12, 13, 32]) KINDS[byte] = SPACE;
for (const one of "()<>[]{}/%") KINDS[one.charCodeAt(0)] = DELIMITER;

const code = (one) => one.charCodeAt(0);
const [PERCENT, SLASH, OPEN, CLOSE, LESS, GREATER, BACKSLASH] = Array.from("%/()<>\\", code);
const [NEWLINE, RETURN] = [10, 13];
const NUMBER = /^[+-]*\d*\.?\d*(?:-\d*)?$/;
const ESCAPES = new Map([["n", 10], ["r", 13], ["t", 9], ["b", 8], ["f", 12]].map(([one, byte]) => [code(one), byte]));

export class Lexer {
  constructor(bytes, at = 0) {
    Object.assign(this, { bytes, at });
  }

  /** The next object. `hasRefs`: "3 0 R" is a reference, which a page's content does not have. END after the last one. */
  object(hasRefs = true, depth = 0) {
    if (depth > MAX_DEPTH) throw new DocumentProblem("fileDamaged");
    const token = this.token();
    if (hasRefs && Number.isInteger(token) && token >= 0) return this.#refOr(token);
    if (!(token instanceof Keyword)) return token;
    if (token.text === "[") return this.#array(hasRefs, depth);
    if (token.text === "<<") return this.#dictionary(hasRefs, depth);
    return token.text in WORDS ? WORDS[token.text] : token;
  }

  /** A number, name, string or keyword; "[", "]", "<<", ">>", "{" and "}" are keywords. */
  token() {
    this.#skipSpace();
    if (this.at >= this.bytes.length) return END;
    const byte = this.bytes[this.at];
    if (KINDS[byte] === REGULAR) return this.#word();
    this.at += 1;
    if (byte === SLASH) return this.#name();
    if (byte === OPEN) return this.#literal();
    if (byte === LESS && this.bytes[this.at] !== LESS) return this.#hex();
    return new Keyword(this.#mark(byte));
  }

  #mark(byte) {
    const isDouble = (byte === LESS || byte === GREATER) && this.bytes[this.at] === byte;
    if (isDouble) this.at += 1;
    return String.fromCharCode(byte).repeat(isDouble ? 2 : 1);
  }

  #skipSpace() {
    for (; this.at < this.bytes.length; this.at += 1) {
      if (this.bytes[this.at] === PERCENT) this.#skipComment();
      else if (KINDS[this.bytes[this.at]] !== SPACE) return;
    }
  }

  #skipComment() {
    while (this.at < this.bytes.length && this.bytes[this.at] !== NEWLINE && this.bytes[this.at] !== RETURN) this.at += 1;
  }

  #regular() {
    const start = this.at;
    while (this.at < this.bytes.length && KINDS[this.bytes[this.at]] === REGULAR) this.at += 1;
    return String.fromCharCode(...this.bytes.subarray(start, Math.min(this.at, start + MAX_NAME)));
  }

  #word() {
    const text = this.#regular();
    return NUMBER.test(text) ? Number.parseFloat(text.replace(/^[+-]*(?=[+-])/, "")) || 0 : new Keyword(text);
  }

  #name() {
    const text = this.#regular();
    if (!text.includes("#")) return new Name(text);
    return new Name(text.replaceAll(/#([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16))));
  }

  #literal() {
    const found = [];
    for (let depth = 1; this.at < this.bytes.length; ) {
      const byte = this.bytes[this.at++];
      if (byte === BACKSLASH) this.#escape(found);
      else if (byte === CLOSE && (depth -= 1) === 0) break;
      else {
        if (byte === OPEN) depth += 1;
        found.push(byte);
      }
    }
    return Uint8Array.from(found);
  }

  #escape(found) {
    const byte = this.bytes[this.at++];
    if (byte >= 48 && byte <= 55) found.push(this.#octal(byte - 48));
    else if (byte === RETURN) this.at += this.bytes[this.at] === NEWLINE ? 1 : 0;
    else if (byte !== NEWLINE && byte !== undefined) found.push(ESCAPES.get(byte) ?? byte);
  }

  #octal(first) {
    let value = first;
    for (let count = 0; count < 2 && this.bytes[this.at] >= 48 && this.bytes[this.at] <= 55; count += 1) {
      value = value * 8 + this.bytes[this.at++] - 48;
    }
    return value & 255;
  }

  #hex() {
    const digits = [];
    while (this.at < this.bytes.length && this.bytes[this.at] !== GREATER) {
      const digit = Number.parseInt(String.fromCharCode(this.bytes[this.at++]), 16);
      if (digit >= 0) digits.push(digit);
    }
    this.at += 1;
    return Uint8Array.from({ length: Math.ceil(digits.length / 2) }, (_, at) => digits[2 * at] * 16 + (digits[2 * at + 1] ?? 0));
  }

  #refOr(number) {
    const start = this.at;
    const generation = this.token();
    const word = Number.isInteger(generation) ? this.token() : null;
    if (word instanceof Keyword && word.text === "R") return new Ref(number);
    this.at = start;
    return number;
  }

  #array(hasRefs, depth) {
    const found = [];
    for (;;) {
      const value = this.object(hasRefs, depth + 1);
      if (value === END || (value instanceof Keyword && value.text === "]")) return found;
      if (!(value instanceof Keyword)) found.push(value);
      else if (!hasRefs || value.text === ">>" || value.text.startsWith("end")) return found; // the end of the array is missing
    }
  }

  #dictionary(hasRefs, depth) {
    const found = new Map();
    for (;;) {
      const key = this.object(hasRefs, depth + 1);
      if (key === END || (key instanceof Keyword && [">>", "endobj", "stream"].includes(key.text))) return found;
      if (key instanceof Name) found.set(key.text, this.object(hasRefs, depth + 1));
    }
  }
}

const WORDS = { __proto__: null, true: true, false: false, null: null };
