// One token of an answer: how it came to be, and all that one can do with its place.

import { element, iconButton, textButton } from "../dom.js";
import { formatNumber, t } from "../languages.js";
import { term } from "../report/explain.js";
import { nameOf, stepView, storyView } from "../report/step_view.js";
import { alternatives } from "./alternatives.js";
import { Knobs } from "./knobs.js";
import { OwnWords } from "./own_words.js";
import { rich } from "./speech.js";

const TRIED = 0.8; // the temperature that one may try where nothing was drawn

export class StepPane {
  #parts = [];
  #open = { gbWhatElse: true, gbKnobs: true, gbOwn: true, gbHow: true };

  /** `actions`: move(by), take(candidate), go(changed), takeText(result), exact(changed, signal), rank(texts, here, signal). */
  constructor(actions) {
    this.actions = actions;
    this.element = element("section", { class: "step-pane", "aria-label": t("gbStep") });
  }

  clear(text) {
    this.#close();
    this.element.replaceChildren(element("p", { class: "hint" }, text));
  }

  /** `place`: { index, count, version, note, end }: where the token stands, and what is told of how it came there, and of an end that it is. */
  show(step, filters, place, isBusy) {
    this.#close();
    const { actions } = this;
    const knobs = step.stages.length ? new Knobs(step, filters, { exact: actions.exact, go: actions.go, isBusy }) : null;
    const [, ...details] = step.stages.length ? stepView(step, filters) : [];
    if (!step.draw && !step.is_given) details.find((part) => part.classList.contains("draw"))?.append(this.#tryButton(knobs));
    this.element.replaceChildren(...[
      this.#head(step, place),
      element("p", { class: "story" }, place.note ? `${place.note} ` : "", storyView(step, () => this.#shownDraw()), place.end ? element("strong", { class: "is-end" }, ` ${place.end}`) : null),
      step.stages.length ? this.#section("gbWhatElse", rich("gbWhatElseAbout", { probability: term("probability") }), alternatives(step, actions.take, isBusy)) : null,
      step.stages.length ? this.#section("gbKnobs", [t("gbKnobsAbout")], this.#made(knobs)) : null,
      this.#section("gbOwn", [t("gbOwnLead")], this.#made(this.#ownWords(step, place, isBusy))),
      details.length ? this.#section("gbHow", [t("gbHowAbout")], details) : null,
    ].filter(Boolean));
  }

  /** The draw, in sight also where its part was closed. */
  #shownDraw() {
    const draw = this.element.querySelector(".draw");
    draw.closest("details").open = true;
    return draw;
  }

  /** Where nothing was drawn: what a draw would do. */
  #tryButton(knobs) {
    const number = formatNumber(TRIED, 1);
    return textButton(t("gbTry", { number }), () => {
      this.#open.gbKnobs = knobs.element.closest("details").open = true;
      knobs.tryTemperature(TRIED);
    });
  }

  #ownWords(step, place, isBusy) {
    return new OwnWords({ rank: this.actions.rank, take: this.actions.takeText, here: place.index > 0 ? step.token.text : null, isBusy });
  }

  #made(part) {
    this.#parts.push(part);
    return part.element;
  }

  #close() {
    this.#parts.forEach((part) => part.close());
    this.#parts = [];
  }

  #head(step, { index, count, version }) {
    const move = (name, label, by, isEnd) => iconButton(name, label, () => this.actions.move(by), { disabled: isEnd });
    const where = version ? `${version} · ${t("gbTokenOf", { number: index + 1, count })}` : t("gbTokenOf", { number: index + 1, count });
    return element(
      "div",
      { class: "step-head" },
      element("h2", {}, element("span", {}, where), " ", element("bdi", { class: "big-token" }, nameOf(step.token))),
      move("left", t("gbBefore"), -1, index === 0),
      move("right", t("gbAfter"), 1, index === count - 1),
    );
  }

  /** What was closed stays closed at the next token. */
  #section(name, about, ...content) {
    const made = element("details", { open: this.#open[name], toggle: () => (this.#open[name] = made.open) }, element("summary", {}, element("h3", {}, t(name))), element("p", { class: "caption" }, about), content);
    return made;
  }
}
