/**
 * An HTTP client that reads all of every answer.
 *
 * @module
 */

/** An answer, read to its end. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // deno-lint-ignore no-explicit-any
  readonly body: any;
}

/** How long an answer may take. More than the longest wait of the server itself. */
const PATIENCE_MS = 20_000;

/** Sends a request; a body that is no text is sent as JSON. */
export async function request(
  url: string,
  { method, body, headers = {} }: {
    readonly method?: string;
    readonly body?: unknown;
    readonly headers?: Readonly<Record<string, string>>;
  } = {},
): Promise<Answer> {
  const response = await fetch(url, {
    method: method ?? (body === undefined ? "GET" : "POST"),
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    signal: AbortSignal.timeout(PATIENCE_MS),
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const json = /json/.test(response.headers.get("content-type") ?? "");
  return {
    status: response.status,
    headers: response.headers,
    text,
    body: json ? JSON.parse(text) : undefined,
  };
}

/** A server-sent event. */
export interface Sent {
  readonly id: string;
  readonly event: string;
  readonly data: string;
}

/** Follows a stream of server-sent events until `enough` of all that came; leaves it then. Heartbeats are no events. */
export async function follow(
  url: string,
  enough: (events: readonly Sent[]) => boolean,
  { headers = {}, withinMs = PATIENCE_MS }: {
    readonly headers?: Readonly<Record<string, string>>;
    readonly withinMs?: number;
  } = {},
): Promise<Sent[]> {
  const leave = new AbortController();
  const late = setTimeout(() => leave.abort(), withinMs);
  const events: Sent[] = [];
  try {
    const response = await fetch(url, { headers: { ...headers }, signal: leave.signal });
    if (response.status !== 200 || !response.body) {
      throw new Error(`Cannot follow ${url}: ${response.status} ${await response.text()}`);
    }
    const decoder = new TextDecoder();
    let text = "";
    const reader = response.body.getReader();
    while (!enough(events)) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`Cannot go on with ${url}: it ended after ${events.length} events`);
      text += decoder.decode(value, { stream: true });
      const frames = text.split("\n\n");
      text = frames.pop() ?? "";
      for (const frame of frames) {
        const event = parse(frame);
        if (event) events.push(event);
      }
    }
    return events;
  } catch (error) {
    if (!leave.signal.aborted) throw error;
    throw new Error(`Cannot get enough of ${url} within ${withinMs} ms: ${events.length} events`, {
      cause: error,
    });
  } finally {
    clearTimeout(late);
    leave.abort();
  }
}

function parse(frame: string): Sent | undefined {
  const fields = new Map<string, string>();
  for (const line of frame.split("\n")) {
    const at = line.indexOf(": ");
    if (at <= 0) continue;
    const name = line.slice(0, at);
    const before = fields.get(name);
    fields.set(name, (before === undefined ? "" : `${before}\n`) + line.slice(at + 2));
  }
  const data = fields.get("data");
  return data === undefined
    ? undefined
    : { id: fields.get("id") ?? "", event: fields.get("event") ?? "", data };
}
