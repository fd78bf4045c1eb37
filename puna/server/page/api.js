// Speaks to the server that this page came from, and to no other.

import { eventsOf } from "./event_stream.js";

const KEY = "puna.key";

/** The server refused: `message` is in its words, `code` names the kind. */
export class ServerError extends Error {
  constructor({ message = "", code = "" }, status = 0) {
    super(message);
    Object.assign(this, { code, status });
  }
}

/** The server did not answer, or stopped in the middle of an answer. */
export class Unreachable extends Error {}

// The key lives as long as the tab: it is never written where another visit could find it.
export const readKey = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

/** The served models with their plans: `models`, and `free_bytes` for one that is not loaded (`model_plans.py`). */
export async function listModels() {
  return (await call("page/models")).json();
}

/** What the doctor finds on the server's machine: `findings`, `age_s`, `hides_paths` (`diagnoses.py`). It takes some seconds. */
export async function findingsOfMachine() {
  return (await call("page/doctor")).json();
}

/** The cause of an error text, as `puna why --json` has it: `known`, `diagnosis`. */
export async function explainError(text) {
  return (await call("page/why", posted({ text }))).json();
}

export async function isAlive() {
  try {
    return (await fetch("health", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** Ends the thinking of a running completion, so that its answer comes. */
export async function endThinking(id) {
  await call("v1/chat/completions/control", posted({ id, action: "reasoning_end" }));
}

/** The steps of an answer (docs/trace.schema.json). */
export async function trace(body, signal) {
  return (await call("trace", { ...posted(body), signal })).json();
}

/** How likely texts are at a place of an answer. */
export async function rank(body, signal) {
  return (await call("rank", { ...posted(body), signal })).json();
}

/** The tokens of a prompt, as the model's own template and tokenizer make it. */
export async function countTokens(model, messages) {
  return (await (await call("tokenize", posted({ model, messages }))).json()).count;
}

/** Yields the events of a streamed chat completion. Throws ServerError, Unreachable, or AbortError after `signal`. */
export async function* streamChat(body, signal) {
  const response = await call("v1/chat/completions", { ...posted(body), signal });
  let isWhole = false;
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") isWhole = true;
      else yield checked(JSON.parse(data));
    }
  } catch (error) {
    throw told(error);
  }
  if (!isWhole) throw new Unreachable();
}

const posted = (body) => ({ method: "POST", body: JSON.stringify(body) });

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options), cache: "no-store" });
  } catch (error) {
    throw told(error);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function headers(options) {
  const key = readKey();
  return {
    ...(options.body ? { "content-type": "application/json" } : {}),
    ...(key ? { authorization: `Bearer ${key}` } : {}),
  };
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  return new ServerError(body.error ?? { message: `${response.status} ${response.statusText}` }, response.status);
}

function checked(event) {
  if (event.error) throw new ServerError(event.error);
  return event;
}

// Browsers tell a broken connection as TypeError.
const told = (error) => (error instanceof TypeError ? new Unreachable() : error);
