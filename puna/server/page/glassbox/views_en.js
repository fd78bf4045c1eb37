// The words of the views of a trace (`puna/glassbox/report/words.js`) that this page says in another way: it tells who gave a token.

export const WORDS = {
  wasGiven: "The filters and the draw would have taken another.",
};
