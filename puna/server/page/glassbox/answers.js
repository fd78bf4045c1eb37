// What the server tells of an answer: its steps, and how likely texts are at any place of it. The server keeps nothing of it.

import { rank, trace } from "../api.js";
import { messagesUpTo, parentOf } from "../conversation.js";
import { ofOwnRun, promptOfOwnRun } from "./own_run.js";

const WINDOW = 128; // steps that are asked for at once
const CANDIDATES = 200; // of each stage of a step that is looked at
const PROMPT = 2000; // tokens of a prompt that are shown

/** Whether one can look into an answer: its tokens are known, and all of them came from one prompt. */
export const canLookInto = (node) => Boolean(node.run?.isWhole && node.run.ids.length && !node.live);

/** Yields traces of all steps of an answer, some at a time: each stage with its likeliest candidate, and the first ones with the prompt. */
export async function* stepsOf(chat, node, signal) {
  const { ids } = node.run;
  for (let first = 0; first < ids.length; first += WINDOW) {
    const last = Math.min(ids.length, first + WINDOW);
    const found = await trace({ ...bodyOf(chat, node), token_ids: ids.slice(0, last), first, last, top: 1, prompt_tokens: first ? 0 : PROMPT }, signal);
    yield asItRan(found, node);
    if (found.steps.length < last - first) return; // a stop text ends it here
  }
}

/** One step of an answer with all its candidates, and the filters that ran: `{ step, filters }`. */
export function stepAt(chat, node, index, signal) {
  return oneStep(chat, node, node.run.ids.slice(0, index + 1), index, {}, signal);
}

/** The same step with other settings: what these would take. */
export function stepWith(chat, node, index, changed, signal) {
  return oneStep(chat, node, node.run.ids.slice(0, index), index, changed, signal);
}

async function oneStep(chat, node, ids, first, changed, signal) {
  const body = { ...bodyOf(chat, node), ...changed, token_ids: ids, first, last: first + 1, top: CANDIDATES };
  const { steps, filters } = asItRan(await trace(body, signal), node);
  return { step: steps[0] ?? null, filters };
}

/** A trace with what belongs to looking, which computes places again, replaced by what the answer's own run did. */
function asItRan(found, node) {
  return { ...found, prompt: promptOfOwnRun(found.prompt, node), steps: found.steps.map((step) => ofOwnRun(step, node, found.prompt.num_tokens)) };
}

/** Texts that could stand at `index` in the place of the text `here`, the likeliest first: `{ text, token_ids, logprob, ... }`. */
export async function rankedAt(chat, node, index, options, here, signal) {
  const { reasoning_effort: effort } = node.run.settings;
  const wish = effort ? { reasoning_effort: effort } : {};
  const body = { ...promptOf(chat, node), ...wish, token_ids: node.run.ids.slice(0, index), options, in_place_of: here ?? "" };
  return (await rank(body, signal)).results;
}

const promptOf = (chat, node) => ({ model: node.model, messages: messagesUpTo(chat, parentOf(chat, node), node.run.system) });

/** The prompt and the settings of an answer, with the seed that it had. */
function bodyOf(chat, node) {
  const { max_tokens: unused, ...settings } = node.run.settings;
  return { ...promptOf(chat, node), ...settings, ...(node.run.seed === null ? {} : { seed: node.run.seed }) };
}
