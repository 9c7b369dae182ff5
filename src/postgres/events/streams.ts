/**
 * What is known of a stream, and what can become of it.
 *
 * @module
 */
import { describe, MillstreamError } from "../../core/errors.ts";
import { checkText } from "../../core/names.ts";
import type { StreamChange, StreamChangeOptions, StreamInfo, StreamState } from "../../ports/event_store.ts";
import { checkChange } from "../../ports/event_store_checks.ts";
import type { SqlRow, SqlSession } from "../../ports/sql.ts";
import { checkSignal, optional } from "../context.ts";

/** Versions that one statement removes at most. */
const SLICE = 10_000;

/** See `EventStore.describeStream`. */
export async function describeStream(
  session: SqlSession,
  schema: string,
  stream: string,
): Promise<StreamInfo | undefined> {
  checkText("stream", stream);
  const text = `select version as at_version, first as at_first, coalesce(state, 'open') as at_state,
  metadata as at_metadata from ${schema}.streams where stream = $1::text`;
  const [row] = await session.query<StreamRow>(text, [stream]);
  return row && infoOf(stream, row);
}

/** See `EventStore.changeStream`. */
export async function changeStream(
  session: SqlSession,
  { schema, stream, change, options }: {
    readonly schema: string;
    readonly stream: string;
    readonly change: StreamChange;
    readonly options: StreamChangeOptions;
  },
): Promise<StreamInfo> {
  checkChange(stream, change, options);
  const { state, truncateBefore, metadata } = change;
  const { expected, signal } = options;
  for (;;) {
    checkSignal(signal);
    const [row] = await session.query<ChangeRow>(changeSql(schema), [
      stream,
      expected,
      state,
      truncateBefore,
      SLICE,
      metadata !== undefined,
      metadata,
    ]);
    if (row?.outcome !== "changed") throw refused(stream, change, { expected, row });
    if (!row.unfinished) return infoOf(stream, row);
  }
}

/** Calls the function `change_stream`: stream, expected version, state, version to truncate before, slice, note, metadata. */
const changeSql = (schema: string): string =>
  `select * from ${schema}.change_stream($1::text, $2::int, $3::text, $4::int, $5::int, $6::bool, $7::text)`;

interface StreamRow extends SqlRow {
  readonly at_version: number;
  readonly at_first: number;
  readonly at_state: StreamState;
  readonly at_metadata: string | null;
}

interface ChangeRow extends StreamRow {
  readonly outcome: string;
  readonly unfinished: boolean;
}

function infoOf(stream: string, row: StreamRow): StreamInfo {
  return {
    stream,
    version: row.at_version,
    firstVersion: row.at_first,
    state: row.at_state,
    ...optional("metadata", row.at_metadata),
  };
}

function refused(
  stream: string,
  { truncateBefore }: StreamChange,
  { expected, row }: { readonly expected: number | undefined; readonly row: ChangeRow | undefined },
): MillstreamError {
  const what = `Cannot change stream ${describe(stream)}`;
  switch (row?.outcome) {
    case "version":
      return new MillstreamError(
        "CONCURRENCY_CONFLICT",
        `${what}: expected version ${expected}, got ${row.at_version}`,
        { details: { stream, expected, current: row.at_version } },
      );
    case "state":
      return new MillstreamError(
        "REJECTED",
        `${what}: expected an open stream, got one that is ${row.at_state}`,
        {
          details: { stream, state: row.at_state },
        },
      );
    case "range":
      return new MillstreamError(
        "INVALID_ARGUMENT",
        `${what}: expected truncateBefore from 1 to ${row.at_version}, got ${truncateBefore}`,
        { details: { option: "truncateBefore", max: row.at_version } },
      );
    default:
      return new MillstreamError("NOT_FOUND", `${what}: it does not exist`, { details: { stream } });
  }
}
