// The list of served models, and which one answers.

import { byId, element } from "./dom.js";
import { t } from "./languages.js";

const NAME = "puna.model";

export class ModelPicker {
  #models = [];

  constructor(tell) {
    this.select = byId("model");
    this.select.addEventListener("change", () => {
      localStorage.setItem(NAME, this.select.value);
      tell();
    });
  }

  show(models) {
    this.#models = models;
    const wanted = localStorage.getItem(NAME);
    const chosen = models.some(({ id }) => id === wanted) ? wanted : models[0]?.id;
    this.select.replaceChildren(...models.map((model) => element("option", { value: model.id, selected: model.id === chosen }, labelOf(model))));
  }

  get name() {
    return this.select.value;
  }

  /** The tokens of its context; undefined while it is not loaded. */
  get contextLength() {
    return this.#models.find(({ id }) => id === this.name)?.max_model_len;
  }
}

const labelOf = (model) => (model.max_model_len ? model.id : t("modelNotLoaded", { name: model.id }));
