/**
 * The orchestrator: drives saga instances, step by step, on any process that has the saga.
 *
 * The intent of a step is saved before it runs and its outcome in the transaction of its effects, both fenced by the
 * claim's epoch. After a crash another process claims the instance when the lease has run out, and the step in doubt
 * runs again under the same idempotency key.
 *
 * @module
 */
import { backoffDelay, type ResolvedRetryPolicy, retryPolicy } from "../core/backoff.ts";
import { type Clock, untilAborted } from "../core/clock.ts";
import type { NewEvent } from "../core/definition.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import { type Random, uuidv5 } from "../core/ids.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import { validate } from "../core/schema.ts";
import { stringifyStrict } from "../core/json.ts";
import type { DispatchResult } from "../messaging/context.ts";
import type { MessageFactory } from "../messaging/factory.ts";
import { type Loop, startLoop } from "../messaging/loop.ts";
import type { StreamAppend } from "../ports/event_store.ts";
import type { OutboxMessage } from "../ports/outbox.ts";
import type { ClaimedSaga, SagaInstance } from "../ports/saga_store.ts";
import type { Store } from "../ports/store.ts";
import { type ActiveMove, failedForGood, failedOnce, intend, nextMove, succeeded } from "./advance.ts";
import type { Saga, Step, StepContext } from "./definition.ts";

/** What driving sagas needs. */
export interface SagaParts {
  readonly store: Store;
  readonly factory: MessageFactory;
  readonly clock: Clock;
  readonly random: Random;
  readonly observer: Observer;
  /** Tells this process from the others. */
  readonly owner: string;
  /** Runs a command. */
  readonly dispatch: (command: Message) => Promise<DispatchResult>;
  /** Called when a step's effects have been committed, so that the relay need not wait for its next look. */
  readonly committed: () => void;
}

const LEASE_MS = 15_000;
const POLL_MS = 200;
const CONCURRENCY = 32;
const RUN_RETRY = { attempts: 5 };
const UNDO_RETRY = { attempts: 10 };

/** Drives all instances of `sagas` until stopped. */
export function startOrchestrator(parts: SagaParts, sagas: ReadonlyMap<string, Saga>): Loop {
  const { store, clock, observer, owner } = parts;
  const driving = new Set<Promise<void>>();
  const shutdown = new AbortController();

  const loop = startLoop({ name: "sagas", clock, observer, periodMs: 5_000 }, async () => {
    const free = CONCURRENCY - driving.size;
    const claimed = free > 0 ? await store.sagas.claim([...sagas.keys()], owner, LEASE_MS, free) : [];
    for (const claim of claimed) {
      const driven = drive(parts, sagas.get(claim.instance.saga)!, claim, shutdown.signal).finally(() => {
        driving.delete(driven);
        loop.wake();
      });
      driving.add(driven);
    }
    return POLL_MS;
  });

  return {
    ...loop,
    async stop() {
      await loop.stop();
      shutdown.abort(new DOMException("Shutting down", "AbortError"));
      await Promise.allSettled(driving);
    },
  };
}

/** Makes moves until the instance ends, has to wait, or the claim is lost. Never rejects. */
async function drive(parts: SagaParts, saga: Saga, claim: ClaimedSaga, shutdown: AbortSignal): Promise<void> {
  const lost = new AbortController();
  const heartbeat = startHeartbeat(parts, claim, lost);
  const signal = AbortSignal.any([shutdown, lost.signal]);
  try {
    let instance: SagaInstance | undefined = claim.instance;
    while (instance && !signal.aborted) instance = await makeMove(parts, saga, claim, instance, signal);
    // A shutdown is never a failure: the claim is given back with everything as it was saved last.
    if (instance && !lost.signal.aborted) await parts.store.sagas.save(claim, instance, true);
  } catch (thrown) {
    const error = toError(thrown);
    const what = `saga ${claim.instance.id}`;
    if (isMillstreamError(error, "LEASE_LOST")) {
      parts.observer({ kind: "lease-lost", what: "saga", id: claim.instance.id });
    } else parts.observer({ kind: "loop-failed", loop: what, error }); // the lease runs out, and the saga goes on from there
  } finally {
    heartbeat();
  }
}

