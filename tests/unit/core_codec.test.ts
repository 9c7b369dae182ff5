import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeMessage, decodeStored, encodeMessage, NO_LIMITS, parseEvent } from "../../src/core/codec.ts";
import { type ErrorCode, isMillstreamError } from "../../src/core/errors.ts";
import { scanJson, stringifyStrict } from "../../src/core/json.ts";
import { isPlainText } from "../../src/core/names.ts";
import type { Message } from "../../src/core/message.ts";

const BASE: Message = {
  id: "m-1",
  source: "/test",
  type: "thing.happened",
  time: "2026-01-01T00:00:00.000Z",
  schemaVersion: 1,
  data: null,
  headers: {},
};
const DECODING: readonly ErrorCode[] = [
  "MALFORMED_MESSAGE",
  "PAYLOAD_TOO_DEEP",
  "PAYLOAD_TOO_LARGE",
];

/** Any text that a JavaScript string can hold: NUL, controls, lone surrogates, emoji. */
const anyText = fc.string({
  unit: fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)),
});
const anyJson = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    fc.constant(null),
    fc.boolean(),
    anyText,
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((number) => number + 0), // -0 is 0 in JSON
    fc.array(tie("value"), { maxLength: 5 }),
    fc.dictionary(anyText.filter((key) => key !== "__proto__"), tie("value"), {
      maxKeys: 5,
    }),
  ),
})).value;
const attribute = fc.string({ minLength: 1, maxLength: 60, unit: "grapheme" })
  .filter((text) => isPlainText(text) && text.length <= 512);
const anyMessage = fc.record({
  id: attribute,
  source: attribute,
  type: attribute,
  time: fc.date({
    min: new Date(0),
    max: new Date("9999-12-31"),
    noInvalidDate: true,
  }).map((date) => date.toISOString()),
  schemaVersion: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
  data: anyJson,
  headers: fc.dictionary(fc.stringMatching(/^x[a-z0-9]{1,20}$/), attribute, {
    maxKeys: 4,
  }),
  subject: attribute,
  key: attribute,
  correlationId: attribute,
  causationId: attribute,
  userId: attribute,
}, {
  requiredKeys: [
    "id",
    "source",
    "type",
    "time",
    "schemaVersion",
    "data",
    "headers",
  ],
});

