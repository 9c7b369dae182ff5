/** The application that the gateway tests talk to, and how they talk to it. */
import assert from "node:assert/strict";
import * as v from "valibot";
import type { Millstream } from "../../src/app/application.ts";
import { millstream } from "../../src/app/millstream.ts";
import { command, event, query, topic } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import type { Message } from "../../src/core/message.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { projection } from "../../src/sourcing/projection.ts";

const Data = v.object({ orderId: v.string(), total: v.number() });

export const OrderPlaced = event("order.placed", Data);
export const OrderShipped = event("order.shipped", v.object({ items: v.array(v.string()) }), {
  version: 2,
  upcast: { 1: (old: { list: { name: string }[] }) => ({ items: old.list.map(({ name }) => name) }) },
});
export const OrderCancelled = event("order.cancelled", v.object({ orderId: v.string() }));
export const PlaceOrder = command("order.place", Data);
export const CancelOrder = command("order.cancel", v.object({ orderId: v.string() }));
export const Echo = command("echo", v.unknown());
export const Broken = command("broken", v.object({ how: v.string() }));
export const Typed = command("typed", v.object({ answer: v.unknown() }), { result: v.number() });
export const OrderIds = query("order.ids", v.object({ minimum: v.optional(v.string()) }));
export const Count = query("count", v.object({ answer: v.optional(v.string()) }), v.number());
export const Mirror = query("mirror", v.unknown());

interface Order {
  readonly placed: boolean;
}

const Order = aggregate("order", {
  commands: [PlaceOrder, CancelOrder],
  events: [OrderPlaced, OrderCancelled],
  initial: (): Order => ({ placed: false }),
  decide: {
    "order.place": ({ data }: Message<v.InferOutput<typeof Data>>, state: Order) =>
      state.placed ? refuse("ORDER_EXISTS", `Order ${data.orderId} exists`) : [OrderPlaced(data)],
    "order.cancel": ({ data }: Message<{ orderId: string }>) => [OrderCancelled(data)],
  },
  evolve: {
    "order.placed": () => ({ placed: true }),
    "order.cancelled": () => ({ placed: false }),
  },
});

/** What a test may look at and hold up. */
export interface World {
  readonly app: Millstream;
  /** How often `echo` ran. */
  readonly echoes: () => number;
  /** Makes `echo` wait until the returned function is called. */
  hold(): () => void;
  /** Makes the projection of `order.ids` fail until the returned function is called. */
  breakProjection(): () => void;
}

/** A started application in memory. */
export async function world(): Promise<World> {
  let echoes = 0;
  let gate = Promise.resolve();
  let broken = false;
  const ids: string[] = [];
  const Orders = projection("orders", { on: [OrderPlaced] }, (events) => {
    if (broken) throw new Error("The projection is broken on purpose");
    for (const { data } of events) ids.push(data.orderId);
  });
  const app = millstream({});
  app.use(Order, { id: (data: { orderId: string }) => data.orderId });
  app.use(Orders);
  app.declare(topic("github"), OrderShipped);
  app.handle(Echo, async ({ data, userId, correlationId, traceparent }) => {
    echoes++;
    await gate;
    return { data, userId, correlationId, traceparent };
  });
  app.handle(Broken, ({ data }, context) => {
    if (data.how === "result") return 1n;
    if (data.how === "publish") return context.publish(OrderCancelled, { orderId: 1 as unknown as string });
    if (data.how === "dispatch") return context.dispatch(command("nobody", v.unknown()), {});
    if (data.how === "string") throw "secret string";
    throw new Error("secret cause");
  });
  app.handle(Typed, ({ data }) => data.answer as number);
  app.answer(Count, ({ answer }) => answer as unknown as number);
  app.answer(OrderIds, { after: [Orders] }, () => ids);
  app.answer(Mirror, (params) => params);
  await app.start();
  return { app, echoes: () => echoes, hold, breakProjection };

  function hold(): () => void {
    let open = (): void => {};
    gate = new Promise((resolve) => open = resolve);
    return open;
  }

  function breakProjection(): () => void {
    broken = true;
    return () => void (broken = false);
  }
}