/** Makes one move. Returns the instance to go on with, or nothing if the claim was given back. */
async function makeMove(
  parts: SagaParts,
  saga: Saga,
  claim: ClaimedSaga,
  instance: SagaInstance,
  signal: AbortSignal,
): Promise<SagaInstance | undefined> {
  const { store, clock } = parts;
  const move = nextMove(instance, saga.steps.map(({ name }) => name));
  if (move.kind === "end") {
    await store.sagas.save(claim, { ...instance, status: move.status, updatedAt: clock.now() }, true);
    observe(parts, instance, undefined, move.status);
    return undefined;
  }
  const intended = intend(instance, move, clock.now());
  await store.sagas.save(claim, intended, false);
  const step = saga.steps.find(({ name }) => name === move.step);
  let data: unknown;
  let effects: StepEffects;
  const staged: Staged = { acted: false, messages: [], appends: [] };
  try {
    if (!step) throw missingStep(saga, move.step);
    data = await runStep(parts, saga, step, intended, move, staged, signal);
    effects = await prepare(parts, intended, move, staged);
  } catch (thrown) {
    if (signal.aborted) return intended; // in doubt: whoever resumes runs it again under the same key
    return await afterFailure(parts, claim, step, intended, move, staged, toError(thrown));
  }
  const next = succeeded(intended, move, data, clock.now());
  try {
    await commit(parts, claim, next, effects);
  } catch (thrown) {
    // Effects that the store refuses for good are the step's failure. All else is not: the claim is dropped, and
    // whoever resumes finds what was saved.
    if (!isMillstreamError(thrown, "INVALID_ARGUMENT", "REJECTED")) throw thrown;
    return await afterFailure(parts, claim, step, intended, move, staged, thrown);
  }
  observe(parts, next, move.step, move.kind === "run" ? "done" : "undone");
  return next;
}

async function afterFailure(
  parts: SagaParts,
  claim: ClaimedSaga,
  step: Step<unknown> | undefined,
  instance: SagaInstance,
  move: ActiveMove,
  staged: Staged,
  error: Error,
): Promise<SagaInstance | undefined> {
  const { store, clock, random } = parts;
  if (isMillstreamError(error, "LEASE_LOST")) throw error;
  const policy = policyOf(step, move);
  const now = clock.now();
  const final = move.attempt >= policy.attempts || (move.kind === "run" && isFinal(error));
  // An earlier try may have taken effect, and so may a command that this one has sent: then it must be undone.
  const definite = isMillstreamError(error, "REFUSED") && move.attempt === 1 && !staged.acted;
  const next = final
    ? failedForGood(instance, move, error.message, definite, now)
    : failedOnce(instance, move, error.message, now + backoffDelay(move.attempt, policy, random), now);
  observe(parts, next, move.step, final ? "failed" : "retrying", error);
  await store.sagas.save(claim, next, !final);
  return final ? next : undefined; // a retry waits for its time without a claim
}

function policyOf(step: Step<unknown> | undefined, move: ActiveMove): ResolvedRetryPolicy {
  return move.kind === "run"
    ? retryPolicy({ ...RUN_RETRY, ...step?.retry })
    : retryPolicy({ ...UNDO_RETRY, ...step?.undoRetry });
}

/** Whether the error says that trying again is pointless. */
function isFinal(error: Error): boolean {
  return isMillstreamError(error, "REFUSED") || (error as { retryable?: unknown }).retryable === false;
}

interface Staged {
  /** Whether a command went through: the step has taken effect, whatever it ends with. */
  acted: boolean;
  readonly messages: Array<Promise<OutboxMessage>>;
  readonly appends: Array<{ readonly stream: string; readonly events: readonly NewEvent[] }>;
}

/** Runs or undoes one step and returns the saga's data after it. */
async function runStep(
  parts: SagaParts,
  saga: Saga,
  step: Step<unknown>,
  instance: SagaInstance,
  move: ActiveMove,
  staged: Staged,
  outer: AbortSignal,
): Promise<unknown> {
  const work = move.kind === "run" ? step.run : step.undo;
  if (!work) return instance.data;
  const timeoutMs = step.timeoutMs ?? 30_000;
  const timeout = new AbortController();
  const cancel = parts.clock.after(
    timeoutMs,
    () => timeout.abort(stepTimedOut(instance, step.name, timeoutMs)),
  );
  const signal = AbortSignal.any([outer, timeout.signal]);
  try {
    const change = await untilAborted(
      Promise.resolve().then(() => work(instance.data, stepContext(parts, instance, move, staged, signal))),
      signal,
    );
    if (!change) return instance.data;
    const data = await validate(
      saga.schema,
      { ...instance.data as object, ...change as object },
      `data of saga "${saga.name}"`,
    );
    stringifyStrict(data);
    return data;
  } finally {
    cancel();
  }
}

