/** What was typed cannot be meant: nothing is done, and the exit code is 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
