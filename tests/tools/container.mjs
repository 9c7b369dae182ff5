/**
 * Holds one container: starts it, says where it is in one line of JSON, and stops it when its standard input ends.
 * Runs on the newer Node of the tests, because testcontainers needs it.
 *
 * @module
 */
try {
  const { image, port, ready, times = 1, command, environment = {} } = JSON
    .parse(process.argv[2] ?? "{}");
  const { GenericContainer, Wait } = await import("testcontainers");
  let container = new GenericContainer(image)
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
  process.stdin.resume().once("end", async () => {
    await started.stop();
    process.exit(0);
  });
} catch (error) {
  console.log(
    JSON.stringify({
      error: error instanceof Error ? error.message : String(error),
    }),
  );
  process.exit(1);
}
