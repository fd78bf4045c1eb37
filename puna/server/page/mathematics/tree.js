// The tree of a formula: plain data in the shape of MathML. mathematics.js makes elements of it.
//
// A node has a `name`, `attributes`, and `children` or a `text`. Its `kind` is TeX's class of atoms, which decides the space between
// neighbours: ordinary, operator, function, binary, relation, open, close, punctuation, space.

const [THIN, MEDIUM, THICK] = ["0.1667em", "0.2222em", "0.2778em"];

/** The space on both sides of an operator, by its class. In small sizes, as in an index, TeX leaves it out. */
const SIDES = { binary: [MEDIUM, MEDIUM], relation: [THICK, THICK], punctuation: ["0", THIN] };

export const node = (name, children, attributes = {}, kind = "ordinary") => ({ name, children, attributes, kind });
export const leaf = (name, text, attributes = {}, kind = "ordinary") => ({ name, text, attributes, kind });

export const spaceOf = (width) => leaf("mspace", "", { width: `${width}em` }, "space");

/** Text between symbols. MathML drops spaces at the ends, so they are hard ones. */
export const textLeaf = (text, attributes = {}) => leaf("mtext", text.replaceAll(/ /g, "\u00a0"), attributes);

const PLAIN = { stretchy: "false", lspace: "0", rspace: "0" };
const FENCE = { lspace: "0", rspace: "0", symmetric: "true" };

/** What a symbol of each class becomes. */
const MADE = {
  letter: (text) => leaf("mi", text),
  upright: (text) => leaf("mi", text, { mathvariant: "normal" }),
  ordinary: (text) => leaf("mo", text, { ...PLAIN }),
  binary: (text) => leaf("mo", text, {}, "binary"),
  relation: (text) => leaf("mo", text, { stretchy: "false" }, "relation"),
  operator: (text) => ({ ...leaf("mo", text, {}, "operator"), limits: "movable" }),
  integral: (text) => leaf("mo", text, {}, "operator"),
  open: (text) => leaf("mo", text, { form: "prefix", ...PLAIN }, "open"),
  close: (text) => leaf("mo", text, { form: "postfix", ...PLAIN }, "close"),
  bar: (text) => leaf("mo", text, { ...PLAIN }),
  punctuation: (text) => leaf("mo", text, { separator: "true" }, "punctuation"),
};

export const symbolOf = ({ kind, text }) => MADE[kind](text);

/** A name such as sin, or lim with what stands below it. */
export function functionOf(text, hasLimits = false) {
  const made = leaf("mo", text.replaceAll(" ", "\u2009"), { lspace: "0", rspace: "0", ...(hasLimits ? { movablelimits: "true" } : {}) }, "function");
  return hasLimits ? { ...made, limits: "movable" } : made;
}

/** A parenthesis that is as high as what it encloses, or of a given size. */
export function fence(text, form, size = 0) {
  const fixed = size ? { minsize: `${size}em`, maxsize: `${size}em` } : {};
  return leaf("mo", text, { form, stretchy: "true", ...FENCE, ...fixed }, { prefix: "open", postfix: "close" }[form] ?? "ordinary");
}

/** Neighbours as one node, with their spaces. A single one stays as it is. */
export function rowOf(nodes, isSmall = false) {
  space(nodes, isSmall);
  return nodes.length === 1 ? nodes[0] : node("mrow", nodes);
}

const NO_OPERAND = new Set([undefined, "binary", "relation", "open", "operator", "function", "punctuation"]);
const NO_RIGHT_OPERAND = new Set([undefined, "relation", "close", "punctuation"]);

/** Sets the space around the operators of a row. A minus without a left operand is a sign. */
function space(nodes, isSmall) {
  const inked = nodes.filter((one) => one.kind !== "space");
  let before;
  inked.forEach((one, at) => {
    const after = inked[at + 1]?.kind;
    if (one.kind === "binary" && (NO_OPERAND.has(before) || NO_RIGHT_OPERAND.has(after))) one.kind = "ordinary";
    const [left, right] = one.kind === "function" ? sidesOfFunction(before, after) : sidesOf(one, isSmall);
    const core = coreOf(one);
    if (core) Object.assign(core.attributes, { lspace: core.attributes.lspace ?? left, rspace: core.attributes.rspace ?? right });
    if (core && one.kind === "function") Object.assign(core.attributes, { lspace: left, rspace: right });
    before = one.kind;
  });
}

function sidesOf(one, isSmall) {
  return (isSmall ? null : SIDES[one.kind]) ?? (one.kind === "operator" ? ["0", THIN] : ["0", "0"]);
}

const sidesOfFunction = (before, after) => [
  ["ordinary", "close"].includes(before) ? THIN : "0",
  ["ordinary", "operator", "function"].includes(after) ? THIN : "0",
];

const CORES = new Set(["msub", "msup", "msubsup", "munder", "mover", "munderover"]);

/** The operator inside its scripts, which carries the space of the whole. */
function coreOf(one) {
  let core = one;
  while (CORES.has(core.name)) [core] = core.children;
  return core.name === "mo" ? core : null;
}

/** A group such as {,} is an ordinary symbol: it has no space around it. */
export function ordinary(one) {
  one.kind = one.kind === "space" ? "space" : "ordinary";
  if (one.name === "mo") Object.assign(one.attributes, { lspace: "0", rspace: "0" });
  return one;
}

/** A base with what stands below and above it: at its side, or, as with a sum, at its middle. */
export function scripted(base, below, above, limits = base.limits) {
  const names = limits ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
  const name = names[below && above ? 2 : Number(!below)];
  const made = node(name, [base, below, above].filter(Boolean), {}, base.kind);
  if (limits && base.name === "mo") base.attributes.movablelimits = String(limits === "movable");
  return made;
}

/** Changes the text of every letter and digit of a tree. */
export function mapLetters(one, change) {
  if (one.children) one.children.forEach((child) => mapLetters(child, change));
  else if (["mi", "mn"].includes(one.name)) change(one);
  return one;
}
