// How many tokens a chat will have with the message that is being written.

import { ServerError, Unreachable, countTokens } from "./api.js";
import { messagesUpTo, messageOf, shownNodes } from "./conversation.js";
import { aboutTokens } from "./tokens.js";

const NEAR = 1 / 4; // of the context: a guess below it cannot be so wrong that the message does not fit

/**
 * `count` of tokens, whether it `isExact`, and the `length` of the context (undefined: not known). The server counts, if the model
 * is in memory; else it is a guess.
 */
export async function measuredDraft(chat, draft, models) {
  const { contextLength: length, name, isToLoad } = models;
  const messages = [...messagesUpTo(chat, shownNodes(chat).at(-1) ?? null), messageOf({ role: "user", ...draft })];
  const count = aboutTokens(messages.map(({ content }) => content).join("\n"));
  if (!length || !messages.at(-1).content || count < length * NEAR) return { count: 0, isExact: false, length };
  const exact = isToLoad ? null : await counted(name, messages);
  return { count: exact ?? count, isExact: exact !== null, length };
}

/** null where the server does not say, such as for a body that is too large for it. */
async function counted(model, messages) {
  try {
    return await countTokens(model, messages);
  } catch (error) {
    if (error instanceof ServerError || error instanceof Unreachable) return null;
    throw error;
  }
}
