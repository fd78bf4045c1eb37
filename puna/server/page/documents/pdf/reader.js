// The text of a PDF file.

import { DocumentProblem } from "../problem.js";
import { Content } from "./content.js";
import { PdfFile } from "./file.js";
import { Lines } from "./lines.js";
import { pagesOf } from "./pages.js";

const MARK = "%PDF-";
const MAX_BEFORE = 1024; // bytes before the mark; places in the file count from it
const MOSTLY = 0.5;

const markAt = (bytes) => String.fromCharCode(...bytes.subarray(0, MAX_BEFORE + MARK.length)).indexOf(MARK);

export const isPdf = (bytes) => markAt(bytes) >= 0;

/** `{ text, pages, readPages }`. Reading ends after the page that reaches `maxCharacters`. Throws DocumentProblem. */
export async function readPdf(bytes, pace, maxCharacters) {
  const file = new PdfFile(bytes.subarray(markAt(bytes)), pace);
  const pages = await pagesOf(file);
  if (!pages.length) throw new DocumentProblem("fileDamaged");
  const content = new Content(file);
  const texts = [];
  let length = 0;
  for (const { page, resources } of pages) {
    const lines = new Lines();
    await content.read(page, resources, lines);
    await pace.pause();
    texts.push(lines.text.trim());
    length += lines.length;
    if (length > maxCharacters) break;
  }
  const text = texts.filter(Boolean).join("\n\n");
  requireText(text, content.counts, file.isRecovered);
  return { text, pages: pages.length, readPages: texts.length };
}

function requireText(text, { glyphs, unknown }, isRecovered) {
  if (unknown > MOSTLY * glyphs) throw new DocumentProblem("pdfUnknownLetters");
  if (!text.trim()) throw new DocumentProblem(isRecovered ? "fileDamaged" : "pdfNoText");
}
