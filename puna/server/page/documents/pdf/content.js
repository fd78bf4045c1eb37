// Carries out the text operators of a page's content (ISO 32000-1, 9.4) and gives each glyph to `lines`. What only draws is skipped.

import { fontOf } from "./font.js";
import { END, Lexer } from "./lexer.js";
import { Keyword, Name, Stream, isName, textOfString } from "./objects.js";

const MAX_FORMS = 12; // forms in forms
const MAX_STATES = 200; // saved states
const MAX_OPERANDS = 100;
const MAX_STRING = 0xffff; // codes of one string
const STEPS = 64; // from one look at the clock to the next

const IDENTITY = [1, 0, 0, 1, 0, 0];

/** First `one`, then `other`. */
function product(one, other) {
  return [
    one[0] * other[0] + one[1] * other[2],
    one[0] * other[1] + one[1] * other[3],
    one[2] * other[0] + one[3] * other[2],
    one[2] * other[1] + one[3] * other[3],
    one[4] * other[0] + one[5] * other[2] + other[4],
    one[4] * other[1] + one[5] * other[3] + other[5],
  ];
}

const START = { matrix: IDENTITY, font: null, size: 1, charSpace: 0, wordSpace: 0, scale: 1, leading: 0, rise: 0 };

/** Reads contents, one after the other, into `lines`. */
export class Content {
  #fonts = new Map();

  /** `counts`: how many glyphs were met, and how many of them have no text. */
  constructor(file) {
    Object.assign(this, { file, steps: 0, counts: { glyphs: 0, unknown: 0 } });
  }

  /** The text of a page. */
  async read(page, resources, lines) {
    Object.assign(this, { lines, state: { ...START }, saved: [], marks: [], forms: [] });
    this.#beginText();
    await this.#run(this.#contentsOf(page), resources);
  }

