// The formulas of Word (ECMA-376, 22.1) as LaTeX, which models read. Letters and operators are text there; this writes what stands around them.

const inside = (story, name) => story.names.at(-2) === name;
const isFormula = (story) => story.names.includes("oMath");
const writes = (text) => (story) => isFormula(story) && story.write(text);
const value = (tag) => tag.attribute("val") ?? "";

export const FORMULA_OPENERS = {
  f: writes("\\frac"),
  num: writes("{"),
  den: writes("{"),
  sub: writes("_{"),
  sup: writes("^{"),
  rad: writes("\\sqrt"),
  deg: writes("["),
  // A sum or an integral: its sign is a property.
  naryPr: (story) => (story.sign = "∫"),
  chr: (story, tag) => inside(story, "naryPr") && (story.sign = value(tag)),
  // Parentheses: they are properties too, and the parts between them have a line between each other.
  d: (story) => story.fences.push({ open: "(", close: ")", count: 0 }),
  begChr: (story, tag) => inside(story, "dPr") && Object.assign(story.fences.at(-1) ?? {}, { open: value(tag) }),
  endChr: (story, tag) => inside(story, "dPr") && Object.assign(story.fences.at(-1) ?? {}, { close: value(tag) }),
  e: openElement,
};

export const FORMULA_CLOSERS = {
  num: writes("}"),
  den: writes("}"),
  sub: writes("}"),
  sup: writes("}"),
  deg: writes("]"),
  naryPr: (story) => writes(story.sign)(story),
  e: (story) => story.names.at(-1) === "rad" && writes("}")(story),
  d: (story) => writes(story.fences.pop()?.close ?? "")(story),
};

function openElement(story) {
  const fence = inside(story, "d") ? story.fences.at(-1) : null;
  if (fence) writes(fence.count++ ? "|" : fence.open)(story);
  if (inside(story, "rad")) writes("{")(story);
}

/** Signs whose indices are empty have none. */
export const tidied = (text) => text.replaceAll(/\\sqrt\[\]/g, "\\sqrt").replaceAll(/[_^]\{\}/g, "");
