/** Points in time as certificates and collateral write them: UTC, years 1 to 9999, every field checked. */

/** Read `2026-11-22T04:50:00`, in UTC; throw `RangeError` on what is not in the calendar. */
export function utc(iso: string): Date {
  const date = new Date(`${iso}Z`);
  if (iso.startsWith("0000") || Number.isNaN(date.getTime()) || date.toISOString() !== `${iso}.000Z`) {
    throw new RangeError("not in the calendar");
  }
  return date;
}

/** Write a time for people, to the second. */
export function show(date: Date): string {
  return date.toISOString().slice(0, 19).replace("T", " ");
}

export function earliest(...dates: readonly Date[]): Date {
  return new Date(Math.min(...dates.map(Number)));
}

export function latest(...dates: readonly Date[]): Date {
  return new Date(Math.max(...dates.map(Number)));
}

/** Tell whether `now` is inside a window, its ends included. */
export function within(start: Date, now: Date, end: Date): boolean {
  return start <= now && now <= end;
}
