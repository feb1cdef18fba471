export { Answer, type Checked, checkAnswer, MAX_ANSWER_BYTES } from "./answer.ts";
export { ModelCard } from "./card.ts";
