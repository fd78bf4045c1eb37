// Letters of another style: Unicode has them as characters of their own (Mathematical Alphanumeric Symbols, U+1D400).

// Where the capital letters, the small ones and the digits begin, and the capital and small Greek letters. 0: there are none.
const STARTS = {
  bold: [0x1d400, 0x1d41a, 0x1d7ce, 0x1d6a8, 0x1d6c2],
  italic: [0x1d434, 0x1d44e, 0, 0x1d6e2, 0x1d6fc],
  boldItalic: [0x1d468, 0x1d482, 0x1d7ce, 0x1d71c, 0x1d736],
  script: [0x1d49c, 0x1d4b6, 0, 0, 0],
  fraktur: [0x1d504, 0x1d51e, 0, 0, 0],
  double: [0x1d538, 0x1d552, 0x1d7d8, 0, 0],
  sans: [0x1d5a0, 0x1d5ba, 0x1d7e2, 0, 0],
  mono: [0x1d670, 0x1d68a, 0x1d7f6, 0, 0],
};

// Letters that Unicode had before: their places above are empty.
const OLDER = {
  italic: { h: "ℎ" },
  script: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  fraktur: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
  double: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
};

const RANGES = ["AZ", "az", "09", "ΑΩ", "αω"];

/** The styles by the commands that ask for them. "normal" is upright. */
export const ALPHABETS = new Map([
  ["mathbb", "double"], ["Bbb", "double"], ["mathbf", "bold"], ["boldsymbol", "boldItalic"], ["bm", "boldItalic"], ["mathcal", "script"],
  ["mathscr", "script"], ["mathfrak", "fraktur"], ["mathsf", "sans"], ["mathtt", "mono"], ["mathit", "italic"], ["mathrm", "normal"],
  ["mathnormal", "letter"],
]);

/** The old commands that change the rest of their group, such as {\bf x}. */
export const OLD_ALPHABETS = new Map([
  ["bf", "bold"], ["rm", "normal"], ["it", "italic"], ["cal", "script"], ["sf", "sans"], ["tt", "mono"],
]);

/** A text in another style. A character that the style lacks stays as it is. */
export function restyled(text, style) {
  return style in STARTS ? Array.from(text, (one) => restyledCharacter(one, style)).join("") : text;
}

function restyledCharacter(one, style) {
  if (OLDER[style]?.[one]) return OLDER[style][one];
  const range = RANGES.findIndex((ends) => one.length === 1 && one >= ends[0] && one <= ends[1]);
  const start = range < 0 ? 0 : STARTS[style][range];
  return start ? String.fromCodePoint(start + one.charCodeAt(0) - RANGES[range].charCodeAt(0)) : one;
}
