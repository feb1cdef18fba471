export * from "./bytes.ts";
export { MitaiError } from "./errors.ts";
