/**
 * Reading a request body: counted while it comes in, decoded strictly, and looked through before it is parsed.
 *
 * @module
 */
import type { Context } from "hono";
import { describe, MillstreamError } from "../core/errors.ts";
import { type MemberSpans, scanJson } from "../core/json.ts";
import { httpError } from "./problem.ts";

/** A parsed JSON body, and the text it was parsed from. */
export interface JsonText {
  readonly text: string;
  readonly value: unknown;
  /** Where the members of the outermost object stand in `text`. */
  readonly spans: MemberSpans;
}

/**
 * The body as text.
 *
 * Counts the bytes itself, because a length that a client declares is only a claim, and a chunked body has none.
 *
 * @throws `PAYLOAD_TOO_LARGE` before more than `maxBytes` are held, `MALFORMED_MESSAGE` if it is not UTF-8, 415 if it is compressed.
 */
export async function readText(c: Context, maxBytes: number): Promise<string> {
  const encoding = c.req.header("content-encoding") ?? "identity";
  if (encoding.toLowerCase() !== "identity") throw unreadable(encoding, "an uncompressed body");
  if (Number(c.req.header("content-length") ?? 0) > maxBytes) throw tooLarge(maxBytes);
  const bytes = await readBytes(c, maxBytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new MillstreamError("MALFORMED_MESSAGE", "Cannot read body: it is not UTF-8", { cause });
  }
}

async function readBytes(c: Context, maxBytes: number): Promise<Uint8Array> {
  const { raw } = c.req;
  if (raw.bodyUsed) { // by a middleware in front of the gateway; hono kept what it read
    const bytes = new Uint8Array(await c.req.arrayBuffer());
    if (bytes.length > maxBytes) throw tooLarge(maxBytes);
    return bytes;
  }
  if (!raw.body) return new Uint8Array();
  const reader = raw.body.getReader();
  try {
    return await collect(reader, maxBytes);
  } catch (error) {
    reader.cancel().catch(() => {}); // the rest is not wanted
    if (error instanceof MillstreamError) throw error;
    throw new MillstreamError("MALFORMED_MESSAGE", "Cannot read body: it ended early", { cause: error });
  }
}

/** One growing buffer, since a list of chunks of one byte each would weigh a hundred times the body. */
async function collect(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  maxBytes: number,
): Promise<Uint8Array> {
  let buffer = new Uint8Array(Math.min(maxBytes, 4_096));
  let size = 0;
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    const end = size + chunk.value.length;
    if (end > maxBytes) throw tooLarge(maxBytes);
    if (end > buffer.length) {
      const grown = new Uint8Array(Math.min(maxBytes, Math.max(end, buffer.length * 2)));
      grown.set(buffer.subarray(0, size));
      buffer = grown;
    }
    buffer.set(chunk.value, size);
    size = end;
  }
  return buffer.subarray(0, size);
}

/**
 * Parses what {@linkcode scanJson} let pass.
 *
 * @throws `MALFORMED_MESSAGE`, `PAYLOAD_TOO_DEEP`, or `UNSERIALIZABLE` for numbers like 1e999, which would read as Infinity.
 */
export function parseJson(text: string, maxDepth: number): JsonText {
  const spans = scanJson(text, { maxDepth });
  const value = parse(text);
  if (!isFinite(value)) {
    throw new MillstreamError("UNSERIALIZABLE", "Cannot accept JSON: it has a number above 1.8e308");
  }
  return { text, value, spans };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new MillstreamError("MALFORMED_MESSAGE", "Cannot read body: it is not JSON", { cause });
  }
}

function isFinite(value: unknown): boolean {
  if (typeof value === "number") return Number.isFinite(value);
  if (typeof value !== "object" || value === null) return true;
  return Object.values(value).every(isFinite);
}

/** The media type of a content type without its parameters, in lower case. @throws 415 for a charset that is not UTF-8. */
export function mediaType(contentType: string | undefined): string {
  const [type = "", ...parameters] = (contentType ?? "").toLowerCase().split(";").map((part) => part.trim());
  for (const parameter of parameters) {
    if (!parameter.startsWith("charset=") || /^charset="?(utf-?8|us-ascii)"?$/.test(parameter)) continue;
    throw unreadable(contentType, "charset utf-8");
  }
  return type;
}

/** Whether a media type is JSON. */
export function isJson(type: string): boolean {
  return /^application\/([\w.+-]+\+)?json$/.test(type);
}

/** The JSON body of a command or query. @throws 415 if it is not declared as JSON, and as the functions above. */
export async function readJson(
  c: Context,
  limits: { readonly maxBytes: number; readonly maxDepth: number },
): Promise<JsonText> {
  const contentType = c.req.header("content-type");
  if (!isJson(mediaType(contentType))) throw unreadable(contentType, "application/json");
  return parseJson(await readText(c, limits.maxBytes), limits.maxDepth);
}

/** The error for a content type or encoding. */
export function unreadable(got: string | undefined, expected: string): Error {
  return httpError(415, "UNSUPPORTED_MEDIA_TYPE", `Cannot read ${describe(got ?? "")}: expected ${expected}`);
}

function tooLarge(maxBytes: number): MillstreamError {
  return new MillstreamError("PAYLOAD_TOO_LARGE", `Cannot accept body: more than ${maxBytes} bytes`, {
    details: { maxBytes },
  });
}
