/** Runs and their events as a client gets them: for the OpenAPI document, and for the test that holds it true. */
import Type, { type TSchema } from 'typebox';
import { ERRORS, type ErrorCode } from '../../protocol/errors.ts';
import { Changes, STREAMS, Usage } from '../../protocol/messages.ts';
import { OUTCOMES } from '../../protocol/outcome.ts';
import { closed } from '../route.ts';

const orNull = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
const Time = Type.String({ format: 'date-time' });

/** Why it never began. */
export const RunError = closed({
  code: Type.Enum(Object.keys(ERRORS) as ErrorCode[]),
  detail: Type.String(),
  hint: Type.String(),
});
const RUN = {
  id: Type.String(),
  state: Type.Enum(['queued', 'running', 'ended']),
  outcome: orNull(Type.Enum([...OUTCOMES])),
  reason: Type.Optional(Type.String({ description: 'Why Nox ended it' })),
  error: Type.Optional(RunError),
  exitCode: Type.Optional(orNull(Type.Integer({ minimum: 0, maximum: 255 }))),
  signal: Type.Optional(orNull(Type.Integer({ minimum: 1, maximum: 64 }))),
  stage: Type.Optional(Type.Enum(['compile', 'run'])),
  compileSeconds: Type.Optional(Type.Number()),
  limit: Type.Optional(closed({ name: Type.String(), value: Type.Number(), unit: Type.String() })),
  omitted: Type.Optional(closed({ stdout: Type.Integer(), stderr: Type.Integer() })),
  truncated: Type.Optional(
    Type.Boolean({
      description: 'Not all of the output was kept: it was too much (NOX_KEEP_OUTPUT), or the disk was full',
    }),
  ),
  usage: Type.Optional(Usage),
  changes: Type.Optional(Changes),
  runtime: Type.String(),
  workspace: orNull(Type.String()),
  labels: Type.Record(Type.String(), Type.String()),
  requestId: Type.String(),
  createdAt: Time,
  startedAt: orNull(Time),
  endedAt: orNull(Time),
};
/** Without output: an element of a list, or the end of a stream. */
const RunSummary = closed(RUN, { title: 'RunSummary' });
export const Run = closed(
  {
    ...RUN,
    stdout: Type.Optional(Type.String({ description: 'Where the output is kept, or was waited for' })),
    stderr: Type.Optional(Type.String()),
    compileOutput: Type.Optional(Type.String({ description: 'What the compiler said, if there is one' })),
  },
  { title: 'Run' },
);
export const RunPage = closed(
  { runs: Type.Array(RunSummary), next: orNull(Type.String()) },
  { title: 'RunPage' },
);

const id = Type.Integer({ minimum: 0, description: 'For `Last-Event-ID`' });
/** One line of `application/x-ndjson`, or the `data` of an event of `text/event-stream`. */
export const RunEvent = Type.Union(
  [
    closed({ id, type: Type.Literal('started') }),
    closed({ id, type: Type.Literal('output'), stream: Type.Enum([...STREAMS]), text: Type.String() }),
    closed({ id, type: Type.Literal('output'), stream: Type.Enum([...STREAMS]), base64: Type.String() }),
    closed({ id, type: Type.Literal('end'), run: RunSummary }),
    closed({ type: Type.Literal('heartbeat') }),
  ],
  { title: 'RunEvent' },
);
