/**
 * Reads the JUnit reports of `node --test`, `bun test` and `deno test`, which agree on element names and on little else.
 *
 * @module
 */

/**
 * @typedef {object} Case One test.
 * @property {string} name Names of its suites and its own, joined by " > ".
 * @property {"passed" | "failed" | "skipped"} outcome
 * @property {string} [detail] Why it failed or was skipped, as far as the report says so.
 */

/** @param {string} xml @returns {Case[]} */
export function parseJunit(xml) {
  return withoutParents(readCases(xml));
}

/** @param {string} xml @returns {Case[]} */
function readCases(xml) {
  /** @type {Case[]} */
  const cases = [];
  /** @type {string[]} */
  const suites = [];
  /** @type {Case | undefined} */
  let open;
  let text = "";
  for (const [, closing, tag, attributes, selfClosing, chars] of xml.matchAll(TOKEN)) {
    if (chars !== undefined) {
      text += chars;
      continue;
    }
    if (tag === "testsuite") {
      if (closing) suites.pop();
      else if (!selfClosing) suites.push(suiteName(attributes ?? ""));
    } else if (tag === "testcase" && !closing) {
      const name = [...suites.filter(Boolean), attribute(attributes, "name")]
        .join(" > ");
      open = { name: canonical(name), outcome: "passed" };
      cases.push(open);
    } else if (open && (tag === "failure" || tag === "error")) {
      if (!closing) {
        open.outcome = "failed";
        open.detail = attribute(attributes, "message");
        text = "";
      } else if (text.trim()) open.detail = readable(decode(text));
    } else if (open && tag === "skipped" && !closing) {
      const message = attribute(attributes, "message");
      open.outcome = "skipped";
      open.detail = attribute(attributes, "type") === "todo" || message === "TODO" ? "todo" : message;
      if (open.detail === "true") open.detail = "";
    }
  }
  return cases;
}

const TOKEN = /<!--[\s\S]*?-->|<\?[\s\S]*?\?>|<(\/?)([a-z]+)((?:\s+[\w:-]+="[^"]*")*)\s*(\/?)>|([^<]+)/g;

/** Some escape twice, and each treats blanks and what cannot stand in XML in its own way. @param {string} name */
function canonical(name) {
  // deno-lint-ignore no-control-regex
  return decode(name).replace(/[\s\x00-\x1f\x7f\ufffd\ufffe\uffff]+/g, " ")
    .trim();
}

/** Bun's outermost suite and all of Deno's are files; their names are no part of a test's name. */
/** @param {string} attributes */
function suiteName(attributes) {
  const name = attribute(attributes, "name");
  const isFile = name === attribute(attributes, "file") ||
    /^(\.\/|ext:|file:|https?:)/.test(name);
  return isFile ? "" : name;
}

/** Deno reports a suite as a test beside its tests. It counts only if it failed by itself, as in a hook. */
/** @param {Case[]} cases */
function withoutParents(cases) {
  const prefixes = new Set();
  for (const { name } of cases) {
    for (
      let at = name.indexOf(" > ");
      at >= 0;
      at = name.indexOf(" > ", at + 1)
    ) prefixes.add(name.slice(0, at));
  }
  return cases.flatMap((test) => {
    if (!prefixes.has(test.name)) return [test];
    const itself = test.outcome === "failed" &&
      !/^\d+ test steps? failed/.test(test.detail ?? "");
    return itself ? [{ ...test, name: `${test.name} (the suite itself)` }] : [];
  });
}

/** Without the runner's own frames, and without the envelope that Node puts around each error. @param {string} text */
function readable(text) {
  const lines = text.split("\n").filter((line) =>
    !/^\s+at .*\b(node:(internal|async_hooks|test)|ext:)/.test(line)
  );
  const cause = lines.findIndex((line) => /^\s+cause: /.test(line));
  if (!/ERR_TEST_FAILURE/.test(lines.slice(0, 2).join()) || cause < 0) {
    return lines.join("\n").trim();
  }
  const inner = lines.slice(cause).join("\n").trim().replace(/\n\}$/, "");
  return inner.replace(/^\s*cause: /, "").replace(/^ {2}/gm, "").trim();
}

/** @param {string | undefined} attributes @param {string} name */
function attribute(attributes, name) {
  const match = new RegExp(`(?:^|\\s)${name}="([^"]*)"`).exec(attributes ?? "");
  return decode(match?.[1] ?? "");
}

/** @param {string} text */
function decode(text) {
  return text.replace(/&(#x[\da-f]+|#\d+|\w+);/gi, (whole, entity) => {
    if (entity.startsWith("#x")) {
      return String.fromCodePoint(parseInt(entity.slice(2), 16));
    }
    if (entity.startsWith("#")) {
      return String.fromCodePoint(Number(entity.slice(1)));
    }
    return ENTITIES[entity] ?? whole;
  });
}

/** @type {Record<string, string>} */
const ENTITIES = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };
