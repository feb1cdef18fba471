/** One error for all refusals: a stable code, as the Python package has them (docs/errors.md), and what to do next. */
export class MitaiError extends Error {
  override readonly name = "MitaiError";

  constructor(
    readonly code: string,
    message: string,
    readonly hint = "",
    /** The step of a verification that failed, such as "5 platform". */
    public step = "",
  ) {
    super(message);
  }
}
