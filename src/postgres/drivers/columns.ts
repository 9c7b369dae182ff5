/**
 * Columns on their way out: what the text of each Postgres type becomes. One table for all clients, so that a row is
 * the same whichever client read it.
 *
 * @module
 */

/** Reads the text of a column that is not null. Never throws. */
export type ColumnParser = (text: string) => unknown;

const asText: ColumnParser = (text) => text;

/** By the type's oid, which is the same on every server for built-in types. */
const SCALARS: ReadonlyArray<readonly [oid: number, parser: ColumnParser]> = [
  [16, (text) => text === "t"], // bool
  [17, parseBytes], // bytea
  [21, Number], // int2
  [23, Number], // int4
  [700, Number], // float4
  [701, Number], // float8
  [114, parseJson], // json
  [3802, parseJson], // jsonb
  [1184, parseTime], // timestamptz
  // Clients would turn these into a Date in the machine's time zone, or a number.
  ...[20, 26, 1082, 1114, 1186, 1700].map((oid) => [oid, asText] as const),
];

/** Arrays whose elements are separated by commas, as [oid, oid of the element]. */
const ARRAYS: ReadonlyArray<readonly [oid: number, element: number]> = [
  [1000, 16], // bool[]
  [1001, 17], // bytea[]
  [1005, 21], // int2[]
  [1007, 23], // int4[]
  [1016, 20], // int8[]
  [1021, 700], // float4[]
  [1022, 701], // float8[]
  [1231, 1700], // numeric[]
  [199, 114], // json[]
  [3807, 3802], // jsonb[]
  [1185, 1184], // timestamptz[]
  // Read as arrays of text: "char", name, regproc, text, tid, xid, cid, char, varchar, point, lseg, path, polygon,
  // circle, line, oid, cidr, inet, macaddr, macaddr8, money, aclitem, date, time, timestamp, interval, timetz, bit,
  // varbit, refcursor, xml, uuid, txid_snapshot, pg_lsn, tsvector, tsquery, jsonpath, xid8, pg_snapshot, reg*, ranges.
  ...[
    ...[
      1002,
      1003,
      1008,
      1009,
      1010,
      1011,
      1012,
      1014,
      1015,
      1017,
      1018,
      1019,
      1027,
      719,
      629,
      1028,
      651,
      1041,
    ],
    ...[
      1040,
      775,
      791,
      1034,
      1182,
      1183,
      1115,
      1187,
      1270,
      1561,
      1563,
      2201,
      143,
      2951,
      2949,
      3221,
      3643,
      3645,
    ],
    ...[4073, 271, 5039, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192],
    ...[3905, 3907, 3909, 3911, 3913, 3927, 6150, 6151, 6152, 6153, 6155, 6157],
  ].map((oid) => [oid, 25] as const),
];

/** Parsers by oid. A type that is not in it stays text. */
export const COLUMN_PARSERS: ReadonlyMap<number, ColumnParser> = new Map(withArrays(new Map(SCALARS)));

function withArrays(scalars: ReadonlyMap<number, ColumnParser>): Array<readonly [number, ColumnParser]> {
  const arrays = ARRAYS.map(([oid, element]) => {
    const parse = scalars.get(element) ?? asText;
    return [oid, (text: string) => parseArray(text, parse)] as const;
  });
  return [...scalars, ...arrays];
}

/** The parser for a type. */
export function columnParser(oid: number): ColumnParser {
  return COLUMN_PARSERS.get(oid) ?? asText;
}

/** The server checked it; a value is kept as text rather than lost, should it ever not be JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Both forms of `bytea_output`: `\xdeadbeef`, and the old escapes. */
function parseBytes(text: string): Uint8Array {
  if (!text.startsWith("\\x")) return parseEscapedBytes(text);
  const bytes = new Uint8Array((text.length - 2) / 2);
  for (let at = 0; at < bytes.length; at++) {
    bytes[at] = hexDigit(text.charCodeAt(2 + 2 * at)) * 16 + hexDigit(text.charCodeAt(3 + 2 * at));
  }
  return bytes;
}

const hexDigit = (code: number): number => code - (code < 58 ? 48 : 87); // "0" to "9", "a" to "f"

function parseEscapedBytes(text: string): Uint8Array {
  const parts = text.match(/\\[0-7]{3}|\\\\|[^\\]/g) ?? [];
  return Uint8Array.from(
    parts,
    (part) => part.length === 4 ? parseInt(part.slice(1), 8) : part.charCodeAt(0),
  );
}

const TIME =
  /^(\d{4,6})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?( BC)?$/;

/**
 * A timestamptz, cut to milliseconds. Runtimes differ in what `new Date(text)` takes beyond ISO 8601, so it is read
 * here. `infinity`, and what a Date cannot hold, becomes an invalid Date.
 */
function parseTime(text: string): Date {
  const match = TIME.exec(text);
  if (!match) return new Date(text);
  const [
    ,
    year,
    month,
    day,
    hour,
    minute,
    second,
    fraction = "",
    sign,
    offsetHours,
    offsetMinutes,
    offsetSeconds,
    bc,
  ] = match;
  const date = new Date(0);
  date.setUTCFullYear(bc ? 1 - Number(year) : Number(year), Number(month) - 1, Number(day));
  date.setUTCHours(Number(hour), Number(minute), Number(second), Number(fraction.padEnd(3, "0").slice(0, 3)));
  const offset = Number(offsetHours) * 3_600 + Number(offsetMinutes ?? 0) * 60 + Number(offsetSeconds ?? 0);
  return new Date(date.getTime() - (sign === "-" ? -offset : offset) * 1_000);
}

/** An array in Postgres' text form: `{1,NULL,"a \"b\"",{2}}`, with or without bounds in front (`[0:1]={...}`). */
function parseArray(text: string, parse: ColumnParser): unknown[] {
  let at = text.indexOf("{") + 1;
  return readArray();

  /** Reads up to the bracket that closes the array whose opening bracket is just behind. */
  function readArray(): unknown[] {
    const items: unknown[] = [];
    while (at < text.length) {
      switch (text[at]) {
        case "}":
          at++;
          return items;
        case ",":
          at++;
          break;
        case "{":
          at++;
          items.push(readArray());
          break;
        case '"':
          at++;
          items.push(parse(readQuoted()));
          break;
        default: {
          const item = readPlain();
          items.push(item === "NULL" ? null : parse(item));
        }
      }
    }
    return items;
  }

  function readQuoted(): string {
    let item = "";
    for (; at < text.length && text[at] !== '"'; at++) {
      if (text[at] === "\\") at++;
      item += text[at];
    }
    at++;
    return item;
  }

  function readPlain(): string {
    const start = at;
    while (at < text.length && text[at] !== "," && text[at] !== "}") at++;
    return text.slice(start, at);
  }
}
