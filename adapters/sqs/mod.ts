/**
 * Millstream on Amazon SQS.
 *
 * ```ts
 * import { millstream } from "millstream";
 * import { sqs } from "millstream/sqs";
 *
 * const app = millstream({ broker: sqs({ url: "https://sqs.eu-central-1.amazonaws.com", credentials }) });
 * ```
 *
 * @module
 */
export {
  sqs,
  type SqsCommonOptions,
  type SqsOptions,
  type SqsOwnClient,
  type SqsQueueOptions,
  type SqsUrl,
} from "./broker.ts";
export type { SqsCall, SqsCredentials } from "./client.ts";
export { handleSqsEvent, type LambdaMessage, type LambdaSqsEvent, type LambdaSqsResponse } from "./lambda.ts";
export type { SqsRoutes } from "./queues.ts";
