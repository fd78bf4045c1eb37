// A text as its tokens, of which one is chosen: by click, and by the arrow keys, Home and End.

import { quoted, spelledOut } from "./characters.js";
import { make } from "./elements.js";
import { percent, shortPercent } from "./numbers.js";
import { CLASSES, surpriseClass } from "./surprise.js";
import { flowing } from "./token_text.js";
import { t } from "./words.js";

const MOVES = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };

export class TokenStrip {
  #tokens;

  /** `tokens`: those of the trace. `logprobs`: of each, or nothing where the strip shows no probabilities. `name`: begins their ids. */
  constructor(tokens, { label, logprobs = null, choose, name = "token" }) {
    const spelled = spelledOut(tokens);
    this.choose = choose;
    this.#tokens = tokens.map((token, index) => option(spelled[index], `${name}-${index}`, logprobs && { logprob: logprobs[index] }));
    if (this.#tokens.length) this.#tokens[0].tabIndex = 0;
    this.element = make(
      "div",
      { class: logprobs ? "strip" : "strip pieces", role: "listbox", "aria-label": label, dir: "auto", click: (event) => this.#clicked(event), keydown: (event) => this.#pressed(event) },
      this.#tokens.flatMap((token, index) => (logprobs && isSpaced(spelled[index]) ? [" ", token] : [token])),
    );
  }

  /** Shows which token is chosen. */
  select(index, { focus = false } = {}) {
    for (const chosen of this.element.querySelectorAll('[aria-selected="true"], [tabindex="0"]')) {
      chosen.setAttribute("aria-selected", "false");
      chosen.tabIndex = -1;
    }
    const token = this.#tokens[index];
    token.setAttribute("aria-selected", "true");
    token.tabIndex = 0;
    if (focus) token.focus({ preventScroll: true });
    this.#reveal(token);
  }

  get hasFocus() {
    return this.element.contains(document.activeElement);
  }

  /** Scrolls the strip itself, and never the page. */
  #reveal(token) {
    const [box, own] = [this.element.getBoundingClientRect(), token.getBoundingClientRect()];
    if (own.top < box.top || own.bottom > box.bottom) this.element.scrollTop += own.top - box.top - box.height / 3;
  }

  #clicked(event) {
    const token = event.target.closest(".token");
    if (token) this.choose(this.#tokens.indexOf(token));
  }

  #pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.#tokens.indexOf(event.target.closest(".token"));
    const last = this.#tokens.length - 1;
    const to = { Home: 0, End: last }[event.key] ?? (event.key in MOVES ? Math.max(0, Math.min(last, at + MOVES[event.key])) : at);
    if (to === at && !["Enter", " ", ...Object.keys(MOVES)].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(to);
    this.select(to, { focus: true });
  }
}

/** Whether a token begins with a space and is more than that. The space stands before its colour, which then does not end a line. */
function isSpaced({ text, control, part }) {
  return !control && !part && /^ \S/.test(text);
}

function option(spelled, id, likely) {
  const { text, control, part } = spelled;
  const share = !likely ? "" : likely.logprob === null ? t("notSampled") : percent(Math.exp(likely.logprob));
  const level = likely ? surpriseClass(likely.logprob) : null;
  const name = part ? `${text}${part}` : quoted(text);
  const properties = {
    class: ["token", level === null ? "" : `surprise-${level}`, control ? "control" : "", part ? "part" : ""].filter(Boolean).join(" "),
    role: "option",
    tabIndex: -1,
    "aria-selected": "false",
    "aria-label": share ? t("tokenLabel", { token: name, share }) : name,
    id: likely ? id : null,
  };
  if (likely && likely.logprob !== null) properties["data-likely"] = shortPercent(Math.exp(likely.logprob));
  if (!properties.id) delete properties.id;
  return make("span", properties, part ? make("span", { class: "sign" }, part) : flowing(likely && isSpaced(spelled) ? text.slice(1) : text));
}

/** What the colours and the underlines mean. */
export function surpriseLegend() {
  const samples = CLASSES.map(({ label }, level) => make("li", {}, make("span", { class: `swatch surprise-${level}`, "aria-hidden": "true" }, "ab"), t(label)));
  return make("div", { class: "legend" }, make("span", {}, t("legend")), make("ul", {}, samples));
}
