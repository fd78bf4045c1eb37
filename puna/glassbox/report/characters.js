// Texts of tokens for the eye: characters without a picture of their own become marks, and bytes that are part of a character say so.

// Control characters, marks that turn the direction of a text, and invisible ones; not the joiners, which emoji and scripts need.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/u;
const UNUSUAL = /[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]/u;
const SIGNS = { "\n": "↵", "\t": "⇥" };
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u;

/** Pieces of a text: `mark` if one stands for a character that cannot be seen, or that is `marked`; `breaks` after a line feed. */
export function visible(text, marked = HIDDEN) {
  const pieces = [];
  for (const character of text) {
    if (HIDDEN.test(character) || marked.test(character)) pieces.push({ text: signOf(character), mark: true, breaks: character === "\n" });
    else if (pieces.length && !pieces.at(-1).mark) pieces.at(-1).text += character;
    else pieces.push({ text: character, mark: false, breaks: false });
  }
  return pieces;
}

function signOf(character) {
  return SIGNS[character] ?? `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** How a token or a candidate is called: its text; a control token's spelling; its number, if it has neither, or is a part of a character. */
export function textOf({ id, piece, text, is_control }) {
  if (!is_control && text.includes("\ufffd")) return `${text}#${id}`;
  return (is_control ? piece : text || piece) || `#${id}`;
}

/** The same for a label, on one line: spaces at its ends are marks too, and so are spaces that are not the usual one. */
export function labelled(text) {
  const [, before, inner, after] = /^( *)(.*?)( *)$/su.exec(text);
  const spaces = (run) => (run ? [{ text: "␣".repeat(Math.min(run.length, 4)) + (run.length > 4 ? `×${run.length}` : ""), mark: true, breaks: false }] : []);
  return [...spaces(before), ...visible(inner, UNUSUAL), ...spaces(after)];
}

/** A text that flows, as plain text without hidden characters. */
export function plain(text) {
  return visible(text).map((piece) => piece.text).join("");
}

/** A label as plain text, for a sentence, whose order a text from right to left does not change. */
export function quoted(text) {
  const label = labelled(text).map((piece) => piece.text).join("");
  return RIGHT_TO_LEFT.test(label) ? `“\u2068${label}\u2069”` : `“${label}”`;
}

/** What each token of a row adds to the text: a character of several tokens comes with its last one; the others have `part`, their bytes. */
export function spelledOut(tokens) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return tokens.map((token) => {
    if (token.is_control) return { text: textOf(token), control: true, part: "" };
    if (!token.bytes) return { text: textOf(token), control: false, part: "" };
    const text = decoder.decode(bytesOf(token.bytes), { stream: true });
    return { text, control: false, part: text ? "" : pairs(token.bytes) };
  });
}

export function bytesOf(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** Bytes as people write them: "f0 9f". */
export function pairs(hex) {
  return (hex.match(/../g) ?? []).join(" ");
}
