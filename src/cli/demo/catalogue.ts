/**
 * The demo's customers and products. They are fixed, so that everyone can try the same orders.
 *
 * @module
 */

/** Who may order. The card of `c-5` is always declined. */
export const customers: ReadonlyMap<string, { readonly name: string; readonly cardDeclined: boolean }> =
  new Map([
    ["c-1", { name: "Ada Lovelace", cardDeclined: false }],
    ["c-2", { name: "Grace Hopper", cardDeclined: false }],
    ["c-3", { name: "Edsger Dijkstra", cardDeclined: false }],
    ["c-4", { name: "Barbara Liskov", cardDeclined: false }],
    ["c-5", { name: "Charles Ponzi", cardDeclined: true }],
  ]);

/** What can be ordered: `p-1` to `p-20`. `p-20` is always sold out. */
export const products: ReadonlyMap<string, { readonly name: string; readonly soldOut: boolean }> = new Map(
  [
    "Millstone",
    "Water wheel",
    "Flour sack",
    "Sieve",
    "Grain hopper",
    "Oak gear",
    "Brass bearing",
    "Sluice gate",
    "Leather belt",
    "Copper bucket",
    "Iron axle",
    "Rope, 20 m",
    "Pulley",
    "Lantern",
    "Shovel",
    "Wheat, 25 kg",
    "Rye, 25 kg",
    "Barley, 25 kg",
    "Spelt, 25 kg",
    "Golden millstone",
  ].map((name, index) => [`p-${index + 1}`, { name, soldOut: index === 19 }]),
);

/** No card pays more than this in one order. */
export const CARD_LIMIT = 10_000;
