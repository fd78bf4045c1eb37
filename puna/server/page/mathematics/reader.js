// Reads the LaTeX that chat models write into the tree of tree.js. Our own; the rules of spacing are those of The TeXbook, chapter 18.

import { ALPHABETS, OLD_ALPHABETS, restyled } from "./alphabets.js";
import { chemistry } from "./chemistry.js";
import { ACCENTS, ARROWS, BRACES, CHARACTERS, DELIMITERS, FUNCTIONS, LIMITS, LINED, SPACES, SYMBOLS, TABLES, WIDE } from "./symbols.js";
import { fence, functionOf, leaf, mapLetters, node, ordinary, rowOf, scripted, spaceOf, symbolOf, textLeaf } from "./tree.js";

const MAX_LENGTH = 8000; // characters of a formula
const MAX_DEPTH = 50; // atoms in atoms; the browser's layout goes down as deep

const TOKEN = /\s*(\\(?:[a-zA-Z]+|[\s\S]|$)|\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|[\s\S])/uy;
const LETTER = /^\p{L}\p{M}*$/u;
const IDEOGRAPH = /^\p{Script=Han}|\p{Script=Hiragana}|\p{Script=Katakana}|\p{Script=Hangul}$/u;

/** A formula without sense: unlike TeX, the page shows it as it was written. */
class Unreadable extends Error {}

/** The tree of a formula; null for one that cannot be read. */
export function readFormula(source, depth = 0) {
  if (source.length > MAX_LENGTH) return null;
  try {
    return new Reader(source, depth).whole();
  } catch (error) {
    if (error instanceof Unreadable) return null;
    throw error;
  }
}

const never = () => false;
const isClosing = (token) => token === "}";
const isRight = (token) => token === "\\right";
const isBracket = (token) => token === "]";
const isCellEnd = (token) => ["&", "\\\\", "\\end", "\\cr"].includes(token);

class Reader {
  constructor(source, depth) {
    Object.assign(this, { source, depth, at: 0, ends: [never], isSmall: false });
  }

  // --- tokens

  /** The next token: a command, a number or a character; null at the end. */
  peek() {
    TOKEN.lastIndex = this.at;
    return TOKEN.exec(this.source)?.[1] ?? null;
  }

  next() {
    const token = this.peek();
    if (token === null) throw new Unreadable("it ends too early");
    this.at = TOKEN.lastIndex;
    return token;
  }

  skip(token) {
    if (this.peek() !== token) return false;
    this.next();
    return true;
  }

  require(token) {
    if (!this.skip(token)) throw new Unreadable(`${token} is missing`);
  }

  /** The characters of an argument in braces, unread. */
  raw() {
    if (!this.skip("{")) return this.next();
    const start = this.at;
    for (let depth = 1; depth > 0; ) {
      const token = this.next();
      depth += token === "{" ? 1 : token === "}" ? -1 : 0;
    }
    return this.source.slice(start, this.at - 1);
  }

  /** An argument in brackets; "" if there is none. */
  rawOption() {
    if (!this.skip("[")) return "";
    const end = this.source.indexOf("]", this.at);
    if (end < 0) throw new Unreadable("] is missing");
    const text = this.source.slice(this.at, end);
    this.at = end + 1;
    return text;
  }

  // --- rows

  /** The whole formula. Lines that are broken by \\ stand as in align. */
  whole() {
    const rows = this.rows();
    if (this.peek() !== null) throw new Unreadable("something is closed that was not opened");
    return rows.length === 1 && rows[0].length === 1 ? rows[0][0] : tableOf(rows, "aligned");
  }

  /** The nodes up to a token that ends them, which stays. */
  nodes(isEnd) {
    this.ends.push(isEnd);
    const found = [];
    for (let token = this.peek(); token !== null && !isEnd(token) && token !== "}"; token = this.peek()) {
      if (INFIXES.has(token)) found.push(this.infix(found.splice(0)));
      else found.push(...[this.item()].filter(Boolean));
    }
    this.ends.pop();
    return found;
  }

  row(isEnd) {
    return rowOf(this.nodes(isEnd), this.isSmall);
  }

  /** The rest of the group that is open. */
  rest() {
    return this.deeper(() => this.row(this.ends.at(-1)));
  }

  /** TeX's own a \over b: all of the group before it, and all after it. */
  infix(before) {
    const make = INFIXES.get(this.next());
    return make(rowOf(before, this.isSmall), this.rest());
  }

