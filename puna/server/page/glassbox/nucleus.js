// Which candidates a step would have left with another temperature, top-p, top-k and min-p. The server computes the same exactly; this
// is there at once, from the likeliest candidates and the sum of the others.

/**
 * `candidates`: [{ id, probability }], the likeliest first; `others`: how many more there are, whose probability is what is left of 1.
 * Returns the candidates that stay with their new probabilities, and how many stay in all: `{ kept, count }`.
 */
export function nucleus(candidates, others, { temperature, top_p: topP = 1, top_k: topK = 0, min_p: minP = 0, isTemperatureFirst = false }) {
  if (!temperature) return { kept: candidates.slice(0, 1).map((one) => ({ ...one, probability: 1 })), count: 1 };
  let row = scaled(withRest(candidates, others), isTemperatureFirst ? temperature : 1);
  if (topK) row = scaled({ ...row, list: row.list.slice(0, topK), others: Math.max(0, Math.min(row.others, topK - row.list.length)) }, 1);
  if (topP < 1) row = reaching(row, topP);
  if (minP) row = atLeast(row, minP * row.list[0].probability);
  row = scaled(row, isTemperatureFirst ? 1 : temperature);
  return { kept: row.list, count: row.list.length + row.others };
}

/** A row of candidates: those that are listed, how many are not, and what one of these has on average. */
function withRest(list, others) {
  const left = Math.max(0, 1 - list.reduce((sum, one) => sum + one.probability, 0));
  return { list, others, each: others ? left / others : 0 };
}

/** With each probability raised to 1 / temperature, and all of them 1 together. */
function scaled({ list, others, each }, temperature) {
  const raised = (share) => (temperature === 1 ? share : share ** (1 / temperature));
  const total = list.reduce((sum, one) => sum + raised(one.probability), others * raised(each));
  return { list: list.map((one) => ({ ...one, probability: raised(one.probability) / total })), others, each: raised(each) / total };
}

/** The likeliest that together have at least `share`. */
function reaching(row, share) {
  let sum = 0;
  const end = row.list.findIndex((one) => (sum += one.probability) >= share);
  if (end >= 0) return scaled({ ...row, list: row.list.slice(0, end + 1), others: 0 }, 1);
  const more = row.each ? Math.min(row.others, Math.ceil((share - sum) / row.each)) : 0;
  return scaled({ ...row, others: more }, 1);
}

function atLeast(row, least) {
  const list = row.list.filter((one) => one.probability >= least);
  return scaled({ ...row, list, others: row.each >= least ? row.others : 0 }, 1);
}
