/** What was sealed by this page, or by an older or newer one: looked at before it is used. */

import type { Conversation, Summary } from "../conversations.ts";

export function isSummary(value: unknown): value is Summary {
  const { id, title, changed } = Object(value);
  return typeof id === "string" && typeof title === "string" && Number.isFinite(changed);
}

export function isConversation(value: unknown): value is Conversation {
  const { messages } = Object(value);
  return isSummary(value) && Array.isArray(messages) && messages.every(isMessage);
}

function isMessage(value: unknown): boolean {
  const { id, role, text, at, files, model, state } = Object(value);
  if (typeof id !== "string" || typeof text !== "string" || !Number.isFinite(at)) return false;
  return role === "user"
    ? Array.isArray(files) && files.every(isAttachment)
    : role === "assistant" && typeof model === "string" && typeof state === "string";
}

function isAttachment(value: unknown): boolean {
  const { name, text } = Object(value);
  return typeof name === "string" && typeof text === "string";
}