/** Without prototypes, which fast-check varies and JSON does not keep. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, plain(inner)]),
  );
}

test("what is encoded is decoded again unchanged, whatever the text and numbers in it", () => {
  fc.assert(
    fc.property(anyMessage, (message) => {
      const { body } = encodeMessage(message as Message);
      assert.ok(!/[\r\n]/.test(body), "the body is one line");
      assert.deepEqual(plain(decodeMessage(body)), plain(message));
    }),
    { numRuns: 300 },
  );
});

test("a decoded message encodes to the same bytes, its data not even reformatted", () => {
  const data = '{ "a" : 1.0,"b":[ 1e2 ,"\\u0041\\/"] }';
  const body = encodeMessage(
    { ...BASE, key: "k", userId: "u", headers: { tenant: "t" } },
    {},
    data,
  ).body;
  const parsed = parseEvent(body);
  assert.equal(parsed.dataText, data);
  assert.equal(encodeMessage(parsed.message, {}, parsed.dataText).body, body);
  fc.assert(
    fc.property(anyMessage, (message) => {
      const encoded = encodeMessage(message as Message);
      const again = parseEvent(encoded.body);
      assert.equal(
        encodeMessage(again.message, {}, again.dataText).body,
        encoded.body,
      );
    }),
    { numRuns: 200 },
  );
});

test("the data's text is found wherever it stands and whatever surrounds it", () => {
  const before =
    '{ "data" :  [1, {"data": "}"}] ,"specversion":"1.0","id":"1","source":"s","type":"t","note":"\\"data\\": 5"}';
  assert.equal(parseEvent(before).dataText, '[1, {"data": "}"}]');
  assert.equal(
    parseEvent('{"specversion":"1.0","id":"1","source":"s","type":"t"}')
      .dataText,
    "null",
  );
  assert.equal(
    parseEvent(
      '{"specversion":"1.0","id":"1","source":"s","type":"t","d\\u0061ta":7}',
    ).dataText,
    "7",
  );
});

test("decoding any text fails only with the documented codes", () => {
  const check = (text: string): void => {
    try {
      decodeMessage(text);
    } catch (error) {
      assert.ok(isMillstreamError(error, ...DECODING), `${text}: ${error}`);
    }
  };
  fc.assert(fc.property(anyText, check), { numRuns: 500 });
  fc.assert(fc.property(fc.json(), check), { numRuns: 500 });
  const fragment = fc.constantFrom(
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    '"data"',
    '"specversion":"1.0"',
    '"id"',
    "null",
    "1",
    "\\u00",
    " ",
    '"__proto__"',
  );
  fc.assert(
    fc.property(
      fc.array(fragment, { maxLength: 40 }).map((parts) => parts.join("")),
      check,
    ),
    { numRuns: 2_000 },
  );
  const value = fc.oneof(
    anyJson,
    fc.constantFrom("1.0", "application/json", "2026-01-01T00:00:00Z", 1, null),
  );
  const name = fc.constantFrom(
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "schemaversion",
    "data_base64",
    "partitionkey",
    "data",
    "BAD",
    "constructor",
    "tostring",
  );
  fc.assert(
    fc.property(fc.dictionary(name, value), (event) => {
      check(JSON.stringify(event));
      check(
        JSON.stringify({
          ...event,
          specversion: "1.0",
          id: "1",
          source: "s",
          type: "t",
        }),
      );
    }),
    { numRuns: 1_000 },
  );
});

test("cutting or changing one character of a message never breaks the decoder", () => {
  const { body } = encodeMessage({
    ...BASE,
    data: { text: 'a"b\\c', list: [1, [2, { x: null }]] },
  });
  for (let at = 0; at <= body.length; at++) {
    for (
      const text of [
        body.slice(0, at),
        body.slice(at),
        `${body.slice(0, at)}"${body.slice(at)}`,
        `${body.slice(0, at)}\\${body.slice(at)}`,
      ]
    ) {
      try {
        decodeMessage(text);
      } catch (error) {
        assert.ok(isMillstreamError(error, ...DECODING), `${text}: ${error}`);
      }
    }
  }
});

test("attributes that are null count as absent", () => {
  const nulls = {
    datacontenttype: null,
    subject: null,
    schemaversion: null,
    time: null,
    tenant: null,
    data: null,
  };
  const message = decodeMessage(
    JSON.stringify({
      specversion: "1.0",
      id: "1",
      source: "s",
      type: "t",
      ...nulls,
    }),
  );
  assert.deepEqual(message, {
    id: "1",
    source: "s",
    type: "t",
    time: "1970-01-01T00:00:00.000Z",
    schemaVersion: 1,
    data: null,
    headers: {},
  });
});

test("integers and booleans as extension attributes are read in their canonical form", () => {
  const { headers } = decodeMessage(
    '{"specversion":"1.0","id":"1","source":"s","type":"t","retries":3,"urgent":true}',
  );
  assert.deepEqual(headers, { retries: "3", urgent: "true" });
});

for (
  const [what, change] of [
    ["another specversion", { specversion: "0.3" }],
    ["no id", { id: undefined }],
    ["an empty id", { id: "" }],
    ["a number as id", { id: 5 }],
    ["a control character in the type", { type: "a\nb" }],
    ["a lone surrogate in the source", { source: "\ud800" }],
    ["a time that is none", { time: "yesterday" }],
    ["a schema version of zero", { schemaversion: 0 }],
    ["data that is not JSON", { datacontenttype: "text/plain" }],
    ["binary data", { data_base64: "AA==" }],
    ["an attribute in upper case", { Tenant: "x" }],
    ["an object as attribute", { tenant: {} }],
  ] as const
) {
  test(`a message with ${what} is malformed`, () => {
    const event = {
      specversion: "1.0",
      id: "1",
      source: "s",
      type: "t",
      ...change,
    };
    assert.throws(() => decodeMessage(JSON.stringify(event)), {
      code: "MALFORMED_MESSAGE",
    });
  });
}

class Money {
  readonly amount = 1;
}

for (
  const [what, data, path] of [
    ["a BigInt", { a: { b: [1, 2n] } }, "a.b[1]"],
    ["NaN", { a: NaN }, "a"],
    ["Infinity", [Infinity], "[0]"],
    ["a Map", { a: new Map() }, "a"],
    ["a Date", { at: new Date() }, "at"],
    ["a class instance", [{ price: new Money() }], "[0].price"],
    ["a boxed number", { a: Object(1) }, "a"],
    ["a function", { run() {} }, "run"],
    ["a symbol", { a: Symbol("s") }, "a"],
    ["undefined in an array", { list: [1, undefined] }, "list[1]"],
    ["a hole in an array", { list: [1, , 2] }, "list[1]"], // deno-lint-ignore no-sparse-arrays
    ["undefined itself", undefined, "(root)"],
    ["a symbol as key", { a: { [Symbol("s")]: 1 } }, "a"],
    ["an own __proto__", { a: JSON.parse('{"__proto__":1}') }, "a.__proto__"],
  ] as const
) {
  test(`${what} is refused with its path before anything is sent`, () => {
    assert.throws(() => stringifyStrict(data), {
      code: "UNSERIALIZABLE",
      details: { path },
    });
    assert.throws(() => encodeMessage({ ...BASE, data }), {
      code: "UNSERIALIZABLE",
      retryable: false,
    });
  });
}

test("a property that is undefined is left out, and minus zero is zero", () => {
  assert.equal(
    stringifyStrict({ a: undefined, b: -0, c: Object.create(null) }),
    '{"b":0,"c":{}}',
  );
});

function nested(levels: number): unknown {
  let value: unknown = 1;
  for (let level = 0; level < levels; level++) {
    value = level % 2 === 0 ? [value] : { a: value };
  }
  return value;
}

test("64 levels of data are carried, 65 are refused on the way out and on the way in", () => {
  const { body } = encodeMessage({ ...BASE, data: nested(64) });
  assert.deepEqual(decodeMessage(body).data, nested(64));
  assert.throws(() => encodeMessage({ ...BASE, data: nested(65) }), {
    code: "PAYLOAD_TOO_DEEP",
  });
  const deep = encodeMessage(BASE, {}, JSON.stringify(nested(65))).body;
  assert.throws(() => decodeMessage(deep), {
    code: "PAYLOAD_TOO_DEEP",
    details: { maxDepth: 65 },
  });
});

test("a million brackets are refused without being parsed", () => {
  assert.throws(() => decodeMessage("[".repeat(200_000)), {
    code: "PAYLOAD_TOO_DEEP",
  });
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  assert.throws(() => stringifyStrict(circle), { code: "PAYLOAD_TOO_DEEP" });
});

test("the limit is 262,144 bytes of UTF-8, not characters", () => {
  const overhead = new TextEncoder().encode(encodeMessage({ ...BASE, data: "" }).body).length;
  for (
    const [character, bytes] of [["a", 1], ["é", 2], ["€", 3], [
      "😀",
      4,
    ]] as const
  ) {
    const fits = Math.floor((262_144 - overhead) / bytes);
    const { body } = encodeMessage({ ...BASE, data: character.repeat(fits) });
    assert.equal(
      decodeMessage<string>(body).data.length,
      fits * character.length,
    );
    for (const refused of [fits + 1, 400_000]) {
      const data = character.repeat(refused);
      assert.throws(() => encodeMessage({ ...BASE, data }), {
        code: "PAYLOAD_TOO_LARGE",
      });
      assert.throws(
        () => decodeMessage(body.replace(/"data":.*/s, `"data":"${data}"}`)),
        { code: "PAYLOAD_TOO_LARGE" },
      );
    }
  }
});

