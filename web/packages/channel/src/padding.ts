/**
 * Padding: what an observer learns from a length is a bucket.
 *
 * Whole messages are padded to Padmé sizes (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
 * Communication with PURBs", section 4): at most 12 % more, and only O(log log n) bits of the length remain.
 */

const MIN_MESSAGE_BYTES = 1024;

/** Return the bucket of a message of `size` bytes: at least 1 KiB, at most 12 % more. */
export function paddedSize(size: number): number {
  if (size <= MIN_MESSAGE_BYTES) return MIN_MESSAGE_BYTES;
  const exponent = bitLength(size) - 1;
  const unit = 2 ** (exponent - bitLength(exponent));
  return Math.ceil(size / unit) * unit;
}

function bitLength(value: number): number {
  return value.toString(2).length;
}
