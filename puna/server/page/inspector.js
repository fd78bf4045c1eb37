// Shows each request as it went to the server: its body, the events of its answer, and the same as curl and as Python.

import { copyButton } from "./clipboard.js";
import { byId, element, textButton } from "./dom.js";
import { t } from "./languages.js";
import { asCurl, asPython } from "./request_code.js";

const MAX_RECORDS = 30;
const MAX_EVENTS = 2000; // shown of one request
const REFRESH_MS = 250;

const TABS = {
  body: (record) => JSON.stringify(record.body, null, 2),
  events: (record) => eventsOf(record),
  curl: (record) => asCurl(location.origin, record.body),
  python: (record) => asPython(location.origin, record.body),
};

export class Inspector {
  #records = [];
  #chosen = null;
  #tab = "body";
  #timer = 0;

  constructor(home) {
    this.home = home;
  }

  /** A new request; `event` and `end` of what is returned tell how it goes on. */
  begin(body) {
    const record = { body, at: new Date(), began: performance.now(), events: [], state: "" };
    this.#records = [record, ...this.#records].slice(0, MAX_RECORDS);
    this.#chosen = record;
    this.#later();
    return {
      event: (event) => this.#add(record, event),
      end: (state) => this.#end(record, state),
    };
  }

  show() {
    if (!this.#chosen) {
      this.home.replaceChildren(element("p", { class: "hint" }, t("inspectorEmpty")));
      return;
    }
    const text = TABS[this.#tab](this.#chosen);
    const shown = element("pre", { tabIndex: 0, id: "inspected", role: "tabpanel", "aria-label": t(`tab_${this.#tab}`) }, text);
    this.home.replaceChildren(this.#list(), this.#tabs(), element("div", { class: "inspected" }, copyButton(() => text), shown));
  }

  #list() {
    const options = this.#records.map((record, number) => element("option", { value: number, selected: record === this.#chosen }, nameOf(record)));
    const select = element("select", { "aria-label": t("requests"), change: () => this.#choose(this.#records[select.value]) }, options);
    return select;
  }

  #tabs() {
    const tab = (name) =>
      textButton(t(`tab_${name}`), () => this.#turnTo(name), {
        role: "tab", id: `tab-${name}`, "aria-selected": String(name === this.#tab), "aria-controls": "inspected", tabIndex: name === this.#tab ? 0 : -1,
      });
    return element("div", { role: "tablist", class: "tabs", "aria-label": t("inspector"), keydown: (event) => this.#step(event) }, Object.keys(TABS).map(tab));
  }

  #choose(record) {
    this.#chosen = record;
    this.show();
    this.home.querySelector("select").focus();
  }

  #turnTo(name) {
    this.#tab = name;
    this.show();
    byId(`tab-${name}`).focus();
  }

  /** The arrow keys go from tab to tab, round and round. */
  #step(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const names = Object.keys(TABS);
    this.#turnTo(names.at((names.indexOf(this.#tab) + by) % names.length));
  }

  #add(record, event) {
    record.events.push([performance.now() - record.began, event]);
    if (record === this.#chosen && this.#tab === "events") this.#later();
  }

  #end(record, state) {
    record.state = state;
    this.#later();
  }

  /** Shows it again, a few times a second at most, and not while one uses its list. */
  #later() {
    if (this.#timer || byId("inspector").hidden) return;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      if (!this.home.contains(document.activeElement)) this.show();
    }, REFRESH_MS);
  }
}

function nameOf(record) {
  const time = record.at.toLocaleTimeString();
  return `${time}  ${record.body.model}  ${record.state}`;
}

function eventsOf({ events }) {
  const rows = events.slice(0, MAX_EVENTS).map(([ms, event]) => `${ms.toFixed(0).padStart(7)} ms  ${JSON.stringify(event)}`);
  return events.length > MAX_EVENTS ? [...rows, t("moreEvents", { count: events.length - MAX_EVENTS })].join("\n") : rows.join("\n");
}
