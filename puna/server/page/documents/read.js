// Reads the text of a file that someone attaches. What kind of file it is, its first bytes say: names lie.

import { mainPartOf, readDocx } from "./docx.js";
import { Pace } from "./pace.js";
import { isPdf, readPdf } from "./pdf/reader.js";
import { DocumentProblem } from "./problem.js";
import { decodeText } from "./text.js";
import { Zip, isZip } from "./zip.js";

const MAX_MIB = 100;
const MAX_CHARACTERS = 1 << 20; // that are attached; the server refuses bodies above 8 MiB

const startsWith = (...mark) => (bytes) => mark.every((byte, at) => bytes[at] === byte);
const refuse = (textName) => () => {
  throw new DocumentProblem(textName);
};

// The first kind that fits a file's bytes reads it.
const KINDS = [
  { fits: isPdf, read: (bytes, pace) => readPdf(bytes, pace, MAX_CHARACTERS) },
  { fits: isZip, read: readArchive },
  { fits: startsWith(0xd0, 0xcf, 0x11, 0xe0), read: refuse("fileOldOffice") }, // .doc, and .docx with a password
  { fits: startsWith(0x7b, 0x5c, 0x72, 0x74, 0x66), read: refuse("fileOldOffice") }, // {\rtf
  { fits: () => true, read: readText },
];

/**
 * The text of a Blob: `{ text, pages, readPages, isCut }`, `pages` for a PDF only. Of a text that is too long the beginning is given.
 * Throws DocumentProblem for a file that cannot be read, and what `signal` was aborted with.
 */
export async function readDocument(blob, signal = null) {
  if (blob.size > MAX_MIB << 20) throw new DocumentProblem("fileTooLarge", { limit: MAX_MIB });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const found = await KINDS.find((kind) => kind.fits(bytes)).read(bytes, new Pace(signal));
  const isCut = found.text.length > MAX_CHARACTERS || found.readPages < found.pages;
  return { ...found, text: found.text.slice(0, MAX_CHARACTERS).toWellFormed(), isCut };
}

async function readArchive(bytes, pace) {
  const zip = new Zip(bytes, pace);
  if (!mainPartOf(zip)) throw new DocumentProblem("fileOtherArchive");
  return readDocx(zip, pace);
}

function readText(bytes) {
  const text = decodeText(bytes, 4 * MAX_CHARACTERS);
  if (text === null) throw new DocumentProblem("fileNoText");
  if (!text.trim()) throw new DocumentProblem("fileEmpty");
  return { text };
}
