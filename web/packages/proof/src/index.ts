export { Answer, type Checked, checkAnswer, MAX_ANSWER_BYTES, type Said } from "./answer.ts";
export { ModelCard } from "./card.ts";
export { type Conversation, requireTold, type Template } from "./conversation.ts";
export { checkReceipt, type Known } from "./receipt.ts";
export type { Agreed, Sampling } from "./sampling.ts";
export { MAX_TOKENIZER_BYTES, Tokenizer } from "./tokenizer.ts";
export type { Piece } from "./words.ts";
