// The batch as two programs lay it out: Meta's rectangle with its padding and its mask, and puna's rows, which have none.

import { make, shape } from "./elements.js";
import { term } from "./explain.js";
import { count } from "./numbers.js";
import { rich, t } from "./words.js";

const ROW = 22; // pixels
const MOST_CELLS = 160; // of a row; longer rows show areas and no single places

export function batchView(trace) {
  const { padded, num_tokens: given, num_cached: cached } = trace.prompt;
  const [rows, columns] = padded.shape;
  const lengths = padded.num_pads.map((pads) => columns - pads);
  const pads = padded.num_pads.reduce((sum, number) => sum + number, 0);
  const total = lengths.reduce((sum, number) => sum + number, 0);
  const answer = Math.max(0, trace.token_ids.length - 1); // the last token is not computed
  const values = { rows: count(rows), columns: count(columns), tokens: count(total), pads: count(pads), pad: padded.pad_id, padding: term("padding") };
  const picture = t("batchPicture", values);
  return make(
    "div",
    { class: "batches" },
    figure(t("batchMeta"), grid(lengths.map((length) => [["prompt", length], ["pad", columns - length]]), columns, picture), rich("batchMetaNote", values)),
    figure(t("batchMask"), grid(lengths.map((length) => [["true", length], ["false", columns - length]]), columns, t("batchMaskNote")), t("batchMaskNote")),
    figure(t("batchPuna"), grid([ragged(given, cached, answer)], columns, t("batchRagged", { tokens: count(given), answer: count(answer) })), punaNote(given, cached)),
  );
}

function ragged(given, cached, answer) {
  return [["cached", cached], ["prompt", given - cached], ["answer", answer]];
}

function punaNote(given, cached) {
  const note = t("batchPunaNote", { tokens: count(given - cached) });
  return cached ? [note, " ", ...rich("batchCached", { count: count(cached), cache: term("prefix cache") })] : [note];
}

function figure(title, picture, note) {
  return make("figure", {}, make("h3", {}, title), picture, make("figcaption", {}, note));
}

/** Rows of areas, each of so many places; all rows share a scale. */
function grid(rows, columns, label) {
  const height = rows.length * ROW;
  const areas = rows.flatMap((areas, row) => areasOf(areas, row, columns));
  const lines = columns <= MOST_CELLS ? Array.from({ length: columns - 1 }, (_, place) => borderAt(place + 1, columns, height)) : [];
  return shape("svg", { class: "grid", height, role: "img", "aria-label": label }, areas, lines);
}

function areasOf(areas, row, columns) {
  let from = 0;
  return areas.filter(([, length]) => length > 0).map(([kind, length]) => {
    const area = shape("rect", { class: `area ${kind}`, x: at(from, columns), y: row * ROW + 1, width: at(length, columns), height: ROW - 2 });
    from += length;
    return area;
  });
}

function borderAt(place, columns, height) {
  return shape("line", { class: "border", x1: at(place, columns), x2: at(place, columns), y2: height });
}

function at(place, columns) {
  return `${((place / columns) * 100).toFixed(3)}%`;
}
