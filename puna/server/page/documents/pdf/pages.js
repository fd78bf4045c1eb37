// The pages of a PDF file in their order (ISO 32000-1, 7.7.3).

import { DocumentProblem } from "../problem.js";
import { Ref, isName } from "./objects.js";

const MAX_PAGES = 20_000;

/** The pages, each with the resources that it or a node above it has. A file whose tree is broken gives the pages that are found. */
export async function pagesOf(file) {
  const root = file.root instanceof Map ? file.root : new Map();
  const pages = await walked(file, root.get("Pages"));
  if (pages.length) return pages;
  return [...file.dictionaries()].filter((one) => isName(file.get(one, "Type"), "Page")).map((one) => pageOf(file, one, new Map()));
}

const pageOf = (file, page, resources) => ({ page, resources: page.has("Resources") ? file.dictionary(page, "Resources") : resources });

/** The pages below a node. No node is walked twice, so a loop ends; `waiting` stands for recursion, so depth costs nothing. */
async function walked(file, top) {
  const waiting = [[top, new Map()]];
  const [seen, pages] = [new Set(), []];
  while (waiting.length) {
    const [value, above] = waiting.pop();
    const node = file.resolve(value);
    const identity = value instanceof Ref ? value.number : node;
    if (!(node instanceof Map) || seen.has(identity)) continue;
    seen.add(identity);
    if (seen.size > MAX_PAGES) throw new DocumentProblem("fileTooLong");
    await file.pace.pause();
    const kids = file.get(node, "Kids");
    const found = pageOf(file, node, above);
    if (Array.isArray(kids) && !isName(file.get(node, "Type"), "Page")) for (const kid of kids.toReversed()) waiting.push([kid, found.resources]);
    else pages.push(found);
  }
  return pages;
}
