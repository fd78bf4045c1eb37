// The files that are to go along with the next message. Each is read as soon as it is attached.

import { facts } from "./attached_file.js";
import { element, icon, iconButton } from "./dom.js";
import { t } from "./languages.js";
import { readDocument } from "./documents/read.js";
import { DocumentProblem } from "./documents/problem.js";

export class Attachments {
  #entries = []; // { name, reading: AbortController } while a file is read, then { name, file }

  /** `tell(text)`: a problem in words. `changed()`: the list is another. */
  constructor(home, tell, changed) {
    Object.assign(this, { home, tell, changed });
  }

  get isReading() {
    return this.#entries.some((entry) => !entry.file);
  }

  get isEmpty() {
    return !this.#entries.length;
  }

  /** The files that were read. */
  get files() {
    return this.#entries.flatMap(({ file }) => file ?? []);
  }

  /** The files that were read, which leave the list. */
  take() {
    const { files } = this;
    this.#entries = [];
    this.show();
    return files;
  }

  /** Reads files, one after the other. What cannot be read leaves the list with a word why. */
  async add(files) {
    const entries = files.map((file) => ({ name: file.name, source: file, reading: new AbortController() }));
    this.#entries.push(...entries);
    this.show();
    for (const entry of entries) {
      await this.#read(entry);
      this.show();
    }
  }

  async #read(entry) {
    try {
      entry.reading.signal.throwIfAborted();
      const { text, pages, readPages, isCut } = await readDocument(entry.source, entry.reading.signal);
      entry.file = { name: entry.name, text, pages: pages ?? 0, readPages: readPages ?? 0, isCut };
    } catch (error) {
      this.#drop(entry);
      if (!entry.reading.signal.aborted) this.tell(t(problemOf(error).textName, { name: entry.name, ...problemOf(error).values }));
    }
  }

  #drop(entry) {
    this.#entries = this.#entries.filter((other) => other !== entry);
  }

  #remove(entry) {
    entry.reading.abort();
    this.#drop(entry);
    this.show();
    this.changed();
  }

  show() {
    this.home.hidden = this.isEmpty;
    this.home.replaceChildren(...this.#entries.map((entry) => this.#item(entry)));
  }

  #item(entry) {
    const remove = iconButton("close", t("removeFile", { name: entry.name }), () => this.#remove(entry));
    const about = element("span", { class: "hint" }, entry.file ? facts(entry.file) : t("fileReading"));
    return element("li", { class: "file", "aria-busy": String(!entry.file) }, icon("file"), element("span", {}, entry.name), about, remove);
  }
}

/** A file that a browser cannot open, or whose reading fails in a way that nobody foresaw, counts as damaged. */
function problemOf(error) {
  if (error instanceof DocumentProblem) return error;
  console.info("reading a file failed:", error);
  return new DocumentProblem("fileDamaged");
}
