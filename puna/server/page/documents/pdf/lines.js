// Makes lines of the glyphs of a page. They come in the order in which the page draws them, which nearly all programs make the order of
// reading, column after column. A glyph that stands apart from the one before it begins a word, a column of a table or a line.

const [WORD, COLUMN] = [0.13, 2]; // gaps, in parts of the size of the letters; thin spaces have 0.17, kerns in words less than 0.1
const SAME_LINE = 0.6; // an index stands within it
const PARAGRAPH = 2.1; // from line to line
const BACKWARDS = 1; // an overlap beyond it is another line
const SAME_DIRECTION = 0.98; // the cosine between two

// Accents that old TeX fonts draw over or under a letter.
const ACCENTS = new Map([
  ["¨", "\u0308"], ["´", "\u0301"], ["`", "\u0300"], ["ˆ", "\u0302"], ["˜", "\u0303"], ["¯", "\u0304"], ["˘", "\u0306"], ["˙", "\u0307"],
  ["˚", "\u030a"], ["ˇ", "\u030c"], ["¸", "\u0327"], ["˛", "\u0328"], ["˝", "\u030b"],
]);

export class Lines {
  #text = [];
  #line = null; // where the last glyph stood
  #places = new Set(); // where each letter stands, to see what is drawn twice
  length = 0;

  /** A glyph at (x, y), `width` long in the direction (dx, dy), which has length 1. All in one unit. */
  add(text, x, y, dx, dy, width, size) {
    const place = { dx, dy, start: x * dx + y * dy, across: y * dx - x * dy, end: 0, size, text, at: 0 };
    const line = this.#line;
    const isSame = line !== null && isSameLine(line, place);
    if (this.#isTwice(place, isSame)) return;
    place.text = isSame ? this.#combined(text, place) : text;
    if (line && place.text === text) this.#put(between(line, place, isSame));
    if (isSame) place.across = line.across;
    place.end = place.start + width;
    place.at = this.#text.length;
    this.#put(place.text);
    this.#line = place;
  }

  get text() {
    const words = this.#text.join("");
    return words.replaceAll(/[ \t]+(?=\n|$)/g, "").replaceAll(/\u00ad(?=\n|$)/g, "-").replaceAll("\u00ad", "");
  }

  #put(text) {
    if (!text) return;
    this.#text.push(text);
    this.length += text.length;
  }

  /** Bold letters are sometimes drawn twice, a little apart: those that go back to where the same letter stands. */
  #isTwice({ text, start, across, size }, isSame) {
    if (!text.trim()) return false;
    const near = 0.15 * size;
    const [column, row] = [Math.round(start / near), Math.round(across / near)];
    const isBack = !isSame || start < this.#line.end - 0.3 * size;
    if (isBack && NEIGHBOURS.some(([right, up]) => this.#places.has(`${text} ${column + right} ${row + up}`))) return true;
    this.#places.add(`${text} ${column} ${row}`);
    return false;
  }

  /** A letter with the accent that was drawn on the same place, before it or after it; the first of the two is taken back. */
  #combined(text, place) {
    const last = this.#line;
    if (!(place.start < last.end - 0.1 * place.size)) return text;
    const [letter, accent] = ACCENTS.has(last.text) ? [text, ACCENTS.get(last.text)] : [last.text, ACCENTS.get(text)];
    if (!accent || !/^\p{L}$/u.test(letter)) return text;
    this.#text.length = last.at;
    return ((DOTLESS[letter] ?? letter) + accent).normalize("NFC");
  }
}

const DOTLESS = { ı: "i", ȷ: "j" };

const NEIGHBOURS = [-1, 0, 1].flatMap((right) => [-1, 0, 1].map((up) => [right, up]));

function isSameLine(line, place) {
  const size = Math.max(line.size, place.size);
  const isStraight = line.dx * place.dx + line.dy * place.dy > SAME_DIRECTION;
  return isStraight && Math.abs(place.across - line.across) < SAME_LINE * size && place.start > line.end - BACKWARDS * size;
}

/** What stands between two glyphs: nothing, a space, a tab or the end of a line. */
function between(line, place, isSame) {
  const size = Math.max(line.size, place.size);
  if (!isSame) {
    const step = line.across - place.across;
    return step > 0 && step < PARAGRAPH * size ? "\n" : "\n\n";
  }
  const gap = (place.start - line.end) / size;
  if (gap > COLUMN) return "\t";
  return gap > WORD && place.text !== " " && line.text !== " " ? " " : "";
}
