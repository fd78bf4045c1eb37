// Reads XML from its begin to its end. There are no entities but the five of XML and numbers, so none grows; a document type is skipped.

const NAMED = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };
const ATTRIBUTE = /([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g;

/** An opening tag. Names have no prefix: `w:p` is "p". */
class Tag {
  constructor(source) {
    [this.name] = /^[^\s/]*/.exec(source);
    this.local = withoutPrefix(this.name);
    this.isEmpty = source.endsWith("/");
    this.source = source;
  }

  /** The value of an attribute, by its name without a prefix; undefined if it is missing. */
  attribute(name) {
    for (const [, key, double, single] of this.source.slice(this.name.length).matchAll(ATTRIBUTE)) {
      if (withoutPrefix(key) === name) return plain(double ?? single);
    }
    return undefined;
  }
}

const withoutPrefix = (name) => name.slice(name.indexOf(":") + 1);

/** What a text of XML holds, in order: `{ open: Tag }`, `{ close: name }`, `{ text }`. What is not well-formed is text, or missing. */
export function* readXml(source) {
  let at = 0;
  while (at < source.length) {
    const start = source.indexOf("<", at);
    if (start !== at) yield { text: plain(source.slice(at, start < 0 ? source.length : start)) };
    if (start < 0) return;
    const [kind, end, inner] = markup(source, start);
    at = end;
    if (kind === "data") yield { text: inner };
    else if (kind === "close") yield { close: withoutPrefix(inner.trim()) };
    else if (kind === "open") yield* opened(new Tag(inner));
  }
}

function* opened(tag) {
  yield { open: tag };
  if (tag.isEmpty) yield { close: tag.local };
}

// How markup begins, how it ends, and what it is. Comments, instructions and the document type are nothing.
const MARKUP = [
  ["<!--", "-->", ""], ["<![CDATA[", "]]>", "data"], ["<?", "?>", ""], ["<!", ">", ""], ["</", ">", "close"], ["<", ">", "open"],
];

function markup(source, start) {
  const [begin, end, kind] = MARKUP.find(([mark]) => source.startsWith(mark, start));
  const stop = source.indexOf(end, start + begin.length);
  if (stop < 0) return ["", source.length, ""];
  return [kind, stop + end.length, source.slice(start + begin.length, stop)];
}

function plain(text) {
  if (!text.includes("&")) return text;
  return text.replaceAll(/&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|(\w{2,4}));/gi, (whole, hex, decimal, name) => {
    if (name) return NAMED[name] ?? whole;
    const code = hex ? Number.parseInt(hex, 16) : Number(decimal);
    return code > 0 && code < 0x110000 ? String.fromCodePoint(code) : "";
  });
}