  deeper(read) {
    this.depth += 1;
    if (this.depth > MAX_DEPTH) throw new Unreadable("it is nested too deeply");
    const found = read();
    this.depth -= 1;
    return found;
  }

  group(isEnd, end) {
    const found = this.row(isEnd);
    this.require(end);
    return found;
  }

  /** What a command or a script applies to: a group, or one symbol. */
  argument() {
    const token = this.peek();
    if (token === null) throw new Unreadable("an argument is missing");
    if (/^[\d.]/.test(token)) return this.digit();
    return this.atom() ?? node("mrow", []);
  }

  /** x^23 is x² 3. */
  digit() {
    this.at = this.source.indexOf(this.peek(), this.at) + 1;
    return leaf("mn", this.source[this.at - 1]);
  }

  small(read) {
    const was = this.isSmall;
    this.isSmall = true;
    const found = read();
    this.isSmall = was;
    return found;
  }

  // --- atoms

  /** An atom with its scripts; null for what shows nothing. */
  item() {
    const isScript = ["^", "_", "'", "’"].includes(this.peek());
    const base = isScript ? node("mrow", []) : this.atom();
    return base && this.withScripts(base);
  }

  withScripts(base) {
    let [below, above, limits] = [null, null, base.limits];
    for (let token = this.peek(); token in SCRIPTS; token = this.peek()) {
      const found = SCRIPTS[token](this);
      if ((found.below && below) || (found.above && above)) {
        return this.deeper(() => this.withScripts(this.joined(base, below, above, limits, found)));
      }
      [below, above, limits] = [found.below ?? below, found.above ?? above, found.limits ?? limits];
    }
    return below || above ? scripted(base, below, above, limits) : base;
  }

  /** A second script of the same place: f'^2 is one above, x_a_b one after the other. */
  joined(base, below, above, limits, found) {
    if (found.above && above?.text?.startsWith("′")) return scripted(base, below, rowOf([above, found.above], true), limits);
    return scripted(scripted(base, below, above, limits), found.below, found.above, false);
  }

  script() {
    this.next();
    return this.small(() => this.argument());
  }

  primes() {
    let count = 0;
    while (this.skip("'") || this.skip("’")) count += 1;
    return leaf("mo", "′".repeat(count), { lspace: "0", rspace: "0", stretchy: "false" });
  }

  atom() {
    return this.deeper(() => this.atomOf(this.next()));
  }

  atomOf(token) {
    if (token === "{") return ordinary(this.group(isClosing, "}"));
    if (token[0] === "\\") return this.command(token.slice(1));
    if (/^[\d.]/.test(token)) return leaf(token === "." ? "mo" : "mn", token, token === "." ? { lspace: "0", rspace: "0" } : {});
    if (token === "~") return spaceOf(0.25);
    return this.character(token);
  }

  character(token) {
    const known = CHARACTERS.get(token);
    if (known) return symbolOf(known);
    if (IDEOGRAPH.test(token)) return textLeaf(token);
    return LETTER.test(token) ? leaf("mi", token) : leaf("mo", token, { lspace: "0", rspace: "0", stretchy: "false" });
  }

  command(name) {
    const [, read] = COMMANDS.find(([table]) => table.has(name)) ?? [];
    return read ? read(this, name) : textLeaf(`\\${name}`);
  }

  // --- what the tables below name

  text(attributes) {
    return rowOf(textPieces(this.raw()).map((piece) => this.textPiece(piece, attributes)));
  }

  /** A piece of \text{...}: words, or a formula between dollars. */
  textPiece({ isFormula, text }, attributes) {
    const found = isFormula ? readFormula(text, this.depth) : null;
    return found ?? textLeaf(plainText(text), attributes);
  }

  alphabet(style) {
    return ordinary(inStyle(this.argument(), style));
  }

  root() {
    const isIndexed = this.skip("[");
    const index = isIndexed && this.small(() => this.group(isBracket, "]"));
    return isIndexed ? node("mroot", [this.argument(), index]) : node("msqrt", [this.argument()]);
  }

  fenced() {
    const open = this.delimiter();
    const inner = this.row(isRight);
    this.require("\\right");
    const close = this.delimiter();
    return node("mrow", [open && fence(open, "prefix"), inner, close && fence(close, "postfix")].filter(Boolean));
  }

