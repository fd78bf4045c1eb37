// The panel of settings: the system prompt of this chat, sampling for all chats, and how the page looks.

import { element, textButton } from "./dom.js";
import { LANGUAGES, language, t } from "./languages.js";
import { SAMPLING, keepTyped, readTyped } from "./sampling.js";
import { THEMES, readTheme, useTheme } from "./theme.js";

/** Fills the panel. `changes`: `system(text)` and `language(name)` are told of what was chosen. */
export function showSettings(home, system, changes) {
  home.replaceChildren(
    section("systemPrompt", systemField(system, changes.system)),
    section("sampling", element("p", { class: "hint" }, t("samplingHint")), ...SAMPLING.map(samplingField), resetButton(home, changes)),
    section("appearance", themeField(), languageField(changes.language)),
  );
}

const section = (name, ...children) => element("section", {}, element("h3", {}, t(name)), children);

function systemField(system, tell) {
  const area = element("textarea", { id: "system", rows: 5, value: system, "aria-describedby": "system-hint", "aria-label": t("systemPrompt") });
  area.addEventListener("input", () => tell(area.value));
  return [area, element("p", { id: "system-hint", class: "hint" }, t("systemHint"))];
}

function samplingField(field) {
  const id = `sampling-${field.name}`;
  const words = field.text ?? field.name;
  const input = field.step ? numberInput(field) : element("textarea", { rows: 2 });
  Object.assign(input, { id, value: readTyped()[field.name] ?? "", placeholder: t("ofModel") });
  input.setAttribute("aria-describedby", `${id}-hint`);
  input.addEventListener("input", () => {
    if (input.checkValidity()) keepTyped({ ...readTyped(), [field.name]: input.value });
  });
  const label = element("label", { for: id }, t(words));
  return element("div", { class: "field" }, label, input, element("p", { id: `${id}-hint`, class: "hint" }, t(`${words}Hint`)));
}

function numberInput({ low, high, step }) {
  return element("input", { type: "number", min: low, max: high, step: step < 1 ? "any" : step, inputMode: "decimal" });
}

function resetButton(home, changes) {
  return textButton(t("resetSampling"), () => {
    keepTyped({});
    showSettings(home, home.querySelector("#system").value, changes);
  });
}

function themeField() {
  return choice("theme", THEMES, readTheme(), (theme) => t(`theme_${theme}`), useTheme);
}

function languageField(tell) {
  return choice("language", Object.keys(LANGUAGES), language(), (name) => LANGUAGES[name].nameOfLanguage, tell);
}

function choice(name, values, chosen, labelOf, tell) {
  const options = values.map((value) => element("option", { value, selected: value === chosen }, labelOf(value)));
  const select = element("select", { id: `choose-${name}`, change: () => tell(select.value) }, options);
  return element("div", { class: "field" }, element("label", { for: select.id }, t(name)), select);
}
