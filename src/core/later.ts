/**
 * Things that are loaded with their first use.
 *
 * @module
 */

/** An object all of whose members are asynchronous methods of the one that `load` resolves to. */
export function later<T extends object>(load: () => Promise<T>): T {
  return new Proxy({} as T, {
    get: (_, method) =>
      // An object with a method `then` could not be the result of an asynchronous function.
      method === "then"
        ? undefined
        : async (...call: unknown[]) =>
          await ((await load()) as Record<PropertyKey, (...call: unknown[]) => unknown>)[method]!(...call),
  });
}
