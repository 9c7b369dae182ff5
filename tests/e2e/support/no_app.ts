/**
 * A module for the gateway command that exports no application.
 *
 * @module
 */

/** Not an application, and not the default export. */
export const app: string = "this is not it";
