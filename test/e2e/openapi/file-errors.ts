/** Errors of workspaces and their files. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { tarHeader, tarPadding, TAR_END } from '../../../src/runner/tar.ts';
import { jsonOf, refuse, succeed } from '../../support/truth.ts';
import { emptyOf, idsWith, makeToken, makeWorkspace, onWorkspace } from './asks.ts';

/** Those that do not make what is missing. */
const FILE_MISSING = [
  'getWorkspacesIdFiles',
  'getWorkspacesIdFilesStat',
  'getWorkspacesIdFilesContent',
  'deleteWorkspacesIdFiles',
  'postWorkspacesIdFilesMove',
  'postWorkspacesIdFilesCopy',
  'postWorkspacesIdFilesMkdir',
  'getWorkspacesIdArchive',
  'headWorkspacesIdArchive',
  'headWorkspacesIdFilesContent',
  'getWorkspacesIdWatch',
];

/** With one file. */
function archiveOf(name: string, content: string): Buffer {
  const head = tarHeader({ name, type: 'file', size: content.length, mode: 0o644, mtime: 0 });
  return gzipSync(Buffer.concat([head, Buffer.from(content), tarPadding(content.length), TAR_END]));
}

export function fileErrors(): void {
  describe('errors of workspaces and their files', () => {
    test('/v1/workspaces', async () => {
      for (const id of idsWith('workspace_not_found'))
        if (id !== 'postRuns') await refuse(id, 'workspace_not_found', emptyOf(id));
      const id = await makeWorkspace();
      for (const each of idsWith('snapshot_not_found'))
        await refuse(each, 'snapshot_not_found', emptyOf(each, id));
      await refuse('postWorkspaces', 'already_exists', { body: { id } });
      await refuse('postWorkspacesIdClone', 'already_exists', { ...onWorkspace(id, '/clone'), body: { id } });
      const small = { ...onWorkspace(id, '/clone'), body: { quotaBytes: 1 } };
      await refuse('postWorkspacesIdClone', 'workspace_full', small);
      const { secret: token } = await makeToken({ quotas: { storageBytes: 5000 } });
      await refuse('postWorkspaces', 'quota_exceeded', { body: {}, token });
      await refuse('postWorkspacesIdClone', 'quota_exceeded', {
        ...onWorkspace(id, '/clone'),
        body: {},
        token,
      });
      const hers = jsonOf(await succeed('postWorkspaces', { body: { quotaBytes: 4000 }, token }));
      const at = onWorkspace(String(hers['id']));
      await refuse('patchWorkspacesId', 'quota_exceeded', { ...at, body: { quotaBytes: 9000 }, token });
    });

    test('snapshots: of more than the workspace, or its owner, may have', async () => {
      const narrow = await makeWorkspace({ quotaBytes: 60_000 }, 50_000);
      const make = { ...onWorkspace(narrow, '/snapshots'), body: {} };
      const snapshot = jsonOf(await succeed('postWorkspacesIdSnapshots', make));
      await refuse('postWorkspacesIdSnapshots', 'workspace_full', make);
      await succeed('patchWorkspacesId', { ...onWorkspace(narrow), body: { quotaBytes: 20_000 } });
      const restore = onWorkspace(narrow, `/snapshots/${String(snapshot['id'])}/restore`);
      await refuse('postWorkspacesIdSnapshotsSnapshotRestore', 'workspace_full', { ...restore, body: {} });
      const { secret: token } = await makeToken({ quotas: { storageBytes: 50_000 } });
      const { id } = jsonOf(await succeed('postWorkspaces', { body: { quotaBytes: 40_000 }, token }));
      const file = onWorkspace(String(id), '/files/content?path=f');
      await succeed('putWorkspacesIdFilesContent', { ...file, body: 'x'.repeat(20_000) });
      const hers = { ...onWorkspace(String(id), '/snapshots'), body: {}, token };
      await refuse('postWorkspacesIdSnapshots', 'quota_exceeded', hers);
    });

    test('files of workspaces', async () => {
      const id = await makeWorkspace();
      for (const each of FILE_MISSING) await refuse(each, 'file_not_found', emptyOf(each, id));
      for (const each of idsWith('invalid_path').filter((name) => name.includes('WorkspacesId'))) {
        const ask = emptyOf(each, id);
        const body = each.endsWith('Mkdir') ? { path: '../x' } : { from: 'f', to: '../x' };
        const outside = { ...ask, path: ask.path?.replace('path=x', 'path=../x') ?? '' };
        await refuse(each, 'invalid_path', ask.path?.includes('?') === true ? outside : { ...ask, body });
      }
      const taken = { from: 'f', to: 'g' };
      await succeed('postWorkspacesIdFilesCopy', { ...onWorkspace(id, '/files/copy'), body: taken });
      for (const [each, what, body] of [
        ['postWorkspacesIdFilesCopy', '/files/copy', taken],
        ['postWorkspacesIdFilesMove', '/files/move', taken],
        ['postWorkspacesIdFilesMkdir', '/files/mkdir', { path: 'f' }],
      ] as const)
        await refuse(each, 'already_exists', { ...onWorkspace(id, what), body });
      const headers = { 'if-match': '"no"' };
      for (const each of idsWith('precondition_failed')) {
        const ask = emptyOf(each, id);
        await refuse(each, 'precondition_failed', {
          ...ask,
          path: ask.path?.replace('=x', '=f') ?? '',
          headers,
        });
      }
      const beyond = await refuse('getWorkspacesIdFilesContent', 'range_not_satisfiable', {
        ...onWorkspace(id, '/files/content?path=f'),
        headers: { range: 'bytes=999-' },
      });
      assert.equal(beyond.headers['content-range'], 'bytes */5');
      for (const body of ['no archive', archiveOf('../x', 'x')])
        await refuse('putWorkspacesIdArchive', 'hostile_archive', {
          ...onWorkspace(id, '/archive?path=d'),
          body,
        });
      await refuse('putWorkspacesIdArchive', 'already_exists', {
        ...onWorkspace(id, '/archive?path=f'),
        body: archiveOf('x', 'x'),
      });
      const narrow = await makeWorkspace({ quotaBytes: 60_000 }, 50_000);
      const much = 'x'.repeat(50_000);
      for (const [each, what, body] of [
        ['putWorkspacesIdFilesContent', '/files/content?path=g', much],
        ['postWorkspacesIdFilesAppend', '/files/append?path=f', much],
        ['postWorkspacesIdFilesCopy', '/files/copy', taken],
        ['postWorkspacesIdFilesMove', '/files/move', { from: 'f', to: 'a/b/c/f' }],
        ['postWorkspacesIdFilesMkdir', '/files/mkdir', { path: 'a/b/c/d', parents: true }],
        ['putWorkspacesIdArchive', '/archive', archiveOf('g', much)],
      ] as const)
        await refuse(each, 'workspace_full', { ...onWorkspace(narrow, what), body });
    });
  });
}
