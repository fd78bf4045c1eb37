// What this page says in another way than the report of a trace: it tells who gave a token, and computes a place once more.

export const WORDS = {
  wasGiven: "过滤和抽取本来会取另一个。",
  explainModelTime: "从前一个 token（第一个则从请求）到 logits 算好的时间，是这一处重新计算时测得的。",
};
