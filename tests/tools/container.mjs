/**
 * Holds one container: starts it, says where it is in one line of JSON, and removes it when its standard input ends.
 * That it does also when whoever started it was killed: nothing is left behind, with or without the reaper of
 * testcontainers. Runs on the newer Node of the tests, because testcontainers needs it.
 *
 * @module
 */
let stage = /** @type {"pulling" | "creating" | "created"} */ ("pulling");
let ending = false;
/** @type {() => Promise<unknown>} */
let remove = () => Promise.resolve();

process.stdin.resume().once("end", end);
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, end);

try {
  const { image, port, ready, times = 1, command, environment = {} } = JSON.parse(process.argv[2] ?? "{}");
  const { GenericContainer, getContainerRuntimeClient, Wait } = await import("testcontainers");

  /** Knows its container before it is up, so that it can be removed while it starts. */
  class HeldContainer extends GenericContainer {
    /** @override */
    async beforeContainerCreated() {
      await Promise.resolve(stage = "creating");
    }
    /** @override @param {string} id */
    async containerCreated(id) {
      const { container } = await getContainerRuntimeClient();
      remove = () => container.getById(id).remove({ force: true, v: true });
      stage = "created";
      if (ending) await end();
    }
  }

  let container = new HeldContainer(image)
    .withExposedPorts(port)
    .withEnvironment(environment)
    .withWaitStrategy(Wait.forLogMessage(ready, times))
    .withStartupTimeout(180_000);
  if (command) container = container.withCommand(command);
  const started = await container.start();
  console.log(
    JSON.stringify({
      host: started.getHost(),
      port: started.getMappedPort(port),
    }),
  );
} catch (error) {
  if (!ending || stage !== "created") { // else it failed because it is being removed
    console.log(
      JSON.stringify({
        error: error instanceof Error ? error.message : String(error),
      }),
    );
    process.exit(1);
  }
}

/** A container that is just being created is removed as soon as its id is known. */
async function end() {
  ending = true;
  if (stage === "creating") return;
  try {
    await remove();
  } catch (error) {
    console.error(`Cannot remove the container: ${error instanceof Error ? error.message : error}`);
  }
  process.exit(0);
}
