/**
 * Messages that came back from a consumer that died. One of them may have killed it: they are begun one at a time, each
 * start is counted by the broker, and a count that grows and grows tells the one from its neighbours.
 *
 * @module
 */
import type { InHand } from "./in_hand.ts";

/** Suspects in line. */
export interface Suspects {
  /** In line. */
  readonly size: number;
  /** Whether one is under way or in line. */
  readonly isBusy: boolean;
  add(entry: InHand): void;
  /** Takes out all that are in line. */
  clear(): InHand[];
}

/** What becomes of a suspect. */
export interface SuspectOutcomes {
  /** Counts a start; `undefined` if the lease was lost. */
  begin(entry: InHand): Promise<number | undefined>;
  /** Has it handled, with nothing beside it if `alone`. Resolves at its end. */
  run(entry: InHand, alone: boolean): Promise<void>;
  lost(entry: InHand): void;
  /** It was begun too often. */
  convict(entry: InHand): void;
  /** It could not be counted, and was not begun. */
  failed(entry: InHand, thrown: unknown): void;
  /** Nobody is left. */
  done(): void;
}

/** Nobody in line. `crashes` is how often each may be begun. */
export function suspectLine(crashes: number, outcomes: SuspectOutcomes): Suspects {
  const line: InHand[] = [];
  let isBusy = false;

  async function work(): Promise<void> {
    isBusy = true;
    await Promise.resolve(); // those of one pull are all in line first
    for (let entry = line.shift(); entry; entry = line.shift()) {
      try {
        await examine(entry);
      } catch (thrown) {
        outcomes.failed(entry, thrown);
      }
    }
    isBusy = false;
    outcomes.done();
  }

  async function examine(entry: InHand): Promise<void> {
    const starts = await outcomes.begin(entry);
    if (starts === undefined) outcomes.lost(entry);
    else if (starts > crashes) outcomes.convict(entry);
    // Once may be bad luck. From the second time on it runs alone, so that nobody is taken for somebody else.
    else await outcomes.run(entry, starts > 1);
  }

  return {
    get size() {
      return line.length;
    },
    get isBusy() {
      return isBusy;
    },
    add(entry) {
      line.push(entry);
      if (!isBusy) void work();
    },
    clear: () => line.splice(0),
  };
}
