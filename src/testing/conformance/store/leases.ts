/**
 * Leases: one holder, an epoch that grows, and a fence that holds until the transaction ends.
 *
 * @module
 */
import { deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode Leases}. */
export function leaseTests({ test }: StoreSuite): void {
  test("leases: belong to one owner, who may ask again and keeps the epoch", async ({ store: { leases }, ...world }) => {
    const name = world.unique("lease");
    const lease = await leases.acquire(name, "one", 60_000);
    ok(lease, "the first acquire");
    deepEqual([lease.name, lease.owner], [name, "one"], "name and owner");
    deepEqual(await leases.acquire(name, "one", 60_000), lease, "the same owner again");
    equal(await leases.acquire(name, "two", 60_000), undefined, "another owner");
    equal(await leases.renew(lease, 60_000), true, "renew");
    await leases.assert(lease);
    ok(await leases.acquire(world.unique("lease"), "two", 60_000), "another lease");
  });

  test("leases: go to one of ten who ask at the same time", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const name = world.unique("lease");
    const asked = Array.from(
      { length: 10 },
      (_, n) => stores[n % 2]!.leases.acquire(name, `owner-${n}`, 60_000),
    );
    equal((await Promise.all(asked)).filter((lease) => lease !== undefined).length, 1, "holders");
  });

  test("leases: go on to the next when the time is up, with the next epoch, and the former holder is told", async ({ store: { leases }, ...world }) => {
    const name = world.unique("lease");
    const start = world.clock.monotonic();
    const first = await leases.acquire(name, "one", world.leaseMs);
    ok(first, "the first acquire");
    const second = await eventually(
      world.clock,
      world.patienceMs,
      "the lease runs out",
      () => leases.acquire(name, "two", 60_000),
    );
    const waited = world.clock.monotonic() - start;
    ok(waited >= world.leaseMs * 0.9, `a lease of ${world.leaseMs} ms ended after ${waited} ms`);
    equal(second.epoch, first.epoch + 1, "epoch");
    equal(await leases.renew(first, 60_000), false, "renew by the former holder");
    await rejects(leases.assert(first), "LEASE_LOST", "assert by the former holder");
    equal(await leases.acquire(name, "one", 60_000), undefined, "acquire by the former holder");
    await leases.release(first);
    await leases.assert(second);
    equal(await leases.renew(second, 60_000), true, "renew by the holder");
  });

  test("leases: hold as long as they are renewed", async ({ store: { leases }, ...world }) => {
    const name = world.unique("lease");
    const leaseMs = world.leaseMs * 3; // long enough for a machine that is busy with other things
    const lease = await leases.acquire(name, "one", leaseMs);
    ok(lease, "the first acquire");
    for (let n = 0; n < 6; n++) {
      equal(await leases.renew(lease, leaseMs), true, "renew");
      await world.sleep(leaseMs / 4);
      equal(await leases.acquire(name, "two", 60_000), undefined, "acquire by another");
    }
  });

  test("leases: are free at once when released, and the epoch still grows", async ({ store: { leases }, ...world }) => {
    const name = world.unique("lease");
    const first = await leases.acquire(name, "one", 60_000);
    ok(first, "the first acquire");
    await leases.release(first);
    await rejects(leases.assert(first), "LEASE_LOST", "assert after release");
    equal(await leases.renew(first, 60_000), false, "renew after release");
    const second = await leases.acquire(name, "two", 60_000);
    ok(second && second.epoch > first.epoch, "the next holder has a higher epoch");
    await leases.release(second);
    const third = await leases.acquire(name, "one", 60_000);
    ok(third && third.epoch > second.epoch, "a former owner has a new epoch");
    equal(await leases.renew(first, 60_000), false, "renew with the old epoch of the same owner");
    await rejects(leases.assert(first), "LEASE_LOST", "assert with the old epoch of the same owner");
  });

  test("leases: a holder that was paused past its time is refused, and its transaction writes nothing", async ({ store, ...world }) => {
    const name = world.unique("lease");
    const reader = world.unique("reader");
    const paused = await store.leases.acquire(name, "paused", world.leaseMs);
    ok(paused, "the first acquire");
    await world.sleep(world.leaseMs + 100);
    const owner = await (await world.connect()).leases.acquire(name, "owner", 60_000);
    ok(owner, "the next acquire");
    const work = store.transaction(async ({ leases, checkpoints }) => {
      await checkpoints.advance(reader, 0n, 1n);
      await leases.assert(paused);
    });
    await rejects(work, "LEASE_LOST", "the transaction of the paused holder");
    equal(await store.checkpoints.load(reader), 0n, "what it wrote");
    await store.transaction(async ({ leases, checkpoints }) => {
      await leases.assert(owner);
      await checkpoints.advance(reader, 0n, 2n);
    });
    equal(await store.checkpoints.load(reader), 2n, "what the owner wrote");
  });

  test("leases: once asserted, nobody takes over before the transaction ends, however long it takes", async ({ store, ...world }) => {
    const other = await world.connect();
    const name = world.unique("lease");
    const reader = world.unique("reader");
    const lease = await store.leases.acquire(name, "one", world.leaseMs);
    ok(lease, "the first acquire");
    const order: string[] = [];
    let asserted: () => void = () => {};
    const fenced = new Promise<void>((resolve) => asserted = resolve);
    const work = store.transaction(async ({ leases, checkpoints }) => {
      await leases.assert(lease);
      asserted();
      await world.sleep(world.leaseMs * 2);
      await checkpoints.advance(reader, 0n, 1n);
      order.push("written");
    });
    await Promise.race([fenced, work]);
    await world.sleep(world.leaseMs / 2);
    const takeover = eventually(
      world.clock,
      world.patienceMs,
      "the takeover",
      () => other.leases.acquire(name, "two", 60_000),
    )
      .then(() => order.push("taken over"));
    await Promise.all([work, takeover]);
    deepEqual(order, ["written", "taken over"], "order");
    equal(await store.checkpoints.load(reader), 1n, "what was written");
  });

  test("leases: that are revoked belong to nobody, and the former holder is refused also if it takes it again", async ({ store: { leases }, ...world }) => {
    const name = world.unique("lease");
    await leases.revoke(name);
    const lease = await leases.acquire(name, "one", 60_000);
    ok(lease, "the first acquire");
    await leases.revoke(name);
    await rejects(leases.assert(lease), "LEASE_LOST", "assert after it was revoked");
    equal(await leases.renew(lease, 60_000), false, "renew after it was revoked");
    const again = await leases.acquire(name, "one", 60_000);
    equal(again?.epoch, lease.epoch + 1, "epoch of the next one");
    await rejects(leases.assert(lease), "LEASE_LOST", "assert of the first one");
  });

  test("leases: revoking one waits for the transaction that holds it in place", async ({ store, ...world }) => {
    const other = await world.connect();
    const name = world.unique("lease");
    const lease = await store.leases.acquire(name, "one", 60_000);
    const order: string[] = [];
    let revoking: Promise<unknown> = Promise.resolve();
    await store.transaction(async ({ leases }) => {
      await leases.assert(lease!);
      revoking = other.leases.revoke(name).then(() => order.push("revoked"));
      await world.sleep(50);
      order.push("written");
    });
    await revoking;
    deepEqual(order, ["written", "revoked"], "order");
  });
}
