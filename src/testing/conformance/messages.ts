/**
 * Messages and names for the conformance suites.
 *
 * @module
 */
import { encodeMessage } from "../../core/codec.ts";
import type { EncodedMessage } from "../../core/message.ts";

/** Makes names that no other test, process or run uses. */
export function uniqueNames(): (prefix: string) => string {
  const random = Array.from(crypto.getRandomValues(new Uint32Array(2)), (word) => word.toString(36)).join("");
  let count = 0;
  return (prefix) => `${prefix}-${random}-${++count}`;
}

/** What of a test message may be chosen. */
export interface TestMessageOptions {
  readonly type?: string;
  readonly key?: string;
}

/** A message with this id and data. */
export function testMessage(id: string, data: unknown, options: TestMessageOptions = {}): EncodedMessage {
  const { type = "conformance.happened", key } = options;
  const time = "2026-01-01T00:00:00.000Z";
  const message = { id, source: "/conformance", type, time, schemaVersion: 1, data, headers: {} };
  return encodeMessage(key === undefined ? message : { ...message, key });
}

/** The data of a test message. */
export function dataOf<T>(message: EncodedMessage): T {
  return (JSON.parse(message.body) as { data: T }).data;
}

/** The ids, in their order. */
export function idsOf(messages: readonly EncodedMessage[]): readonly string[] {
  return messages.map((message) => message.id);
}

/** Bodies that some broker or store somewhere has changed, cut or refused. Each is a valid event. */
export function awkwardBodies(): ReadonlyArray<readonly [what: string, body: string]> {
  const data: ReadonlyArray<readonly [string, string]> = [
    ["nothing", "null"],
    ["text beyond the basic plane", '"Zwölf Boxkämpfer 跑步 👩‍👩‍👧‍👦 \u202e עברית"'],
    ["an escaped NUL", '"a\\u0000b"'],
    ["an escaped NUL in a key", '{"\\u0000":1}'],
    ["an escaped lone surrogate", '"\\ud800 and \\udfff"'],
    ["numbers that doubles round", "[12345678901234567890,1.0,1e400,-0,0.1000]"],
    ["space that JSON.stringify would drop", '{ "a" :\t[ 1 , 2 ] }'],
    ["quotes, percent signs and line ends", '"\'\\"; drop table x; -- %s %d $1 ${x} {{y}}\\r\\n\\t\\\\"'],
    ["64 levels", `${"[".repeat(63)}${"]".repeat(63)}`],
    ["200 KiB", `"${"0123456789abcdef".repeat(12_800)}"`],
    ["100 KiB of two-byte characters", `"${"é".repeat(51_200)}"`],
  ];
  return data.map(([what, text]) => [what, envelope(text)]);
}

function envelope(dataText: string): string {
  return `{"specversion":"1.0","id":"x","source":"/conformance","type":"conformance.happened",` +
    `"schemaversion":1,"datacontenttype":"application/json","data":${dataText}}`;
}
