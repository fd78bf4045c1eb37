// Shows the cause of an error text, as `puna why` finds it. Causes and cures are in English in every language of the page.

import { element } from "./dom.js";
import { findingRow, remedyView } from "./findings.js";
import { t } from "./languages.js";

const SURE = 0.9; // of a cause's confidence: below it, puna says that it is not sure

/** `answer`: what the server's `page/why` says. */
export function explanation({ known, diagnosis, line, advice, num_causes: count }) {
  if (known) return told(diagnosis);
  return [element("p", {}, t("whyUnknown", { count })), quoted(line), listed("whyAdvice", advice), element("p", {}, t("whyUnknownHint"))];
}

function told(found) {
  const { name, topic, kind, remedy, findings, concept } = found;
  return [
    element("p", { class: "cause-name" }, `${topic}: ${name}`, kind ? ` (${kind})` : ""),
    quoted(found.line),
    english("p", found.cause),
    found.here ? english("p", found.here) : null,
    section("whyCure", [list(found.cure), remedyView(remedy)], found.cure.length || remedy),
    listed("whyAdvice", found.advice),
    section("whyFindings", findings.map(findingRow), findings.length),
    listed("whySettings", found.settings),
    section("whyInstead", english("p", found.instead), found.instead),
    section("whyConcept", element("pre", {}, `puna explain ${concept}`), concept),
    listed("whyOthers", found.others.filter(([, , , role]) => role !== "effect").map(([other, cause]) => `${other}: ${cause}`)),
    doubt(found),
  ];
}

function doubt({ role, unexplained, confidence }) {
  return [
    role === "symptom" ? element("p", {}, t("whyWarning")) : null,
    unexplained ? [element("p", {}, t("whyAside")), quoted(unexplained)] : confidence < SURE ? element("p", {}, t("whyPart")) : null,
  ];
}

const english = (name, ...children) => element(name, { lang: "en" }, children);
const quoted = (line) => (line ? element("blockquote", {}, line) : null);
const list = (items) => element("ul", { lang: "en" }, items.map((item) => element("li", {}, item.trim())));
const listed = (title, items) => section(title, list(items), items.length);
const section = (title, body, isThere) => (isThere ? [element("h4", {}, t(title)), body] : null);
