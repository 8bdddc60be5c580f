/**
 * The OpenAPI document is true: every operation, example, kind of answer and error code in it is brought about here,
 * and each answer is held against it. What it has and nothing here brought about fails at the end, by name.
 *
 * What needs a machine that fails, or a server that stops, comes from a gateway whose runner is played.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { begin, end, leftOut } from '../support/truth.ts';
import { fileErrors } from './openapi/file-errors.ts';
import { ownErrors } from './openapi/own-errors.ts';
import { purpose } from './openapi/purpose.ts';
import { sharedErrors } from './openapi/shared-errors.ts';

before(() =>
  begin({
    ...{ NOX_TIMEOUT: '60', NOX_MAX_BODY: '65536', NOX_MAX_UPLOAD: '131072' },
    ...{ NOX_MAX_WORKSPACE: String(2 ** 20), NOX_BACKGROUND_QUEUE: '4' },
  }),
);
after(end);

purpose();
sharedErrors();
ownErrors();
fileErrors();

test('nothing in the document was left out here', () => {
  assert.deepEqual(leftOut(), []);
});
