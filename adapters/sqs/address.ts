/**
 * Where SQS is.
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";
import type { SqsCredentials } from "./client.ts";

/** An address, taken apart. */
export interface Address {
  readonly endpoint: string;
  readonly region: string;
  readonly user?: SqsCredentials;
}

/**
 * Reads `http[s]://[key:secret@]host[:port]`, or `sqs://`, which is HTTPS, and HTTP for this machine. The region is taken
 * from `?region=`, or from a host name of AWS.
 *
 * @throws `INVALID_ARGUMENT`
 */
export function parseAddress(url: string, region?: string): Address {
  const parsed = /^(https?|sqs):\/\/./.test(String(url)) && URL.canParse(url) ? new URL(url) : undefined;
  if (!parsed || parsed.host === "") {
    throw wrong("url", "https://sqs.<region>.amazonaws.com or sqs://[key:secret@]host[:port]");
  }
  const { hostname, host, username, password, pathname } = parsed;
  const local = /^(localhost|127\.|\[::1\])/.test(hostname);
  const scheme = parsed.protocol === "sqs:" ? (local ? "http" : "https") : parsed.protocol.slice(0, -1);
  const named = region ?? parsed.searchParams.get("region") ??
    /^sqs[.-]([a-z0-9-]+)\.amazonaws\./.exec(hostname)?.[1];
  if (!named && !local) throw wrong("region", "the name of a region, as the address has none");
  const address = { endpoint: `${scheme}://${host}${pathname || "/"}`, region: named ?? "us-east-1" };
  if (!username) return address;
  const user = { accessKeyId: decodeURIComponent(username), secretAccessKey: decodeURIComponent(password) };
  return { ...address, user };
}

function wrong(option: string, expected: string): MillstreamError {
  // Without the value: it may have a secret in it.
  return new MillstreamError("INVALID_ARGUMENT", `Cannot use option "${option}": expected ${expected}`, {
    details: { option },
  });
}
