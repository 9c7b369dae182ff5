/**
 * Messages as the JetStream API hands them out one by one.
 *
 * @module
 */
import type { NatsHeaders } from "./driver.ts";

/** What the API answers. */
export interface Stored {
  readonly message: {
    readonly subject: string;
    readonly seq: number;
    /** Base 64. */
    readonly hdrs?: string;
    /** Base 64. */
    readonly data?: string;
  };
}

/** The message, as one that came by itself. */
export function readStored(
  { message: { subject, seq, hdrs, data } }: Stored,
): {
  readonly subject: string;
  readonly seq: number;
  readonly raw: { readonly headers: NatsHeaders; readonly data: Uint8Array };
} {
  return { subject, seq, raw: { headers: readHeaders(bytes(hdrs)), data: bytes(data) } };
}

function bytes(base64 = ""): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function readHeaders(block: Uint8Array): NatsHeaders {
  const read = new Map<string, string>();
  for (const line of new TextDecoder().decode(block).split("\r\n").slice(1)) {
    const colon = line.indexOf(":");
    if (colon > 0) read.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return { code: 0, description: "", keys: () => [...read.keys()], get: (name) => read.get(name) ?? "" };
}
