/**
 * What goes wrong in a simulation, and when.
 *
 * @module
 */

/** What goes wrong at one boundary. */
export type Fault =
  /** The process dies before the write, or after it and before it learns of it. */
  | { readonly kind: "crash before" | "crash after" }
  /** The write happened, and the process gets an error that says that nobody knows. */
  | { readonly kind: "lost reply" }
  /** Nothing was written, and the process gets an error that says so. A dropped acknowledgement is one of these. */
  | { readonly kind: "unavailable" }
  /** The process stands still: longer than its leases, if `ms` is. */
  | { readonly kind: "pause"; readonly ms: number }
  /** The network is slow. */
  | { readonly kind: "delay"; readonly ms: number };

/** One moment in a run. */
export interface FaultPoint {
  /** The boundary's number in the run, from 1. */
  readonly at: number;
  readonly fault: Fault;
}

/** Decides for each boundary of a run what goes wrong there. */
export interface FaultPlan {
  faultAt(boundary: string): Fault | undefined;
  /** Names of the boundaries that were passed. */
  readonly passed: readonly string[];
  /** What went wrong, in order. */
  readonly struck: ReadonlyArray<FaultPoint & { readonly boundary: string }>;
}

/** Longer than any default lease. */
const PAUSE_MS = 120_000;

/** All that is tried at each boundary. */
export const EVERY_FAULT: readonly Fault[] = [
  { kind: "crash before" },
  { kind: "crash after" },
  { kind: "lost reply" },
  { kind: "unavailable" },
  { kind: "pause", ms: PAUSE_MS },
];

/** One fault at one boundary; without a point none. */
export function singleFault(point?: FaultPoint): FaultPlan {
  return plan((number) => number === point?.at ? point.fault : undefined);
}

/** Slow and faulty by chance: the same seed makes the same choices. @param boundaries About how many a run has. */
export function seededFaults(seed: number, boundaries: number): FaultPlan {
  const random = seededRandom(seed);
  const faults = 1 + Math.floor(random() * 4);
  return plan(() => {
    const dice = random();
    if (dice < faults / Math.max(boundaries, 1)) {
      return EVERY_FAULT[Math.floor(random() * EVERY_FAULT.length)];
    }
    return random() < 0.5 ? { kind: "delay", ms: Math.floor(random() * 50) } : undefined;
  });
}

/** Numbers in [0, 1) from a seed: mulberry32 (Tommy Ettinger, 2017, public domain). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function plan(choose: (number: number) => Fault | undefined): FaultPlan {
  const passed: string[] = [];
  const struck: Array<FaultPoint & { readonly boundary: string }> = [];
  return {
    passed,
    struck,
    faultAt(boundary) {
      const at = passed.push(boundary);
      const fault = choose(at);
      if (fault && fault.kind !== "delay") struck.push({ at, fault, boundary });
      return fault;
    },
  };
}
