// Reads files from a ZIP archive by its central directory (PKWARE's APPNOTE, 4.3).

import { inflate, isTooLong, isWhole } from "./inflate.js";
import { DocumentProblem } from "./problem.js";

const MAX_ENTRIES = 20_000;
const MAX_COMMENT = 0xffff;
const [LOCAL, ENTRY, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const [STORED, DEFLATED] = [0, 8];
const ENCRYPTED = 1;

export const isZip = (bytes) => bytes.length > 4 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === LOCAL;

export class Zip {
  /** Throws DocumentProblem for bytes that are no archive. */
  constructor(bytes, pace) {
    Object.assign(this, { bytes, pace, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) });
    this.entries = new Map(this.#directory());
  }

  /** The bytes of a file; null if there is no such file. Throws DocumentProblem for one that is damaged or longer than `maxBytes`. */
  read(name, maxBytes) {
    const entry = this.entries.get(name);
    if (!entry) return null;
    if (entry.flags & ENCRYPTED) throw new DocumentProblem("fileEncrypted");
    const packed = this.#packed(entry);
    if (entry.method === STORED) return packed;
    if (entry.method !== DEFLATED) throw new DocumentProblem("fileDamaged");
    const found = inflate(packed, maxBytes, this.pace);
    if (isTooLong(found)) throw new DocumentProblem("fileTooLong");
    if (!isWhole(found)) throw new DocumentProblem("fileDamaged");
    return found.bytes;
  }

  *#directory() {
    const end = this.#end();
    const count = this.#number(end + 10, 2);
    if (count > MAX_ENTRIES) throw new DocumentProblem("fileDamaged");
    let at = this.#number(end + 16, 4);
    for (let number = 0; number < count; number += 1) {
      if (this.#number(at, 4) !== ENTRY) throw new DocumentProblem("fileDamaged");
      const size = this.#number(at + 28, 2);
      const name = new TextDecoder().decode(this.#part(at + 46, size));
      yield [name, this.#entry(at)];
      at += 46 + size + this.#number(at + 30, 2) + this.#number(at + 32, 2);
    }
  }

  #entry(at) {
    const [flags, method] = [this.#number(at + 8, 2), this.#number(at + 10, 2)];
    return { flags, method, size: this.#number(at + 20, 4), start: this.#number(at + 42, 4) };
  }

  /** Where the directory's end is told: at the end of the file, before a comment. */
  #end() {
    const first = Math.max(0, this.bytes.length - 22 - MAX_COMMENT);
    for (let at = this.bytes.length - 22; at >= first; at -= 1) if (this.#number(at, 4) === END) return at;
    throw new DocumentProblem("fileDamaged");
  }

  #packed({ size, start }) {
    if (this.#number(start, 4) !== LOCAL) throw new DocumentProblem("fileDamaged");
    return this.#part(start + 30 + this.#number(start + 26, 2) + this.#number(start + 28, 2), size);
  }

  #part(start, size) {
    if (start + size > this.bytes.length) throw new DocumentProblem("fileDamaged");
    return this.bytes.subarray(start, start + size);
  }

  #number(at, size) {
    if (at < 0 || at + size > this.bytes.length) throw new DocumentProblem("fileDamaged");
    return size === 2 ? this.view.getUint16(at, true) : this.view.getUint32(at, true);
  }
}
