/** A saga whose every step takes a while. Half of its instances are refused at the last step. */
import * as v from "valibot";
import { refuse, type Saga, saga } from "../../mod.ts";

export const LEASE_MS = 1_000;

const Data = v.object({ refused: v.boolean() });
type Data = v.InferOutput<typeof Data>;

export function slowSteps(): Saga<Data> {
  const slowly = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 150));
  let built = saga<Data>("slow", Data);
  for (const step of ["a", "b", "c", "d"]) {
    built = built.step(step, {
      async run({ refused }) {
        await slowly();
        if (step === "d" && refused) throw refuse("NO");
      },
      undo: () => slowly(),
    });
  }
  return built;
}
