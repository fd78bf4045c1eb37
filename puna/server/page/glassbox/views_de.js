// What this page says in another way than the report of a trace: it tells who gave a token, and computes a place once more.

export const WORDS = {
  wasGiven: "Die Filter und die Ziehung hätten ein anderes genommen.",
};
