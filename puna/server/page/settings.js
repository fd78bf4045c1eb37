// The panel of settings: the system prompt of this chat, sampling for all chats, and how the page looks.

import { element, textButton } from "./dom.js";
import { LANGUAGES, formatNumber, language, t } from "./languages.js";
import { SAMPLING, TEMPERATURE_OF_ANOTHER, keepTyped, readTyped, suits } from "./sampling.js";
import { THEMES, readTheme, useTheme } from "./theme.js";

/** Fills the panel, for the `model` that answers. `changes`: `system(text)` and `language(name)` are told of what was chosen. */
export function showSettings(home, system, model, changes) {
  const reset = textButton(t("resetSampling"), () => {
    keepTyped({});
    showSettings(home, home.querySelector("#system").value, model, changes);
  });
  home.replaceChildren(
    section("systemPrompt", systemField(system, changes.system)),
    section("sampling", element("p", { class: "hint" }, t("samplingHint")), samplingFields(model), reset),
    section("appearance", themeField(), languageField(changes.language)),
  );
}

const section = (name, ...children) => element("section", {}, element("h3", {}, t(name)), children);

function systemField(system, tell) {
  const area = element("textarea", { id: "system", rows: 5, value: system, "aria-describedby": "system-hint", "aria-label": t("systemPrompt") });
  area.addEventListener("input", () => tell(area.value));
  return [area, element("p", { id: "system-hint", class: "hint" }, t("systemHint"))];
}

/** The fields that most people want, and the others behind one word. */
function samplingFields(model) {
  const fields = SAMPLING.filter((field) => suits(field, model));
  const shown = (field) => samplingField(field, model);
  const isRare = ({ rare }) => rare;
  const typed = readTyped();
  const isOpen = fields.some((field) => isRare(field) && typed[field.name]);
  const more = element("details", { open: isOpen }, element("summary", {}, t("moreSampling")), fields.filter(isRare).map(shown));
  return [...fields.filter((field) => !isRare(field)).map(shown), more];
}

function samplingField(field, model) {
  const id = `sampling-${field.name}`;
  const words = field.text ?? field.name;
  const about = t(`${words}Hint`, { another: formatNumber(TEMPERATURE_OF_ANOTHER, 1) });
  const input = inputOf(field);
  Object.assign(input, { id, value: readTyped()[field.name] ?? "", placeholder: ofModel(model?.[field.name]) });
  input.setAttribute("aria-describedby", `${id}-hint`);
  const hint = element("p", { id: `${id}-hint`, class: "hint" }, about);
  input.addEventListener("input", () => {
    const isValid = input.checkValidity();
    hint.textContent = isValid ? about : t("samplingRange", field);
    keepTyped({ ...readTyped(), [field.name]: isValid ? input.value : "" });
  });
  return element("div", { class: "field" }, element("label", { for: id }, t(words)), input, hint);
}

/** What stands in an empty field: that the model's own value applies, and which, if it is known. */
const ofModel = (value) => (Number.isFinite(value) ? t("ofModelValue", { value: formatNumber(value, 2) }) : t("ofModel"));

function inputOf(field) {
  if (field.choices) return choiceInput(field);
  return field.step ? numberInput(field) : element("textarea", { rows: 2 });
}

function choiceInput({ choices }) {
  const options = choices.map((value) => element("option", { value }, t(`effort_${value}`)));
  return element("select", {}, element("option", { value: "" }, t("ofModel")), options);
}

function numberInput({ low, high, step }) {
  return element("input", { type: "number", min: low, max: high, step: step < 1 ? "any" : step, inputMode: "decimal" });
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
