/**
 * How much work comes before which challenges of a proof (docs/spec/proof.md, "Work").
 *
 * It follows from the statement alone: sizes of what is looked up and opened. Small proofs have none.
 */
import { placed } from "./claims.ts";
import { matrixOf } from "./commitment.ts";
import { HidingShape } from "./hiding.ts";
import { logOf, type Table } from "./lookups.ts";
import type { Shape } from "./operations.ts";
import { hiddenOpening, LOOKUPS, lookups, OPENINGS, opening, work } from "./soundness.ts";

/** The bits of work before the look-ups in each table, of columns of these true shapes. */
export function beforeLookups(
  looked: readonly { readonly shapes: readonly Shape[]; readonly table: Pick<Table, "log" | "width"> }[],
): number[] {
  const chances = looked.map(({ shapes, table }) => {
    const [, log] = placed(shapes.map(logOf));
    return lookups(log, table.log, table.width);
  });
  return work(chances, LOOKUPS);
}

/** The bits of work before what is drawn for each opening, of 2^log elements; `uses` is 0 of a succinct proof. */
export function beforeOpenings(opened: readonly (readonly [log: number, uses: number])[]): number[] {
  const chances = opened.map(([log, uses]) => {
    if (uses === 0) {
      const { positions, rows } = matrixOf(log);
      return opening(positions, rows);
    }
    const { coefficients, leaves, rows } = HidingShape.of(log, uses);
    return hiddenOpening(coefficients, leaves, rows);
  });
  return work(chances, OPENINGS);
}
