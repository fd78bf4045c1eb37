// One answer: the request for it, and what its stream does to the message.

import { ServerError, Unreachable, streamChat } from "./api.js";
import { messagesUpTo } from "./conversation.js";

/** The body of a chat completion. Settings that are left empty are not sent: then the model's own apply. */
export function bodyOf(chat, last, model, settings) {
  const options = { include_usage: true, continuous_usage_stats: true };
  return { model, messages: messagesUpTo(chat, last), stream: true, stream_options: options, return_progress: true, ...settings };
}

/**
 * Fills `node` from a stream until it ends, and says how it ended in `node.finish`: stop, length, stopped (by the person),
 * broken (the server went away), or error (`node.problem` has its words, `node.code` and `node.status` its kind). `tell` hears of
 * each event. While the stream runs, `node.live` holds what is known of it: isLoading, isHurried, requestId, progress.
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
  if (content || reasoning) clock.first ||= performance.now();
  node.content += content ?? "";
  node.reasoning = (node.reasoning ?? "") + (reasoning ?? "");
  if (reasoning) node.thoughtMs = performance.now() - clock.first;
  node.finish = choice?.finish_reason ?? node.finish;
  if (event.usage && clock.first) node.stats = statsOf(event.usage, clock);
}

function statsOf(usage, clock) {
  return {
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    output: usage.completion_tokens,
    firstMs: clock.first - clock.asked,
    outputMs: performance.now() - clock.first,
  };
}

/** Tokens a second after the first one; 0 if there is nothing to measure. */
export function speedOf(stats) {
  return stats.output > 1 && stats.outputMs > 0 ? ((stats.output - 1) * 1000) / stats.outputMs : 0;
}

function fail(node, error) {
  if (error.name === "AbortError") node.finish = "stopped";
  else if (error instanceof Unreachable) node.finish = "broken";
  else if (error instanceof ServerError) {
    Object.assign(node, { finish: "error", problem: error.message, code: error.code, status: error.status });
  } else throw error;
}
