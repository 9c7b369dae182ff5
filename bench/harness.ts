/**
 * Contenders side by side: every round runs each of them once, in turn, so that whatever slows the machine down for a
 * while slows down all of them. A figure is the median of its rounds, and its ratio the median of the ratios within
 * each round.
 *
 * @module
 */

/** What is measured against what. */
export interface Question {
  readonly name: string;
  /** What the rates count: `messages/s`. */
  readonly unit: string;
  /** The first one is what the others are compared with. */
  readonly contenders: readonly Contender[];
}

/** One way to do the work. */
export interface Contender {
  readonly name: string;
  /** Does the work once and checks that it was done. Preparations and checks are not part of `ms`. */
  run(): Promise<Measured>;
}

/** Questions about one server. Disposing removes what preparing them put there. */
export interface Prepared extends Partial<AsyncDisposable> {
  readonly questions: readonly Question[];
  /** The server's version and how durably it writes, as it says itself. */
  readonly about: Readonly<Record<string, string>>;
}

/** How long how much took. */
export interface Measured {
  readonly count: number;
  readonly ms: number;
}

/** What the rounds of one contender say. Rates are per second. */
export interface Figure {
  readonly question: string;
  readonly contender: string;
  readonly unit: string;
  readonly rate: number;
  readonly min: number;
  readonly max: number;
  /** Against the first contender: 2 is twice as fast. */
  readonly ratio: number;
  readonly rounds: number;
}

/** Options of {@linkcode race}. */
export interface RaceOptions {
  readonly rounds: number;
  /** Told what runs now. */
  readonly progress: (text: string) => void;
}

/** Runs all contenders once to warm up, then in `rounds` rounds, each beginning with another one. */
export async function race(
  question: Question,
  { rounds, progress }: RaceOptions,
): Promise<readonly Figure[]> {
  const { name, contenders } = question;
  const rates = contenders.map((): number[] => []);
  for (let round = 0; round <= rounds; round++) {
    for (const index of rotated(contenders.length, round)) {
      const contender = contenders[index];
      if (!contender) continue;
      progress(`${name}: ${contender.name}, ${round === 0 ? "warm-up" : `round ${round} of ${rounds}`}`);
      const { count, ms } = await named(contender, name);
      if (round > 0) rates[index]?.push(count / ms * 1_000);
    }
  }
  return figures(question, rates);
}

/** The figures of a question from the rates of its contenders, one list of rounds each. */
export function figures(question: Question, rates: ReadonlyArray<readonly number[]>): readonly Figure[] {
  const [base = []] = rates;
  return question.contenders.map(({ name }, index) => {
    const own = rates[index] ?? [];
    return {
      question: question.name,
      contender: name,
      unit: question.unit,
      rate: median(own),
      min: Math.min(...own),
      max: Math.max(...own),
      ratio: ratio(own, base),
      rounds: own.length,
    };
  });
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("Cannot take the median: expected at least one value");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted.at(Math.ceil(middle) - 1)! + sorted.at(Math.floor(middle))!) / 2;
}

/** The median of `rates` over `base`, compared round by round: rounds share their noise. */
export function ratio(rates: readonly number[], base: readonly number[]): number {
  if (rates.length !== base.length) {
    throw new RangeError(`Cannot compare: expected ${base.length} rounds, got ${rates.length}`);
  }
  return median(rates.map((rate, round) => rate / (base[round] ?? NaN)));
}

/** The places `0` to `length - 1`, beginning at `start`. */
export function rotated(length: number, start: number): readonly number[] {
  return Array.from({ length }, (_, index) => (index + start) % length);
}

/** A Markdown table of the figures, its columns aligned for reading as text. */
export function table(rows: readonly Figure[]): string {
  const cells = [
    ["question", "contender", "rate", "min", "max", "ratio", "unit"],
    ...rows.map(({ question, contender, rate, min, max, ratio, unit }) => [
      question,
      contender,
      digits(rate),
      digits(min),
      digits(max),
      ratio.toFixed(2),
      unit,
    ]),
  ];
  const numeric = (column: number): boolean => column >= 2 && column <= 5;
  const widths = cells[0]!.map((_, column) => Math.max(3, ...cells.map((row) => row[column]!.length)));
  const lines = cells.map((row) =>
    line(
      row.map((cell, column) =>
        numeric(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)
      ),
    )
  );
  const rule = line(
    widths.map((width, column) => numeric(column) ? `${"-".repeat(width - 1)}:` : "-".repeat(width)),
  );
  return [lines[0], rule, ...lines.slice(1)].join("\n");
}

/** A rate with three significant digits and separators: `123,000`. */
export function digits(rate: number): string {
  return Number(rate.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 2 });
}

/** Times `work`, which does `count` of something. */
export async function timed(count: number, work: () => Promise<void>): Promise<Measured> {
  const started = performance.now();
  await work();
  return { count, ms: performance.now() - started };
}

/** Throws unless the result is as expected: a figure for work that was not done is worse than none. */
export function verify(what: string, got: unknown, expected: unknown): void {
  if (Object.is(got, expected)) return;
  throw new Error(`Cannot count this run: expected ${what} to be ${expected}, got ${got}`);
}

async function named(contender: Contender, question: string): Promise<Measured> {
  try {
    return await contender.run();
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : cause;
    throw new Error(`${question}: ${contender.name}: ${why}`, { cause });
  }
}

function line(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}
