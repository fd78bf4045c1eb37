// How surprising a token was for the model: the binary logarithm of one divided by its probability, in bits; 1 bit is one of two.

/** Classes for colours and underlines, from the least surprising: the lowest probability of each. */
export const CLASSES = [
  { from: 0.5, label: "likely0" },
  { from: 0.25, label: "likely1" },
  { from: 0.1, label: "likely2" },
  { from: 0.02, label: "likely3" },
  { from: 0, label: "likely4" },
];

export function surpriseBits(logprob) {
  return Math.max(0, -logprob / Math.LN2);
}

/** 0 for an expected token up to 4; null for one that nobody sampled. */
export function surpriseClass(logprob) {
  if (logprob === null) return null;
  const probability = Math.exp(logprob);
  return CLASSES.findIndex(({ from }) => probability >= from);
}