  /** The content of a page may be in several streams, which are one. */
  #contentsOf(page) {
    const found = this.file.get(page, "Contents");
    const streams = Array.isArray(found) ? found.map((one) => this.file.resolve(one)) : [found];
    const pieces = streams.filter((one) => one instanceof Stream).map((one) => this.file.data(one));
    const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length + 1, 0)).fill(32);
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length + 1;
    }
    return whole;
  }

  async #run(bytes, resources) {
    const lexer = new Lexer(bytes);
    const outer = this.resources;
    this.resources = resources;
    let operands = [];
    for (let value = lexer.object(false); value !== END; value = lexer.object(false)) {
      if (!(value instanceof Keyword)) {
        if (operands.length < MAX_OPERANDS) operands.push(value);
        continue;
      }
      await OPERATORS[value.text]?.(this, operands, lexer);
      operands = [];
      if (this.#isDue()) await this.file.pace.pause();
    }
    this.resources = outer;
  }

  /** Whether it is time to look at the clock. */
  #isDue() {
    this.steps += 1;
    return this.steps % STEPS === 0;
  }

  // --- what the operators do

  #beginText() {
    this.matrix = IDENTITY;
    this.lineMatrix = IDENTITY;
  }

  begin() {
    this.#beginText();
  }

  save() {
    if (this.saved.length < MAX_STATES) this.saved.push({ ...this.state });
  }

  restore() {
    this.state = this.saved.pop() ?? this.state;
  }

  transform(matrix) {
    if (isMatrix(matrix)) this.state.matrix = product(matrix, this.state.matrix);
  }

  setMatrix(matrix) {
    if (isMatrix(matrix)) this.matrix = this.lineMatrix = matrix;
  }

  move(x, y) {
    if (isMatrix([1, 0, 0, 1, x, y])) this.setMatrix(product([1, 0, 0, 1, x, y], this.lineMatrix));
  }

  nextLine() {
    this.move(0, -this.state.leading);
  }

  set(name, value) {
    if (Number.isFinite(value)) this.state[name] = value;
  }

  setFont(name, size) {
    const dictionary = name instanceof Name ? this.file.get(this.file.dictionary(this.resources, "Font"), name.text) : null;
    this.state.font = dictionary instanceof Map ? this.#font(dictionary) : null;
    this.set("size", size);
  }

  #font(dictionary) {
    if (!this.#fonts.has(dictionary)) this.#fonts.set(dictionary, fontOf(dictionary, this.file));
    return this.#fonts.get(dictionary);
  }

  show(bytes) {
    const { font, size, charSpace, wordSpace } = this.state;
    if (!font || !(bytes instanceof Uint8Array)) return;
    const frame = this.#frame(font.isVertical);
    let offset = 0;
    for (const { text, width, isSpace } of font.glyphs(bytes.subarray(0, MAX_STRING))) {
      this.counts.glyphs += 1;
      if (text === null) this.counts.unknown += 1;
      const length = (font.isVertical ? 1 : width) * size;
      if (frame) this.#place(this.#marked(text ?? ""), frame, offset, length);
      offset += length + charSpace + (isSpace ? wordSpace : 0);
    }
    this.#advance(font.isVertical ? -offset : offset, font.isVertical);
  }

  /** Strings, and numbers that move what comes after them to the left. */
  async showAll(list) {
    for (const one of Array.isArray(list) ? list : []) {
      if (this.#isDue()) await this.file.pace.pause();
      if (Number.isFinite(one)) this.#advance((-one / 1000) * this.state.size, this.state.font?.isVertical);
      else this.show(one);
    }
  }

  #advance(length, isVertical) {
    this.matrix = product(isVertical ? [1, 0, 0, 1, 0, length] : [1, 0, 0, 1, length * this.state.scale, 0], this.matrix);
  }

  /** Where the next glyph stands, and the direction in which glyphs follow; null where nothing can be seen. */
  #frame(isVertical) {
    const { size, scale, rise } = this.state;
    const [a, b, c, d, x, y] = product(product([scale, 0, 0, 1, 0, rise], this.matrix), this.state.matrix);
    const [alongX, alongY] = isVertical ? [-c, -d] : [a, b];
    const along = Math.hypot(alongX, alongY);
    if (!(along > 0) || !Number.isFinite(x + y + along)) return null;
    return { x, y, along, dx: alongX / along, dy: alongY / along, size: Math.abs(size) * Math.hypot(c, d) || along };
  }

  #place(text, { x, y, along, dx, dy, size }, offset, length) {
    const far = offset * along;
    this.lines.add(text, x + far * dx, y + far * dy, dx, dy, length * along, size);
  }

  // --- marked content: the text that stands for what is drawn (14.9.4)

  mark(properties) {
    const found = properties instanceof Name ? this.file.get(this.file.dictionary(this.resources, "Properties"), properties.text) : properties;
    const actual = found instanceof Map ? this.file.get(found, "ActualText") : null;
    this.marks.push(this.marks.at(-1) ?? (actual instanceof Uint8Array ? { text: textOfString(actual) } : null));
  }

  unmark() {
    this.marks.pop();
  }

  /** The first glyph of such a text brings all of it. */
  #marked(text) {
    const mark = this.marks.at(-1);
    if (!mark) return text;
    const whole = mark.text;
    mark.text = "";
    return whole;
  }

  // --- forms

  async draw(name) {
    const found = name instanceof Name ? this.file.get(this.file.dictionary(this.resources, "XObject"), name.text) : null;
    if (!(found instanceof Stream)) return;
    const isForm = isName(this.file.get(found.dictionary, "Subtype"), "Form");
    if (isForm && this.forms.length < MAX_FORMS && !this.forms.includes(found)) await this.#form(found);
  }

  async #form(form) {
    const before = [this.matrix, this.lineMatrix, this.saved, this.state];
    this.forms.push(form);
    [this.saved, this.state] = [[], { ...this.state }];
    this.transform(this.file.list(form.dictionary, "Matrix"));
    const own = form.dictionary.has("Resources") ? this.file.dictionary(form.dictionary, "Resources") : this.resources;
    await this.#run(this.file.data(form), own);
    [this.matrix, this.lineMatrix, this.saved, this.state] = before;
    this.forms.pop();
  }

  /** The bytes of a picture stand in the content, up to EI. */
  skipPicture(lexer) {
    const { bytes } = lexer;
    for (let at = lexer.at + 1; at < bytes.length; at += 1) {
      const isEnd = bytes[at] === 69 && bytes[at + 1] === 73 && isSpace(bytes[at - 1]) && (at + 2 >= bytes.length || isSpace(bytes[at + 2]));
      if (!isEnd) continue;
      lexer.at = at + 2;
      return;
    }
    lexer.at = bytes.length;
  }
}

const isSpace = (byte) => [0, 9, 10, 12, 13, 32].includes(byte);
const isMatrix = (numbers) => numbers.length === 6 && numbers.every(Number.isFinite);

const OPERATORS = {
  __proto__: null,
  q: (content) => content.save(),
  Q: (content) => content.restore(),
  cm: (content, operands) => content.transform(operands),
  BT: (content) => content.begin(),
  Tf: (content, [name, size]) => content.setFont(name, size),
  Tm: (content, operands) => content.setMatrix(operands),
  Td: (content, [x, y]) => content.move(x, y),
  TD: (content, [x, y]) => {
    content.set("leading", -y);
    content.move(x, y);
  },
  "T*": (content) => content.nextLine(),
  Tc: (content, [space]) => content.set("charSpace", space),
  Tw: (content, [space]) => content.set("wordSpace", space),
  Tz: (content, [percent]) => content.set("scale", percent / 100),
  TL: (content, [leading]) => content.set("leading", leading),
  Ts: (content, [rise]) => content.set("rise", rise),
  Tj: (content, [text]) => content.show(text),
  TJ: (content, [list]) => content.showAll(list),
  "'": (content, [text]) => {
    content.nextLine();
    content.show(text);
  },
  '"': (content, [wordSpace, charSpace, text]) => {
    content.set("wordSpace", wordSpace);
    content.set("charSpace", charSpace);
    content.nextLine();
    content.show(text);
  },
  Do: (content, [name]) => content.draw(name),
  ID: (content, _, lexer) => content.skipPicture(lexer),
  BMC: (content) => content.mark(null),
  BDC: (content, [, properties]) => content.mark(properties),
  EMC: (content) => content.unmark(),
};