  delimiter() {
    const token = this.next();
    const text = DELIMITERS.get(token) ?? SYMBOLS.get(token.slice(1))?.text;
    if (text === undefined) throw new Unreadable(`${token} is no delimiter`);
    return text;
  }

  /** Both arguments of \xrightarrow[below]{above}. */
  arrow(text) {
    const isLabelled = this.skip("[");
    const below = isLabelled ? padded(this.small(() => this.group(isBracket, "]"))) : null;
    const above = padded(this.small(() => this.argument()));
    return scripted(leaf("mo", text, { stretchy: "true", lspace: "0.2778em", rspace: "0.2778em" }, "relation"), below, above, "fixed");
  }

  brace([name, text]) {
    const mark = leaf("mo", text, { stretchy: "true" });
    return { ...node(name, [this.argument(), mark]), limits: "fixed" };
  }

  /** One thing above or below another, which keeps its class. */
  stacked(isAbove) {
    const script = this.small(() => this.argument());
    const base = this.argument();
    return scripted(base, isAbove ? null : script, isAbove ? script : null, "fixed");
  }

  negated() {
    const found = this.atom();
    if (found?.text) found.text = `${found.text}\u0338`.normalize("NFC");
    return found;
  }

  environment() {
    const name = this.raw();
    const [open, close, look] = TABLES.get(name.replace(/\*$/, "")) ?? [];
    if (look === undefined) throw new Unreadable(`${name} is no environment of rows`);
    const sides = this.columns(name);
    const rows = this.rows();
    this.require("\\end");
    if (this.raw() !== name) throw new Unreadable(`${name} is not closed`);
    const table = tableOf(rows, look, sides);
    return open || close ? node("mrow", [fence(open, "prefix"), table, fence(close, "postfix")].filter((one) => one.text !== "")) : table;
  }

  /** How the columns of an array stand: "lcr" of {l|c|r}. */
  columns(name) {
    this.rawOption();
    if (!["array", "alignat", "alignat*", "alignedat"].includes(name)) return "";
    return this.raw().replaceAll(/[^lcr]/g, "");
  }

  /** Rows of cells, each a node. */
  rows() {
    const rows = [[]];
    for (;;) {
      rows.at(-1).push(this.row(isCellEnd));
      const end = this.peek();
      if (end !== "&" && end !== "\\\\" && end !== "\\cr") break;
      this.next();
      if (end !== "&") this.newRow(rows);
    }
    if (rows.length > 1 && rows.at(-1).length === 1 && isEmpty(rows.at(-1)[0])) rows.pop();
    return rows;
  }

  newRow(rows) {
    rows.push([]);
    if (/^\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in|px|mu)\s*\]/.test(this.source.slice(this.at, this.at + 30))) this.rawOption();
  }
}

const isEmpty = (one) => one.name === "mrow" && !one.children.length;

const SCRIPTS = {
  _: (reader) => ({ below: reader.script() }),
  "^": (reader) => ({ above: reader.script() }),
  "'": (reader) => ({ above: reader.primes() }),
  "’": (reader) => ({ above: reader.primes() }),
  "\\limits": (reader) => (reader.next(), { limits: "fixed" }),
  "\\nolimits": (reader) => (reader.next(), { limits: false }),
};

// --- nodes of more than one part

const fraction = (above, below, attributes = {}) => node("mfrac", [above, below], attributes);
const stack = (above, below) => fraction(above, below, { linethickness: "0" });
const binomial = (above, below) => node("mrow", [fence("(", "prefix"), stack(above, below), fence(")", "postfix")]);
const INFIXES = new Map([["\\over", fraction], ["\\choose", binomial], ["\\atop", stack]]);

const styled = (one, isDisplay, level = "0") => node("mstyle", [one], { displaystyle: String(isDisplay), scriptlevel: level }, one.kind);
const padded = (one) => node("mrow", [spaceOf(0.35), one, spaceOf(0.35)]);

function tableOf(rows, look, sides = "") {
  const cell = (one, column) => node("mtd", [one], sides[column] ? { class: CLASSES[sides[column]] } : {});
  const isDisplay = ["aligned", "gathered"].includes(look);
  const attributes = { ...(look ? { class: look } : {}), ...(isDisplay ? { displaystyle: "true" } : {}) };
  return node("mtable", rows.map((row) => node("mtr", row.map(cell))), attributes);
}

const CLASSES = { l: "left", c: "middle", r: "right" };