/** A CloudEvent in JSON; `data` is JSON text and stays as it is. */
export function cloudEvent(id: string, data: string, extra: Record<string, unknown> = {}): string {
  const attributes = { specversion: "1.0", id, source: "/test", type: "order.placed", ...extra };
  return `${JSON.stringify(attributes).slice(0, -1)},"data":${data}}`;
}

/** A request with a structured event. */
export function structured(event: string, headers: Record<string, string> = {}): RequestInit {
  return {
    method: "POST",
    body: event,
    headers: { "content-type": "application/cloudevents+json", ...headers },
  };
}

/** A request with a JSON body. */
export function json(body: unknown, headers: Record<string, string> = {}): RequestInit {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return {
    method: "POST",
    body: text,
    headers: { "content-type": "application/json", ...headers },
  };
}

/** The body of a response that must have this status. */
export async function body<T = Record<string, unknown>>(response: Response, status: number): Promise<T> {
  const text = await response.text();
  assert.equal(response.status, status, text);
  return JSON.parse(text) as T;
}

/** The problem of a response that must have this status and code. */
export async function problem(
  response: Response,
  status: number,
  code: string,
): Promise<Record<string, unknown>> {
  assert.equal(response.headers.get("content-type"), "application/problem+json");
  assert.equal(response.headers.get("x-content-type-options"), "nosniff");
  const found = await body(response, status);
  assert.deepEqual([found.code, found.status, found.type], [
    code,
    status,
    `urn:millstream:problem:${code}`,
  ]);
  assert.equal(typeof found.detail, "string");
  assert.equal(typeof found.retryable, "boolean");
  return found;
}

/** One server-sent event. */
export interface Sent {
  readonly id?: string;
  readonly event?: string;
  readonly data?: string;
}

/** A client of an event stream, parsing as the standard says. */
export interface EventClient {
  /** The next event with data. Fails after five seconds. */
  next(): Promise<Sent & { readonly data: string }>;
  /** The next `count` of them. */
  take(count: number): Promise<Array<Sent & { readonly data: string }>>;
  /** Whether the server ended the stream, reading on until it does. */
  ended(): Promise<boolean>;
  /** The last id, events without data included. */
  readonly lastId: string | undefined;
  close(): Promise<void>;
}

/** Reads an event stream. */
export function eventClient(response: Response): EventClient {
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/);
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  let lastId: string | undefined;

  async function block(): Promise<string | undefined> {
    for (;;) {
      const end = buffer.indexOf("\n\n");
      if (end >= 0) {
        const text = buffer.slice(0, end);
        buffer = buffer.slice(end + 2);
        return text;
      }
      const { done, value } = await within(5_000, reader.read());
      if (done) return undefined;
      buffer += decoder.decode(value, { stream: true });
    }
  }

  async function next(): Promise<Sent & { readonly data: string }> {
    for (;;) {
      const text = await block();
      assert.ok(text !== undefined, "the stream ended");
      const fields: { id?: string; event?: string; data?: string } = {};
      for (const line of text.split("\n")) {
        const [name = "", ...rest] = line.split(":");
        const value = rest.join(":").replace(/^ /, "");
        if (name === "id") lastId = fields.id = value;
        else if (name === "event") fields.event = value;
        else if (name === "data") {
          fields.data = fields.data === undefined ? value : `${fields.data}\n${value}`;
        }
      }
      if (fields.data !== undefined) return { ...fields, data: fields.data };
    }
  }

  return {
    next,
    async take(count) {
      const taken = [];
      while (taken.length < count) taken.push(await next());
      return taken;
    },
    async ended() {
      while (await block() !== undefined);
      return true;
    },
    get lastId() {
      return lastId;
    },
    close: () => reader.cancel(),
  };
}

/** Fails unless `work` settles in time. */
export async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`Nothing happened within ${ms} ms`)),
      ms,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until `check` holds. Fails after five seconds. */
export async function until(check: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const end = Date.now() + 5_000; Date.now() < end;) {
    if (await check()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.fail(`Never happened: ${what}`);
}
