// Chemical formulas, \ce{2 H2 + O2 -> 2 H2O}, written as the LaTeX of reader.js.

const ARROWS = { "<=>": "\\rightleftharpoons", "<->": "\\leftrightarrow", "->": "\\rightarrow", "<-": "\\leftarrow", "=": "=" };
const PIECE = /(<=>|<->|->|<-)|(\s+)|([A-Z][a-z]?|[)\]])(\d+)?|\^\{([^{}]*)\}|\^([+-]|\d*[+-])|_\{?(\w+)\}?|\((aq|s|l|g)\)|([\s\S])/g;

/** The LaTeX of a chemical formula: a digit after an element is an index, one before it a count. */
export function chemistry(text) {
  return text.replaceAll(PIECE, (whole, arrow, space, symbol, count, braced, charge, below, state) => {
    if (arrow) return ARROWS[arrow];
    if (space) return " ";
    if (symbol) return `\\mathrm{${symbol}}${count ? `_{${count}}` : ""}`.replace(/\\mathrm\{([)\]])\}/, "$1");
    if (braced || charge) return `^{${braced ?? charge}}`;
    if (below) return `_{${below}}`;
    return state ? `\\,\\text{(${state})}` : whole;
  });
}
