/** What a conversation is, and how its turns become the request that is sealed. */
import type { Message as Turn } from "@mitai/client";
import { MitaiError } from "@mitai/verify";

export interface Attachment {
  readonly name: string;
  readonly text: string;
}

export interface ReceiptNote {
  readonly state: "waiting" | "proven" | "failed";
  readonly index?: number;
  readonly exchange?: string;
  readonly requestSha256?: string;
  readonly responseSha256?: string;
  readonly ledger?: string;
  readonly file?: string;
  readonly code?: string;
  readonly message?: string;
}

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly step: string;
}

/** An error as plain values that can be kept and shown. */
export function failureOf(error: unknown): Failure {
  if (error instanceof MitaiError)
    return { code: error.code, message: error.message, hint: error.hint, step: error.step };
  return {
    code: "client.unexpected",
    message: error instanceof Error ? error.message : String(error),
    hint: "",
    step: "",
  };
}

export interface UserMessage {
  readonly id: string;
  readonly role: "user";
  readonly text: string;
  readonly files: readonly Attachment[];
  readonly at: number;
}

export interface AnswerMessage {
  readonly id: string;
  readonly role: "assistant";
  readonly text: string;
  readonly at: number;
  readonly model: string;
  readonly simulated: boolean;
  readonly state: "writing" | "complete" | "stopped" | "interrupted" | "failed";
  /** The model ended because of a limit. */
  readonly limited?: boolean;
  readonly failure?: Failure;
  readonly receipt?: ReceiptNote;
}

export type Message = UserMessage | AnswerMessage;

export interface Conversation {
  readonly id: string;
  readonly title: string;
  readonly changed: number;
  readonly messages: readonly Message[];
}

export type Summary = Omit<Conversation, "messages">;

/** Where conversations are kept. */
export interface ConversationStore {
  list(): Promise<readonly Summary[]>;
  load(id: string): Promise<Conversation | undefined>;
  save(conversation: Conversation): Promise<void>;
  remove(id: string): Promise<void>;
}

export const MAX_FILES = 8;
export const MAX_FILE_BYTES = 256 << 10;
const TITLE_LENGTH = 60;

/** The turns of a request. Answers that never came, or were cut off, are left out together with nothing else. */
export function turns(messages: readonly Message[]): readonly Turn[] {
  return messages
    .filter((message) => message.role === "user" || message.text !== "")
    .map((message) => ({ role: message.role, content: message.role === "user" ? prompt(message) : message.text }));
}

/** What the model is given of a user's message: the files, each in a fence that its text can't close, then the words. */
export function prompt(message: Pick<UserMessage, "text" | "files">): string {
  const files = message.files.map(({ name, text }) => {
    const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)));
    return `File ${JSON.stringify(name)}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}\n`;
  });
  return [...files, message.text].filter((part) => part !== "").join("\n");
}

/** A conversation's first title: the beginning of its first line. */
export function titleOf(text: string, files: readonly Attachment[]): string {
  const line = text.trim().split("\n", 1)[0] || files[0]?.name || "…";
  const characters = [...line];
  return characters.length > TITLE_LENGTH ? `${characters.slice(0, TITLE_LENGTH).join("")}…` : line;
}

export type FileRefusal = "too-many" | "too-large" | "not-text";

/** Read a file as text; only text can go into a prompt. */
export async function attachment(file: File, before: number): Promise<Attachment | FileRefusal> {
  if (before >= MAX_FILES) return "too-many";
  if (file.size > MAX_FILE_BYTES) return "too-large";
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? "not-text" : { name: file.name, text };
  } catch {
    return "not-text";
  }
}
