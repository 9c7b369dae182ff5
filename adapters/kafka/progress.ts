/**
 * How far a group is in a partition, as the text that travels with each committed offset.
 *
 * The committed offset is the low-water mark: everything before it is settled. Behind it some messages are settled and
 * some are not; which, and how often each was tried, stands in the commit's metadata. So a successor repeats nothing
 * that was settled out of order, and counts attempts on. Confluent's parallel consumer does the same
 * (https://github.com/confluentinc/parallel-consumer, "offset map").
 *
 * Brokers allow 4,096 bytes (`offset.metadata.max.bytes`). What does not fit is left out: then the successor sees some
 * settled messages again, and counts their attempts from 1.
 *
 * @module
 */

/** What is known of a message behind the low-water mark that is not settled. */
export interface Unsettled {
  readonly offset: number;
  readonly attempt: number;
  /** It was handed out. */
  readonly seen: boolean;
  /** Not before this time, in milliseconds since 1970; 0 if at once. */
  readonly notBefore: number;
  /** 0 if it never failed. */
  readonly firstFailedAt: number;
}

/** How far a group is in a partition. */
export interface Progress {
  /** Everything before is settled. */
  readonly low: number;
  /** From here on nothing is known. Between `low` and `high` all are settled but `unsettled`. */
  readonly high: number;
  readonly unsettled: readonly Unsettled[];
}

const VERSION = "m1";
const MAX_LENGTH = 4_000;

/** The metadata of a commit at `progress.low`. `unsettled` is in the order of offsets. */
export function encodeProgress({ low, high, unsettled }: Progress): string {
  let text = "";
  let known = high;
  for (const entry of unsettled) {
    const part = encodeEntry(entry, low);
    if (text.length + part.length > MAX_LENGTH) {
      known = entry.offset;
      break;
    }
    text += part;
  }
  return known === low ? "" : `${VERSION},${(known - low).toString(36)}${text}`;
}

/** The progress that a committed offset stands for. Metadata of other clients says nothing. */
export function decodeProgress(low: number, metadata: string): Progress {
  const [version, high = "", ...entries] = metadata.split(",");
  if (version !== VERSION) return { low, high: low, unsettled: [] };
  return { low, high: low + parseInt(high, 36), unsettled: entries.map((entry) => decodeEntry(entry, low)) };
}

/** `,distance` and then, as far as needed, `:attempt` (with `!` if it was handed out), `:first failure`, `:not before`. */
function encodeEntry({ offset, attempt, seen, notBefore, firstFailedAt }: Unsettled, low: number): string {
  const facts = [attempt, firstFailedAt, notBefore].map((value) => value.toString(36));
  const until = notBefore > 0 ? 3 : firstFailedAt > 0 ? 2 : attempt > 1 ? 1 : 0;
  return `,${(offset - low).toString(36)}${seen ? "!" : ""}${
    facts.slice(0, until).map((fact) => `:${fact}`).join("")
  }`;
}

function decodeEntry(text: string, low: number): Unsettled {
  const [distance = "", attempt = "1", firstFailedAt = "0", notBefore = "0"] = text.split(":");
  return {
    offset: low + parseInt(distance, 36),
    seen: distance.endsWith("!"),
    attempt: parseInt(attempt, 36),
    firstFailedAt: parseInt(firstFailedAt, 36),
    notBefore: parseInt(notBefore, 36),
  };
}
