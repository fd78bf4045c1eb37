// The characters of a text file. Most are UTF-8; older ones say in no way what they are, so their bytes are looked at.

// Control characters that no text has.
const BINARY = /[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]/;

const MARKS = [[[0xef, 0xbb, 0xbf], "utf-8"], [[0xff, 0xfe], "utf-16le"], [[0xfe, 0xff], "utf-16be"]];

/** The text of a file's bytes, or of the first `maxBytes` of them; null if they are no text. */
export function decodeText(bytes, maxBytes) {
  const some = bytes.subarray(0, maxBytes);
  const text = decoded(some, encodingOf(some), some.length < bytes.length);
  return text === null || BINARY.test(text) ? null : text;
}

/** `isCut`: the last character may be incomplete. */
function decoded(bytes, encoding, isCut) {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes, { stream: isCut });
  } catch {
    return null;
  }
}

function encodingOf(bytes) {
  const [, marked] = MARKS.find(([mark]) => mark.every((one, at) => bytes[at] === one)) ?? [];
  if (marked) return marked;
  if (isWide(bytes, 1)) return "utf-16le";
  if (isWide(bytes, 0)) return "utf-16be";
  if (decoded(bytes, "utf-8", true) !== null) return "utf-8";
  return isPaired(bytes) && decoded(bytes, "gb18030", true) !== null ? "gb18030" : "windows-1252";
}

/** UTF-16 of Latin letters: each second byte is 0. */
function isWide(bytes, rest) {
  const some = bytes.subarray(0, 4096 & ~1);
  if (bytes.length < 4 || bytes.length % 2) return false;
  const zeros = [0, 0];
  some.forEach((byte, at) => (zeros[at % 2] += byte === 0 ? 1 : 0));
  return zeros[1 - rest] === 0 && zeros[rest] > some.length / 4;
}

/** Chinese characters of GB 2312 are two high bytes each; the letters of Latin-1 stand alone among ASCII. */
function isPaired(bytes) {
  let run = 0;
  for (const byte of bytes) {
    if (byte >= 0xa1) run += 1;
    else if (run % 2) return false;
    else run = 0;
  }
  return true;
}
