/**
 * Snapshots: one for each stream and fold.
 *
 * @module
 */
import type { Snapshot } from "../../../ports/snapshots.ts";
import { deepEqual, equal } from "../../assert.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode Snapshots}. */
export function snapshotTests({ test }: StoreSuite): void {
  test("snapshots: belong to a stream and a fold, and the last save counts", async ({ store: { snapshots }, ...world }) => {
    const [stream, other] = [world.unique("stream"), world.unique("stream")];
    const snapshot: Snapshot = { stream, fold: "a/1", version: 100, eventId: "e-100", state: '{"n": 1}' };
    equal(await snapshots.load(stream, "a/1"), undefined, "at first");
    await snapshots.save(snapshot);
    await snapshots.save({ ...snapshot, fold: "a/2", state: "[]" });
    deepEqual(await snapshots.load(stream, "a/1"), snapshot, "byte for byte");
    equal((await snapshots.load(stream, "a/2"))?.state, "[]", "of the other fold");
    equal(await snapshots.load(other, "a/1"), undefined, "of another stream");
    const later = { ...snapshot, version: 200, eventId: "e-200", state: "null" };
    await snapshots.save(later);
    deepEqual(await snapshots.load(stream, "a/1"), later, "after the second save");
  });
}