function inStyle(one, style) {
  return mapLetters(one, (letter) => {
    letter.text = restyled(letter.text, isUpright(letter, style) ? "bold" : style);
    if (style === "normal" && letter.name === "mi") letter.attributes.mathvariant = "normal";
  });
}

// \boldsymbol leaves capital Greek letters upright.
const isUpright = (letter, style) => style === "boldItalic" && letter.attributes.mathvariant === "normal";

const ESCAPES = { "\\,": "\u2009", "~": " " };
const plainText = (text) => text.replaceAll(/\\[%$&#_{} ,]|~/g, (one) => ESCAPES[one] ?? one[1]).replaceAll(/[ \t\n]+/g, " ");

function textPieces(text) {
  return text.split(/(?<!\\)\$([^$]*)\$|\\\(([\s\S]*?)\\\)/).map((piece, at) => ({ isFormula: at % 3 !== 0, text: piece }))
    .filter((piece) => piece.text);
}

const LENGTH = /^\s*(-?\d*\.?\d+)\s*(em|ex|pt|mu|mm|cm|in|px)/;
const EM = { em: 1, ex: 0.45, pt: 0.1, mu: 1 / 18, mm: 0.28, cm: 2.8, in: 7.2, px: 0.0625 };

function lengthOf(text) {
  const [, count, unit] = LENGTH.exec(text) ?? [null, "0", "em"];
  return Math.max(-4, Math.min(12, Number(count) * EM[unit]));
}

const SIZES = { big: 1.2, Big: 1.62, bigg: 2.05, Bigg: 2.47 };
const FORMS = { l: "prefix", r: "postfix", m: "infix" };
const sized = (size, form) => (reader) => fence(reader.delimiter(), FORMS[form] ?? "infix", size);
const BIG = new Map(Object.entries(SIZES).flatMap(([name, size]) => ["", "l", "r", "m"].map((form) => [name + form, sized(size, form)])));

const text = (attributes) => (reader) => reader.text(attributes);
const nothing = () => null;
const withoutArgument = (reader) => (reader.raw(), null);
const onlyArgument = (kind) => (reader) => ({ ...ordinary(reader.argument()), kind });

const READ = new Map([
  ["frac", (reader) => fraction(reader.argument(), reader.argument())],
  ["dfrac", (reader) => styled(fraction(reader.argument(), reader.argument()), true)],
  ["cfrac", (reader) => (reader.rawOption(), styled(fraction(reader.argument(), reader.argument()), true))],
  ["tfrac", (reader) => styled(fraction(reader.argument(), reader.argument()), false)],
  ["binom", (reader) => binomial(reader.argument(), reader.argument())],
  ["dbinom", (reader) => styled(binomial(reader.argument(), reader.argument()), true)],
  ["tbinom", (reader) => styled(binomial(reader.argument(), reader.argument()), false)],
  ["sqrt", (reader) => reader.root()],
  ["left", (reader) => reader.fenced()],
  ["middle", (reader) => fence(reader.delimiter(), "infix")],
  ["begin", (reader) => reader.environment()],
  ["overset", (reader) => reader.stacked(true)],
  ["stackrel", (reader) => reader.stacked(true)],
  ["underset", (reader) => reader.stacked(false)],
  ["substack", (reader) => (reader.require("{"), substack(reader))],
  ["not", (reader) => reader.negated()],
  ["operatorname", (reader) => operatorName(reader)],
  ["mathop", (reader) => ({ ...reader.argument(), kind: "operator", limits: "movable" })],
  ["mathbin", onlyArgument("binary")],
  ["mathrel", onlyArgument("relation")],
  ["mathord", onlyArgument("ordinary")],
  ["boxed", (reader) => node("mrow", [reader.argument()], { class: "boxed" })],
  ["fbox", (reader) => node("mrow", [reader.text({})], { class: "boxed" })],
  ...["cancel", "bcancel", "xcancel", "sout"].map((name) => [name, (reader) => node("mrow", [reader.argument()], { class: "cancelled" })]),
  ["phantom", (reader) => node("mphantom", [reader.argument()])],
  ["hphantom", (reader) => node("mphantom", [reader.argument()])],
  ["vphantom", (reader) => node("mpadded", [node("mphantom", [reader.argument()])], { width: "0" })],
  ["smash", (reader) => (reader.rawOption(), reader.argument())],
  ["ce", (reader) => readFormula(chemistry(reader.raw()), reader.depth) ?? node("mrow", [])],
  ["bmod", () => functionBetween("mod")],
  ["mod", () => functionBetween("mod")],
  ["pmod", (reader) => modulus(reader)],
  ["pod", (reader) => node("mrow", [spaceOf(0.6), ...parenthesised(reader.argument())])],
  ["tag", (reader) => (reader.skip("*"), node("mrow", [spaceOf(2), textLeaf(`(${plainText(reader.raw())})`)]))],
  ["text", text({})],
  ...["textrm", "textnormal", "mbox", "hbox", "textup", "textsf", "intertext"].map((name) => [name, text({})]),
  ["textbf", text({ class: "bold" })],
  ...["textit", "emph"].map((name) => [name, text({ class: "italic" })]),
  ["texttt", text({ class: "mono" })],
  // Colours are left out: a black formula would vanish in the dark.
  ["textcolor", (reader) => (reader.raw(), reader.argument())],
  ["color", withoutArgument],
  ["href", (reader) => (reader.raw(), reader.argument())],
  ...["label", "vspace", "phantomsection", "definecolor"].map((name) => [name, withoutArgument]),
  ...["hspace", "mspace"].map((name) => [name, (reader) => (reader.skip("*"), spaceOf(lengthOf(reader.raw())))]),
  ...["nonumber", "notag", "hline", "displaylimits", "allowbreak", "centering", "mathstrut", "strut", "relax", "break", "newline"]
    .map((name) => [name, nothing]),
  ...["-", "/", "protect", "normalsize", "small", "large", "scriptsize", "noindent"].map((name) => [name, nothing]),
  ["displaystyle", (reader) => styled(reader.rest(), true)],
  ["textstyle", (reader) => styled(reader.rest(), false)],
  ["scriptstyle", (reader) => styled(reader.rest(), false, "1")],
  ["scriptscriptstyle", (reader) => styled(reader.rest(), false, "2")],
]);

const functionBetween = (name) => leaf("mo", name, { lspace: "0.2222em", rspace: "0.2222em" });
const parenthesised = (one) => [fence("(", "prefix"), one, fence(")", "postfix")];
const modulus = (reader) =>
  node("mrow", [spaceOf(0.6), ...parenthesised(node("mrow", [leaf("mo", "mod", { lspace: "0", rspace: "0.3333em" }), reader.argument()]))]);

function operatorName(reader) {
  const hasLimits = reader.skip("*");
  return functionOf(plainText(reader.raw()).replaceAll(/\\(?:math|text)\w+|[{}]/g, ""), hasLimits);
}

function substack(reader) {
  const rows = reader.rows();
  reader.require("}");
  return tableOf(rows, "substack");
}

function accented(reader, name) {
  const size = name === "vec" ? { mathsize: "65%" } : {}; // most fonts have long arrows only
  const mark = leaf("mo", ACCENTS.get(name), { stretchy: "false", lspace: "0", rspace: "0", ...size });
  return node("mover", [reader.argument(), mark], { accent: "true" });
}

function widened(reader, name) {
  const [place, text] = WIDE.get(name);
  const mark = leaf("mo", text, { stretchy: "true", lspace: "0", rspace: "0" });
  return node(place, [reader.argument(), mark], place === "mover" ? { accent: "true" } : { accentunder: "true" });
}

/** How the command of each table is read. The first table that has the name counts. */
const COMMANDS = [
  [READ, (reader, name) => READ.get(name)(reader)],
  [BIG, (reader, name) => BIG.get(name)(reader)],
  [ALPHABETS, (reader, name) => reader.alphabet(ALPHABETS.get(name))],
  [OLD_ALPHABETS, (reader, name) => inStyle(reader.rest(), OLD_ALPHABETS.get(name))],
  [LIMITS, (_, name) => functionOf(LIMITS.get(name), true)],
  [FUNCTIONS, (_, name) => functionOf(name)],
  [SPACES, (_, name) => spaceOf(SPACES.get(name))],
  [ACCENTS, accented],
  [WIDE, widened],
  [LINED, (reader, name) => node("mrow", [reader.argument()], { class: LINED.get(name) })],
  [BRACES, (reader, name) => reader.brace(BRACES.get(name))],
  [ARROWS, (reader, name) => reader.arrow(ARROWS.get(name))],
  [SYMBOLS, (_, name) => symbolOf(SYMBOLS.get(name))],
];
