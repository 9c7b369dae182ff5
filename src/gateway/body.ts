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
  const encoding = c.req.header("content-encoding");
  if (encoding && encoding.toLowerCase() !== "identity") {
    throw httpError(
      415,
      "UNSUPPORTED_MEDIA_TYPE",
      `Cannot read a body with content encoding ${describe(encoding)}`,
    );
  }
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
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      size += chunk.value.length;
      if (size > maxBytes) throw tooLarge(maxBytes);
      chunks.push(chunk.value);
    }
  } catch (error) {
    reader.cancel().catch(() => {}); // the rest is not wanted
    if (error instanceof MillstreamError) throw error;
    throw new MillstreamError("MALFORMED_MESSAGE", "Cannot read body: it ended early", { cause: error });
  }
  return chunks.length === 1 ? chunks[0]! : joined(chunks, size);
}

function joined(chunks: readonly Uint8Array[], size: number): Uint8Array {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** Parses what {@linkcode scanJson} let pass. @throws `MALFORMED_MESSAGE` or `PAYLOAD_TOO_DEEP`. */
export function parseJson(text: string, maxDepth: number): JsonText {
  const spans = scanJson(text, { maxDepth });
  try {
    return { text, value: JSON.parse(text), spans };
  } catch (cause) {
    throw new MillstreamError("MALFORMED_MESSAGE", "Cannot read body: it is not JSON", { cause });
  }
}

/** The media type of a content type without its parameters, in lower case. @throws 415 for a charset that is not UTF-8. */
export function mediaType(contentType: string | undefined): string {
  const [type = "", ...parameters] = (contentType ?? "").toLowerCase().split(";").map((part) => part.trim());
  for (const parameter of parameters) {
    if (!parameter.startsWith("charset=") || /^charset="?(utf-?8|us-ascii)"?$/.test(parameter)) continue;
    throw httpError(
      415,
      "UNSUPPORTED_MEDIA_TYPE",
      `Cannot read ${describe(contentType)}: expected charset utf-8`,
    );
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
  if (!isJson(mediaType(contentType))) {
    throw httpError(
      415,
      "UNSUPPORTED_MEDIA_TYPE",
      `Cannot read ${describe(contentType ?? "")}: expected application/json`,
    );
  }
  return parseJson(await readText(c, limits.maxBytes), limits.maxDepth);
}

function tooLarge(maxBytes: number): MillstreamError {
  return new MillstreamError("PAYLOAD_TOO_LARGE", `Cannot accept body: more than ${maxBytes} bytes`, {
    details: { maxBytes },
  });
}
