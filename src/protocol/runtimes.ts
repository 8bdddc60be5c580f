/** What is said about a runtime: the elements of `GET /v1/runtimes`. */
import Type, { type Static } from 'typebox';

export const RuntimeInfo = Type.Object({
  name: Type.String(),
  title: Type.String(),
  aliases: Type.Array(Type.String()),
  /** Of its source files, without the dot. */
  extension: Type.String(),
  /** A compiler comes before the program: how a run ended can be its doing. */
  compiled: Type.Boolean(),
  /** Its hello world has been run in a sandbox of this machine, and printed what it should. */
  available: Type.Boolean(),
  version: Type.Union([Type.String(), Type.Null()]),
  /** Why it is not available. */
  reason: Type.Optional(Type.String()),
});
export type RuntimeInfo = Static<typeof RuntimeInfo>;
