export { Answer, type Checked, checkAnswer, MAX_ANSWER_BYTES } from "./answer.ts";
export { ModelCard } from "./card.ts";
export type { Agreed, Sampling } from "./sampling.ts";
