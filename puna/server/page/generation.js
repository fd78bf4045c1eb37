// One answer: the request for it, and what its stream does to the message.

import { ServerError, Unreachable, streamChat } from "./api.js";
import { messagesUpTo } from "./conversation.js";

/**
 * The body of a chat completion. Settings that are left empty are not sent: then the model's own apply. `opening`: token ids with
 * which the answer begins, whatever the model would say.
 */
export function bodyOf(chat, last, model, settings, opening = []) {
  const options = { include_usage: true, continuous_usage_stats: true };
  const body = { model, messages: messagesUpTo(chat, last), stream: true, stream_options: options, return_progress: true, return_token_ids: true };
  return { ...body, ...settings, ...(opening.length ? { opening } : {}) };
}

/**
 * Fills `node` from a stream until it ends, and says how it ended in `node.finish`: stop, length, stopped (by the person),
 * broken (the server went away), or error (`node.problem` has its words, `node.code` and `node.status` its kind). `tell` hears of
 * each event. While the stream runs, `node.live` holds what is known of it: isLoading, isHurried, requestId, progress, isOpening: the
 * stream begins with what the message has already. `node.run` keeps how the answer was made: the ids of its tokens, how many of
 * them were given (num_opened), the seed, and how many tokens were computed for it, those of the prompt with them.
 */
export async function generate(node, body, signal, tell) {
  const clock = { asked: performance.now(), first: 0 };
  Object.assign(node, { finish: "", problem: "", code: "", status: 0 });
  try {
    for await (const event of streamChat(body, signal)) {
      take(node, event, clock);
      tell(event);
    }
  } catch (error) {
    fail(node, error);
  } finally {
    node.live = null;
    node.finish ||= "stop";
  }
}

function take(node, event, clock) {
  const choice = event.choices?.[0];
  const { content = "", reasoning_content: reasoning = "" } = choice?.delta ?? {};
  Object.assign(node.live, { isLoading: false, requestId: event.id, progress: event.prompt_progress ?? null });
  if (choice?.token_ids && node.live.isOpening) reopen(node);
  node.run.ids.push(...(choice?.token_ids ?? []));
  Object.assign(node.run, choice?.puna_start ?? {});
  if (choice?.puna) keepCounts(node.run, choice.puna.timing);
  if (content || reasoning) clock.first ||= performance.now();
  node.content += content ?? "";
  node.reasoning = (node.reasoning ?? "") + (reasoning ?? "");
  if (reasoning) node.thoughtMs = performance.now() - clock.first;
  node.finish = choice?.finish_reason ?? node.finish;
  if (event.usage && clock.first) node.stats = statsOf(event.usage, clock, node.run.num_opened);
}

/** How many tokens were computed, and of those that were guessed how many were right. */
function keepCounts(run, { num_prefilled: prefilled, num_generated: generated, num_drafted: guessed, num_accepted: right }) {
  Object.assign(run, { computed: prefilled + generated, guessed, right });
}

/** The whole answer comes again, with what it had. */
function reopen(node) {
  Object.assign(node, { content: "", reasoning: "" });
  Object.assign(node.run, { ids: [] });
  node.live.isOpening = false;
}

function statsOf(usage, clock, opened) {
  return {
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    output: usage.completion_tokens,
    opened,
    firstMs: clock.first - clock.asked,
    outputMs: performance.now() - clock.first,
  };
}

/** Tokens a second after the first one; 0 if there is nothing to measure. Those that were given took no time. */
export function speedOf(stats) {
  const made = stats.output - (stats.opened ?? 0);
  return made > 1 && stats.outputMs > 0 ? ((made - 1) * 1000) / stats.outputMs : 0;
}

function fail(node, error) {
  if (error.name === "AbortError") node.finish = "stopped";
  else if (error instanceof Unreachable) node.finish = "broken";
  else if (error instanceof ServerError) {
    Object.assign(node, { finish: "error", problem: error.message, code: error.code, status: error.status });
  } else throw error;
}
