/**
 * How functions on tables that fill and empty keep their speed.
 *
 * @module
 */

/**
 * Settings of a function that leave the planner one way: index scans, and loops over them. For tables that are empty at
 * one moment and full at the next, where a plan made for the one is ruinous for the other and sessions keep their plans.
 */
export const BY_INDEX: string = ["seqscan", "bitmapscan", "hashjoin", "mergejoin"]
  .map((way) => `set enable_${way} = off`).join(" ");
