/**
 * What the gateway asks of the runner besides runs: tables of names, each with its request and its answer.
 *
 * The runner checks each request against its schema, as if the gateway had been taken over (src/runner/operations.ts);
 * the gateway believes the answers.
 */
import type { Socket } from 'node:net';
import Type, { type Static } from 'typebox';
import {
  FILE_ASK,
  FILE_FETCH,
  FILE_SEND,
  type FileAnswers,
  type FileFetchAnswers,
  type FileSendAnswers,
} from './files.ts';
import type { RuntimeInfo } from './runtimes.ts';
import type { RunnerStatus } from './status.ts';
import { WORKSPACE_ASK, type WorkspaceAnswers } from './workspaces.ts';

const Nothing = Type.Object({}, { additionalProperties: false });
/** A request, an answer. */
export const ASK = { runtimes: Nothing, status: Nothing, ...FILE_ASK, ...WORKSPACE_ASK } as const;
interface AskAnswers extends FileAnswers, WorkspaceAnswers {
  readonly runtimes: readonly RuntimeInfo[];
  readonly status: RunnerStatus;
}
/** A request and a body, an answer. */
export const SEND = { ...FILE_SEND } as const;
type SendAnswers = FileSendAnswers;
/** A request, an answer and a body. */
export const FETCH = { ...FILE_FETCH } as const;
type FetchAnswers = FileFetchAnswers;

type Table<Schemas, Answers> = {
  readonly [Name in keyof Schemas & keyof Answers]: {
    readonly request: Schemas[Name] extends Parameters<typeof Type.Optional>[0]
      ? Static<Schemas[Name]>
      : never;
    readonly answer: Answers[Name];
  };
};
export type Asks = Table<typeof ASK, AskAnswers>;
export type Sends = Table<typeof SEND, SendAnswers>;
export type Fetches = Table<typeof FETCH, FetchAnswers>;

/** An answer, and the bytes that follow it. Whoever leaves the loop over them early ends the call. */
export interface Fetched<Answer> {
  readonly answer: Answer;
  readonly body: AsyncIterable<Uint8Array> & Partial<Pourable>;
}

/** A body that may be sent into a socket without being read. */
export interface Pourable {
  /**
   * In the place of the loop. Rejects for nothing: a connection on which not all could be sent is destroyed.
   *
   * @param socket what was written to it before has left
   * @returns false where nothing was sent, and the body is to be read
   */
  pour(socket: Socket, framing: Framing): Promise<boolean>;
}

/** How frames of data are made (src/transport/frames.ts). */
export interface Framing {
  readonly type: number;
  /** The most that one has, in bytes. */
  readonly piece: number;
}
