/**
 * How long the long tests are.
 *
 * @module
 */
import process from "node:process";

/**
 * Tests that get better with size (kills, restarts, messages, seconds under load) multiply theirs by this:
 * `MILLSTREAM_SCALE=10 npm test` for a thorough run. 1 by default.
 */
export const scale: number = readScale(process.env.MILLSTREAM_SCALE ?? "1");

function readScale(text: string): number {
  const value = Number(text);
  if (value > 0 && value <= 1_000) return value;
  throw new Error(`Cannot use MILLSTREAM_SCALE=${text}: expected a number above 0, 1000 at most`);
}
