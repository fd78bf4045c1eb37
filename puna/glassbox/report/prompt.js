// The prompt as the model reads it: its tokens, the control tokens among them, their ids and bytes.

import { pairs, spelledOut } from "./characters.js";
import { make } from "./elements.js";
import { term } from "./explain.js";
import { count, seconds } from "./numbers.js";
import { tokenLabel } from "./token_text.js";
import { TokenStrip } from "./token_strip.js";
import { rich, t } from "./words.js";

const COLUMNS = ["columnPlace", "columnId", "columnPiece", "columnText", "columnBytes"];

/** `prompt`: that of a trace; its time may be unknown. */
export function promptView(prompt) {
  const detail = make("p", { class: "detail", "aria-live": "polite" }, t("promptChoose"));
  const strip = new TokenStrip(prompt.tokens, {
    label: t("promptStrip"),
    choose: (index) => {
      detail.replaceChildren(...detailOf(prompt.tokens[index], index));
      strip.select(index);
    },
  });
  return [
    make("p", {}, intro(prompt)),
    strip.element,
    detail,
    prompt.num_left_out ? make("p", { class: "hint" }, t("promptLeftOut", { count: count(prompt.num_left_out) })) : null,
    table(prompt.tokens),
  ].filter(Boolean);
}

function intro(prompt) {
  const values = { template: term("chat template"), tokenizer: term("tokenizer"), count: count(prompt.num_tokens), control: term("control token", t("formControl")) };
  const cached = prompt.num_cached ? [" ", ...rich("promptCached", { count: tokens(prompt.num_cached), cache: term("prefix cache") })] : [];
  const isPlain = spelledOut(prompt.tokens).filter((one) => !one.control).map((one) => one.text).join("") === prompt.given;
  return [...rich(isPlain ? "promptIntroRaw" : "promptIntro", values), ...cached, prompt.tokenizer_s === null ? "" : ` ${t("promptTook", { time: seconds(prompt.tokenizer_s) })}`];
}

function tokens(number) {
  return number === 1 ? t("oneToken") : t("tokens", { count: count(number) });
}

function detailOf(token, index) {
  const values = { place: index + 1, id: token.id, piece: tokenLabel(token.piece || textOf(token)), bytes: make("code", {}, pairs(token.bytes)) };
  return rich(token.bytes ? "promptDetail" : "promptDetailControl", values);
}

/** A table of all tokens, made when it is opened. */
function table(all) {
  const home = make("details", { class: "token-table" }, make("summary", {}, t("promptTable")));
  home.addEventListener("toggle", () => home.children.length === 1 && home.append(filled(all)), { once: true });
  return home;
}

function filled(all) {
  const rows = all.map((token, index) =>
    make("tr", {}, [index + 1, token.id, tokenLabel(token.piece), token.is_control ? "–" : tokenLabel(token.text), make("code", {}, pairs(token.bytes))].map((cell) => make("td", {}, cell))),
  );
  const head = make("tr", {}, COLUMNS.map((name) => make("th", { scope: "col" }, t(name))));
  return make("div", { class: "scroller", tabIndex: 0, role: "region", "aria-label": t("promptTable") }, make("table", {}, make("thead", {}, head), make("tbody", {}, rows)));
}
