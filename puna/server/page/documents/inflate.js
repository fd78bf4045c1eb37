// Unpacks deflated data (RFC 1951, RFC 1950). The browser's DecompressionStream is of no use here: bytes after the end, damage and a wrong
// checksum are errors that cost it the last of what it had read, and PDF files have all three; and it is asynchronous, so an object that is
// packed could not be read in the middle of another one.

const WHOLE = "whole";
const DAMAGED = "damaged"; // what came before the damage is there
const TOO_LONG = "too long";

const FAST_BITS = 10; // codes up to this length are looked up, longer ones are followed bit by bit
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const [LENGTHS, LENGTH_BITS] = steps(3, [8, 4, 4, 4, 4, 4], 28);
LENGTHS.push(258);
LENGTH_BITS.push(0);
const [DISTANCES, DISTANCE_BITS] = steps(1, [4, ...Array(13).fill(2)], 30);

/** Bases that grow by 2^bits; `counts` tells how many have 0 bits, 1 bit, 2 bits and so on. */
function steps(first, counts, size) {
  const bits = counts.flatMap((count, extra) => Array(count).fill(extra)).slice(0, size);
  let base = first;
  return [bits.map((extra) => (base += 2 ** extra) - 2 ** extra), bits];
}

class Damage extends Error {}
class TooLong extends Error {}

/** `{ bytes, state }` of deflated data. `pace` ends work that takes too long. */
export function inflate(packed, maxBytes, pace) {
  const inflater = new Inflater(packed, maxBytes, pace);
  return { state: inflater.run(), bytes: inflater.output.subarray(0, inflater.length) };
}

/** The same of a zlib stream; its header and its checksum are skipped. */
export function inflateZlib(packed, maxBytes, pace) {
  const hasHeader = (packed[0] & 15) === 8 && ((packed[0] << 8) | packed[1]) % 31 === 0;
  return inflate(hasHeader ? packed.subarray(2) : packed, maxBytes, pace);
}

export const isWhole = (found) => found.state === WHOLE;
export const isTooLong = (found) => found.state === TOO_LONG;

class Inflater {
  constructor(packed, maxBytes, pace) {
    Object.assign(this, { packed, maxBytes, pace, at: 0, hold: 0, count: 0, length: 0 });
    this.output = new Uint8Array(Math.min(maxBytes, 4 * packed.length + 1024));
  }

  run() {
    try {
      while (!this.block());
      return WHOLE;
    } catch (error) {
      if (error instanceof Damage) return DAMAGED;
      if (error instanceof TooLong) return TOO_LONG;
      throw error;
    }
  }

  /** Reads a block; true after the last one. */
  block() {
    this.pace.check();
    const isLast = this.bits(1) === 1;
    const kind = this.bits(2);
    if (kind === 0) this.stored();
    else if (kind === 1) this.coded(FIXED.symbols, FIXED.distances);
    else if (kind === 2) this.dynamic();
    else throw new Damage();
    return isLast;
  }

  // --- bits, the lowest first

  fill(count) {
    while (this.count < count && this.at < this.packed.length) {
      this.hold |= this.packed[this.at] << this.count;
      this.at += 1;
      this.count += 8;
    }
  }

  drop(count) {
    if (count > this.count) throw new Damage();
    this.hold >>>= count;
    this.count -= count;
  }

  bits(count) {
    this.fill(count);
    const value = this.hold & ((1 << count) - 1);
    this.drop(count);
    return value;
  }

  symbol(code) {
    this.fill(15);
    const entry = code.fast[this.hold & ((1 << FAST_BITS) - 1)];
    if (!entry) return this.longSymbol(code);
    this.drop(entry & 15);
    return entry >> 4;
  }

  longSymbol({ counts, symbols }) {
    let [value, first, index] = [0, 0, 0];
    for (let length = 1; length <= 15; length += 1) {
      value |= (this.hold >> (length - 1)) & 1;
      if (value - counts[length] < first) {
        this.drop(length);
        return symbols[index + value - first];
      }
      index += counts[length];
      first = (first + counts[length]) << 1;
      value <<= 1;
    }
    throw new Damage();
  }

  // --- blocks

