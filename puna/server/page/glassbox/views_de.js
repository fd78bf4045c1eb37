// What this page says in another way than the report of a trace: it tells who gave a token, and computes a place once more.

export const WORDS = {
  wasGiven: "Die Filter und die Ziehung hätten ein anderes genommen.",
  explainModelTime: "die Zeit vom Token davor (beim ersten: von der Anfrage) bis die Logits da waren, als diese Stelle noch einmal gerechnet wurde.",
};
