// What is known of an answer's own run. Looking into an answer computes its places again: the times and counts of that are not the answer's.

/** A step as the answer's own run had it; `numPrompt`: tokens of the prompt. Guesses that were wrong, which were computed besides, are not in it. */
export function ofOwnRun(step, node, numPrompt) {
  return { ...step, computed: computedFor(step.index, node, numPrompt), model_s: null, sampling_s: null };
}

/** The first step computes what the cache lacks of the prompt and of the opening; each later one, the token before it. */
function computedFor(index, node, numPrompt) {
  if (!node.stats || index < node.run.num_opened) return [];
  const last = numPrompt + index;
  return [{ first: index === node.run.num_opened ? Math.min(cachedOf(node), last - 1) : last - 1, last, num_drafts: 0 }];
}

/** Tokens of the prompt and of the opening that the cache had. Where the run was broken off, only those of the prompt are known. */
export function cachedOf({ run, stats }) {
  const generated = run.ids.length - run.num_opened;
  return run.computed ? stats.prompt + run.num_opened - (run.computed - generated) : stats.cached;
}

/** The prompt as the answer's own run had it: what the cache had of it, and no time. */
export function promptOfOwnRun(prompt, { stats }) {
  return { ...prompt, num_cached: Math.min(stats?.cached ?? 0, prompt.num_tokens), tokenizer_s: null };
}
