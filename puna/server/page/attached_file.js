// A file in a message: its name and what is known of it. Its text is folded away.

import { element, icon } from "./dom.js";
import { t } from "./languages.js";
import { aboutTokens } from "./tokens.js";

const MAX_SHOWN = 100_000; // characters; more of them slow the page down

/** "12 pages · about 3,400 tokens" */
export function facts({ text, pages, readPages, isCut }) {
  return [pagesOf(pages, readPages), t("fileTokens", { count: aboutTokens(text) }), isCut && !pages ? t("fileBeginning") : ""]
    .filter(Boolean).join(" · ");
}

function pagesOf(pages, readPages) {
  if (!pages) return "";
  return readPages < pages ? t("filePagesOf", { first: readPages, all: pages }) : t("filePages", { count: pages });
}

/** An entry of a list. The text becomes part of the page when it is unfolded. */
export function attachedFile(file) {
  const summary = element("summary", {}, icon("file"), element("span", {}, file.name), element("span", { class: "hint" }, facts(file)));
  const details = element("details", { class: "file", toggle: () => unfold(details, file) }, summary);
  return element("li", {}, details);
}

function unfold(details, { text }) {
  if (!details.open || details.querySelector("pre")) return;
  const rest = text.length > MAX_SHOWN ? element("p", { class: "hint" }, t("fileRest", { count: text.length - MAX_SHOWN })) : null;
  details.append(element("pre", { tabIndex: 0 }, text.slice(0, MAX_SHOWN)), ...[rest].filter(Boolean));
}
