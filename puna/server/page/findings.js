// Shows what the doctor finds: what is wrong first, with why it matters and how to fix it, and what is fine behind one word.

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";
import { t } from "./languages.js";

const ORDER = ["error", "warning", "note"];

/** `answer`: what the server's `page/doctor` says. */
export function findingsView({ findings, age_s: age, hides_paths: hides }) {
  const wrong = ORDER.flatMap((state) => findings.filter((one) => one.state === state));
  const fine = findings.filter(({ state }) => state === "ok");
  return [
    element("p", { class: "hint" }, t("doctorAgo", { count: Math.round(age) })),
    hides ? element("p", { class: "hint" }, t("doctorHides")) : null,
    wrong.map(findingRow),
    element("details", {}, element("summary", {}, t("doctorFine", { count: fine.length })), fine.map(findingRow)),
  ];
}

export function findingRow({ check, state, found, effect, remedy }) {
  const head = element("p", { class: "found" }, element("strong", {}, t(`state_${state}`)), " ", element("span", { lang: "en" }, found), " ", element("small", {}, check));
  const matters = effect ? element("p", { lang: "en" }, effect) : null;
  return element("div", { class: `finding ${state === "note" ? "remark" : state}` }, head, matters, state === "ok" ? null : remedyView(remedy));
}

export function remedyView(remedy) {
  if (!remedy) return null;
  const { words, commands, needs_reboot: reboots } = remedy;
  return element(
    "div",
    { class: "remedy" },
    words ? element("p", { lang: "en" }, words) : null,
    commands.map((command) => element("div", { class: "command" }, element("pre", { tabIndex: 0 }, command), copyButton(() => command))),
    reboots ? element("p", {}, t("whyReboot")) : null,
  );
}