  stored() {
    this.drop(this.count & 7);
    const length = this.bits(16);
    if (this.bits(16) !== (~length & 0xffff)) throw new Damage();
    const start = this.at - this.count / 8; // what was filled already
    [this.hold, this.count] = [0, 0];
    const piece = this.packed.subarray(start, start + length);
    this.reserve(piece.length);
    this.output.set(piece, this.length);
    this.length += piece.length;
    this.at = start + piece.length;
    if (piece.length < length) throw new Damage();
  }

  dynamic() {
    const [numSymbols, numDistances, numLengths] = [this.bits(5) + 257, this.bits(5) + 1, this.bits(4) + 4];
    const lengths = new Uint8Array(19);
    for (let at = 0; at < numLengths; at += 1) lengths[ORDER[at]] = this.bits(3);
    const all = this.codeLengths(codeOf(lengths), numSymbols + numDistances);
    this.coded(codeOf(all.subarray(0, numSymbols)), codeOf(all.subarray(numSymbols)));
  }

  codeLengths(code, size) {
    const lengths = new Uint8Array(size);
    for (let at = 0; at < size; ) {
      const symbol = this.symbol(code);
      const [value, count] = symbol < 16 ? [symbol, 1] : this.repeated(symbol, lengths[at - 1]);
      if (value === undefined || at + count > size) throw new Damage();
      lengths.fill(value, at, at + count);
      at += count;
    }
    return lengths;
  }

  repeated(symbol, before) {
    if (symbol === 16) return [before, 3 + this.bits(2)];
    return [0, symbol === 17 ? 3 + this.bits(3) : 11 + this.bits(7)];
  }

  coded(symbols, distances) {
    for (let symbol = this.symbol(symbols); symbol !== 256; symbol = this.symbol(symbols)) {
      if (this.length + 258 > this.output.length) this.reserve(258);
      if (symbol < 256) this.output[this.length++] = symbol;
      else this.copy(symbol - 257, distances);
    }
  }

  copy(index, distances) {
    if (index >= LENGTHS.length) throw new Damage();
    const length = LENGTHS[index] + this.bits(LENGTH_BITS[index]);
    const far = this.symbol(distances);
    if (far >= DISTANCES.length) throw new Damage();
    const distance = DISTANCES[far] + this.bits(DISTANCE_BITS[far]);
    if (distance > this.length) throw new Damage();
    const end = this.length + length;
    for (; this.length < end; this.length += 1) this.output[this.length] = this.output[this.length - distance];
  }

  /** Makes room for as many bytes. Near the limit there is none. */
  reserve(size) {
    if (this.length + size <= this.output.length) return;
    this.pace.check();
    if (this.length + size > this.maxBytes) throw new TooLong();
    const larger = new Uint8Array(Math.min(this.maxBytes, 2 * (this.length + size)));
    larger.set(this.output.subarray(0, this.length));
    this.output = larger;
  }
}

/** A Huffman code by the length of each symbol's word. `fast` has, for the next bits, the symbol and the length of its word. */
function codeOf(lengths) {
  const counts = new Uint16Array(16);
  for (const length of lengths) counts[length] += 1;
  counts[0] = 0;
  const next = new Uint32Array(17);
  const places = new Uint32Array(17);
  for (let length = 1; length <= 15; length += 1) {
    next[length + 1] = (next[length] + counts[length]) << 1;
    places[length + 1] = places[length] + counts[length];
  }
  const symbols = new Uint16Array(lengths.length);
  const fast = new Uint16Array(1 << FAST_BITS);
  lengths.forEach((length, symbol) => {
    if (!length) return;
    symbols[places[length]++] = symbol;
    const word = reversed(next[length]++, length);
    for (let at = word; length <= FAST_BITS && at < fast.length; at += 1 << length) fast[at] = (symbol << 4) | length;
  });
  return { counts, symbols, fast };
}

function reversed(word, length) {
  let value = 0;
  for (let bit = 0; bit < length; bit += 1) value |= ((word >> bit) & 1) << (length - 1 - bit);
  return value;
}

const FIXED = {
  symbols: codeOf(Uint8Array.from({ length: 288 }, (_, at) => (at < 144 ? 8 : at < 256 ? 9 : at < 280 ? 7 : 8))),
  distances: codeOf(new Uint8Array(30).fill(5)),
};
