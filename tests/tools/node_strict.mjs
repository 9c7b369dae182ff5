/**
 * Loaded before each test file on Node. When the file's time is up, SIGUSR2 asks what keeps the process from ending.
 *
 * @module
 */
process.on("SIGUSR2", () => {
  /** @type {Record<string, number>} */
  const open = {};
  for (const name of process.getActiveResourcesInfo()) open[name] = (open[name] ?? 0) + 1;
  const list = Object.entries(open).map(([name, count]) => `${count} × ${name}`).join(", ");
  process.stderr.write(`Still open: ${list || "nothing"}\n`);
});
