// How surprising a token was for the model: the binary logarithm of one divided by its probability, in bits; 1 bit is one of two.

/** Classes for colours and underlines, from the least surprising: the lowest probability of each. */
export const CLASSES = [
  { from: 0.5, label: "over 50%" },
  { from: 0.25, label: "25–50%" },
  { from: 0.1, label: "10–25%" },
  { from: 0.02, label: "2–10%" },
  { from: 0, label: "under 2%" },
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
