// The objects of a PDF file (ISO 32000-1, 7.3). Numbers, arrays, true and false are those of JavaScript, a dictionary is a Map,
// a string is a Uint8Array.

export class Name {
  constructor(text) {
    this.text = text;
  }
}

/** An operator, or a word such as `endobj`. */
export class Keyword {
  constructor(text) {
    this.text = text;
  }
}

export class Ref {
  constructor(number) {
    this.number = number;
  }
}

/** A dictionary with its bytes, still packed. */
export class Stream {
  constructor(dictionary, packed) {
    Object.assign(this, { dictionary, packed });
  }
}

export const isName = (value, text) => value instanceof Name && value.text === text;
export const isKeyword = (value, text) => value instanceof Keyword && value.text === text;

/** A string for people: UTF-16 with its mark, or one byte for each character. */
export function textOfString(bytes) {
  const isWide = bytes[0] === 0xfe && bytes[1] === 0xff;
  if (isWide) return new TextDecoder("utf-16be").decode(bytes);
  return new TextDecoder(bytes[0] === 0xef && bytes[1] === 0xbb ? "utf-8" : "windows-1252").decode(bytes);
}