test("keys are compared as what they stand for, however they are escaped", () => {
  for (
    const text of [
      '{"__proto__":1}',
      '{"a":[{"\\u005f_proto__":1}]}',
      '{"\\u005F\\u005fproto\\u005f_" :1}',
    ]
  ) {
    assert.throws(() => scanJson(text), {
      code: "MALFORMED_MESSAGE",
      details: { key: "__proto__" },
    }, text);
  }
  for (
    const text of [
      '{"a":1,"a":2}',
      '{"a":1,"\\u0061":2}',
      '{"x":{"b":{},"b":[]}}',
      '{"":1,"":2}',
    ]
  ) {
    assert.throws(() => scanJson(text), { code: "MALFORMED_MESSAGE" }, text);
  }
  for (
    const text of [
      '{"a":{"a":{"a":1}}}',
      '[{"a":1},{"a":2}]',
      '{"a":"__proto__","b":"a"}',
      '{"a\\\\":1,"a":2}',
      '["a","a"]',
    ]
  ) {
    assert.doesNotThrow(() => scanJson(text), text);
  }
});

test("headers with names that are no attributes or that are fields of the message are refused", () => {
  for (
    const name of [
      "",
      "Upper",
      "with-dash",
      "__proto__",
      "data",
      "partitionkey",
      "specversion",
      "a".repeat(41),
    ]
  ) {
    const headers = Object.defineProperty({}, name, {
      value: "v",
      enumerable: true,
    }) as Record<string, string>;
    assert.throws(() => encodeMessage({ ...BASE, headers }), {
      code: "INVALID_ARGUMENT",
    }, name);
  }
});

test("what a store has is read as any message is: without the checks, where it is what the library wrote", () => {
  fc.assert(fc.property(anyMessage, (message) => {
    const { body } = encodeMessage(message as Message, NO_LIMITS);
    assert.deepEqual(decodeStored(body), decodeMessage(body, NO_LIMITS));
  }));
});

test("what a store has and the library did not write is read, or refused, as any message is", () => {
  const whole = {
    specversion: "1.0",
    id: "i",
    source: "/s",
    type: "t",
    time: "2026-01-01T00:00:00Z",
    data: 1,
  };
  const odd: readonly object[] = [
    { specversion: undefined },
    { specversion: "0.3" },
    { id: undefined },
    { id: 5 },
    { id: "" },
    { time: undefined },
    { type: null },
    { data: undefined },
    { data: null },
    { data_base64: "AA==" },
    { datacontenttype: "text/plain" },
    { datacontenttype: "application/cloudevents+json" },
    { schemaversion: 0 },
    { schemaversion: "2" },
    { schemaversion: 1.5 },
    { schemaversion: null },
    { count: 5, flag: true },
    { subject: null },
    { extra: { nested: 1 } },
    { constructor: "x" },
  ];
  const outcome = (decode: () => unknown): unknown => {
    try {
      return decode();
    } catch (error) {
      return isMillstreamError(error) ? error.message : error;
    }
  };
  for (const change of odd) {
    const body = JSON.stringify({ ...whole, ...change });
    assert.deepEqual(outcome(() => decodeStored(body)), outcome(() => decodeMessage(body, NO_LIMITS)), body);
  }
  for (const body of ["", "[]", "null", "{", '"text"']) {
    assert.throws(() => decodeStored(body), { code: "MALFORMED_MESSAGE" });
  }
});
