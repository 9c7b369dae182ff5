/**
 * Reads TypeScript far enough to tell code from text, and to know what a file imports.
 *
 * @module
 */

/** One import, re-export or dynamic import of a file. */
export interface Import {
  /** What stands between the quotes; `undefined` if it is computed. */
  readonly specifier: string | undefined;
  /** `import type`, `export type`, or a type in the form `import("x").Y`. */
  readonly typeOnly: boolean;
  /** `import("x")`. */
  readonly dynamic: boolean;
}

/** A source with what is no code taken out. */
export interface Code {
  /** The code: comments and regular expressions are blank, each string is its number in quotes: `"3"`. */
  readonly text: string;
  /** The strings by number. */
  readonly strings: readonly string[];
}

/** What a source imports, in its order. */
export function importsOf(source: string): readonly Import[] {
  const { text, strings } = codeOf(source);
  return [...text.matchAll(IMPORT)].map((match) => {
    const [, type, fromString, plain, dynamicString, ofType] = match;
    const number = fromString ?? plain ?? dynamicString;
    return {
      specifier: number === undefined ? undefined : strings[Number(number)],
      typeOnly: type !== undefined || ofType !== undefined,
      dynamic: fromString === undefined && plain === undefined,
    };
  });
}

/**
 * In turn: `import ... from "x"` and `export ... from "x"`, `import "x"`, `import("x")` and `import(` of anything else.
 * `import type { A }` counts as a type, `import { type A }` does not: it still loads the module.
 */
const IMPORT = new RegExp(
  [
    String
      .raw`\b(?:import|export)\s+(type\s+(?!from\b))?[\w$*{][\w$*{},\s]*?from\s*"(\d+)"`,
    String.raw`\bimport\s*"(\d+)"`,
    String.raw`(?<!\.)\bimport\s*\(\s*(?:"(\d+)"\s*\)(\.[A-Z])?)?`,
  ].join("|"),
  "g",
);

/** Tells code from text. */
export function codeOf(source: string): Code {
  const strings: string[] = [];
  let text = "";
  let at = 0;
  /** For each open `${`: how many braces are open inside it. */
  const templates: number[] = [];

  while (at < source.length) {
    const char = source[at]!;
    const pair = source.slice(at, at + 2);
    if (pair === "//") at = skipTo("\n", at);
    else if (pair === "/*") {
      at = skipTo("*/", at + 2) + 2;
      text += " ";
    } else if (char === '"' || char === "'") at = quoted(char, at + 1);
    else if (char === "`") at = template(at + 1);
    else if (char === "/" && REGEX_MAY_FOLLOW.test(text)) at = regex(at + 1);
    else if (char === "}" && templates.at(-1) === 0) {
      templates.pop();
      text += ")";
      at = template(at + 1);
    } else {
      if (templates.length > 0 && char === "{") {
        templates[templates.length - 1]!++;
      }
      if (templates.length > 0 && char === "}") {
        templates[templates.length - 1]!--;
      }
      text += char;
      at++;
    }
  }
  return { text, strings };

  function skipTo(end: string, from: number): number {
    const found = source.indexOf(end, from);
    return found < 0 ? source.length : found;
  }

  function quoted(quote: string, from: number): number {
    let end = from;
    while (
      end < source.length && source[end] !== quote && source[end] !== "\n"
    ) end += source[end] === "\\" ? 2 : 1;
    text += `"${strings.length}"`;
    strings.push(source.slice(from, end));
    return end + 1;
  }

  /** One piece of a template, up to its end or the next `${`, which goes on as code in parentheses. */
  function template(from: number): number {
    let end = from;
    while (
      end < source.length && source[end] !== "`" &&
      source.slice(end, end + 2) !== "${"
    ) {
      end += source[end] === "\\" ? 2 : 1;
    }
    text += `"${strings.length}"`;
    strings.push(source.slice(from, end));
    if (source[end] !== "$") return end + 1;
    text += "+(";
    templates.push(0);
    return end + 2;
  }

  function regex(from: number): number {
    let end = from;
    let inClass = false;
    while (
      end < source.length && source[end] !== "\n" &&
      (inClass || source[end] !== "/")
    ) {
      if (source[end] === "[") inClass = true;
      if (source[end] === "]") inClass = false;
      end += source[end] === "\\" ? 2 : 1;
    }
    text += "0";
    return end + 1;
  }
}

/** A slash after these begins a regular expression; after anything else it divides. */
const REGEX_MAY_FOLLOW =
  /(^|[([{,;:=!&|?+\-*%~^<>]|\b(return|typeof|case|in|of|await|yield|void|else|do))\s*$/;