function stepContext(
  { factory, dispatch }: SagaParts,
  instance: SagaInstance,
  move: ActiveMove,
  staged: Staged,
  signal: AbortSignal,
): StepContext {
  const idempotencyKey = `${instance.id}/${move.step}${move.kind === "undo" ? "/undo" : ""}`;
  const inherit: MessageOptions = { correlationId: instance.correlationId, causationId: instance.id };
  let created = 0;
  const nextId = (): Promise<string> => uuidv5(`${instance.saga}/${idempotencyKey}/${created++}`);
  return {
    sagaId: instance.id,
    idempotencyKey,
    attempt: move.attempt,
    signal,
    publish(definition, data, options = {}) {
      const message = nextId().then(async (id) => ({
        ...(await factory.event(definition, data, { ...inherit, id, ...options })),
        topic: definition.topic,
      }));
      message.catch(() => {}); // reported when the step is committed
      staged.messages.push(message);
    },
    append: (stream, events) => void staged.appends.push({ stream, events }),
    async dispatch(command, data) {
      const message = await factory.command(command, data, { ...inherit, id: await nextId() });
      signal.throwIfAborted(); // a try that was given up sends nothing more
      const result = await dispatch(message);
      staged.acted = true;
      return result as never;
    },
  };
}

interface StepEffects {
  readonly messages: readonly OutboxMessage[];
  readonly appends: readonly StreamAppend[];
}

/** Validates and encodes what a step wants to send, under ids that are the same at every try. */
async function prepare(
  { factory }: SagaParts,
  instance: SagaInstance,
  move: ActiveMove,
  staged: Staged,
): Promise<StepEffects> {
  const { saga, id, correlationId } = instance;
  const appends = await Promise.all(staged.appends.map(async ({ stream, events }, at) => ({
    stream,
    expected: "any" as const,
    events: await Promise.all(events.map(async (event, index) => {
      const eventId = await uuidv5(`${saga}/${id}/${move.kind}/${move.step}/${at}/${index}`);
      return await factory.toAppend(event, {
        correlationId,
        causationId: id,
        subject: stream,
        ...event.options,
        id: eventId,
      });
    })),
  })));
  return { messages: await Promise.all(staged.messages), appends };
}

/** Saves a step's outcome and its effects in one transaction. */
async function commit(
  { store, committed }: SagaParts,
  claim: ClaimedSaga,
  next: SagaInstance,
  effects: StepEffects,
): Promise<void> {
  const { messages, appends } = effects;
  if (messages.length === 0 && appends.length === 0) return await store.sagas.save(claim, next, false);
  await store.transaction(async (ports) => {
    await ports.sagas.save(claim, next, false);
    for (const append of appends) await ports.events.append([append]);
    if (messages.length > 0) await ports.outbox.add(messages);
  });
  committed();
}

function startHeartbeat({ store, clock }: SagaParts, claim: ClaimedSaga, lost: AbortController): () => void {
  let ended = false;
  let cancel = schedule();
  function schedule(): () => void {
    if (ended) return () => {};
    return clock.after(LEASE_MS / 3, () => {
      store.sagas.renew(claim, LEASE_MS).then((kept) => {
        if (kept) cancel = schedule();
        else lost.abort(leaseLost(claim));
      }, () => void (cancel = schedule())); // the store was away for a moment; each save has the last word
    });
  }
  return () => {
    ended = true; // also if a renewal is under way
    cancel();
  };
}

function leaseLost({ instance }: ClaimedSaga): MillstreamError {
  return new MillstreamError("LEASE_LOST", `Cannot go on with saga "${instance.id}": its lease was lost`);
}

function observe(
  { observer }: SagaParts,
  instance: SagaInstance,
  step: string | undefined,
  status: string,
  error?: Error,
): void {
  const base = { kind: "saga" as const, saga: instance.saga, id: instance.id, step, status };
  observer(error ? { ...base, error } : base);
}

function missingStep(saga: Saga, step: string): MillstreamError {
  return new MillstreamError(
    "HANDLER_NOT_FOUND",
    `Cannot go on with saga "${saga.name}": it has no step "${step}" any more`,
  );
}

function stepTimedOut(instance: SagaInstance, step: string, timeoutMs: number): MillstreamError {
  return new MillstreamError(
    "HANDLER_TIMEOUT",
    `Cannot wait longer for step "${step}" of saga "${instance.id}": it took more than ${timeoutMs} ms`,
  );
}
