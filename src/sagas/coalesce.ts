/**
 * Coalescing: what many ask for at the same time is done in one go, and each gets its own answer. One commit for many is
 * what makes durable steps cheap (group commit; DeWitt et al., 1984).
 *
 * @module
 */

/** Adds an item to the next batch. Settles with the item's own answer. */
export type Coalesced<Item, Answer> = (item: Item) => Promise<Answer>;

/** How many batches may be under way: one is being written while the next one fills up. */
const FLIGHTS = 2;
const MAX_BATCH = 256;
/** Turns of the microtask queue that a batch waits for company: no time, but all that the last answers set off. */
const TURNS = 16;

interface Waiting<Item, Answer> {
  readonly item: Item;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (failure: unknown) => void;
}

/** Creates a coalesced operation. @param flush One answer per item; what it throws all items get. */
export function coalesced<Item, Answer>(
  flush: (items: readonly Item[]) => Promise<readonly Answer[]>,
): Coalesced<Item, Answer> {
  let queue: Array<Waiting<Item, Answer>> = [];
  let flights = 0;

  async function fly(): Promise<void> {
    flights++;
    for (let turn = 0; turn < TURNS; turn++) await undefined;
    const batch = queue.slice(0, MAX_BATCH);
    queue = queue.slice(MAX_BATCH);
    try {
      const answers = batch.length > 0 ? await flush(batch.map(({ item }) => item)) : [];
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index]!);
    } catch (failure) {
      for (const { reject } of batch) reject(failure);
    }
    flights--;
    if (queue.length > 0) void fly();
  }

  return (item) =>
    new Promise((resolve, reject) => {
      queue.push({ item, resolve, reject });
      if (flights < FLIGHTS) void fly();
    });
}
