/** Requests for every operation: right ones, and those that are refused before anybody looks. */
import assert from 'node:assert/strict';
import { gzipSync } from 'node:zlib';
import type { ErrorCode } from '../../../src/protocol/errors.ts';
import { endpointOf, endpoints, jsonOf, send, succeed, type Ask } from '../../support/truth.ts';

const NO_RUN = 'run_00000000000000000000000a';
const NO_TOKEN = 'tok_000000000000000a';
const NO_SNAPSHOT = 'snap-000000000000000a';

export const multipart = (name: string, content: string): Ask => ({
  headers: { 'content-type': 'multipart/form-data; boundary=b' },
  body: Buffer.from(
    `--b\r\ncontent-disposition: form-data; name="${name}"; filename="x"\r\n\r\n${content}\r\n--b--\r\n`,
  ),
});
export const FILE = multipart('f', 'x');

export async function startRun(body: object): Promise<string> {
  const { id } = jsonOf(await succeed('postRuns', { body }));
  return String(id);
}
const SLEEPER = { code: 'import time\nprint(1, flush=True)\ntime.sleep(600)', background: true };
let sleepers: string[] = [];
export async function startSleeper(more: object = {}): Promise<string> {
  const id = await startRun({ ...SLEEPER, ...more });
  sleepers.push(id);
  return id;
}
/** Those that are still there. */
export async function cancelSleepers(): Promise<void> {
  for (const id of sleepers) await send('postRunsIdCancel', onRun(id, '/cancel'));
  sleepers = [];
}
export const onRun = (id: string, what = ''): Ask => ({ path: `/v1/runs/${id}${what}` });
export async function makeToken(more: object = {}): Promise<{ id: string; secret: string }> {
  const body = { name: 'n', scopes: ['run', 'files'], ...more };
  const { id, secret } = jsonOf(await succeed('postTokens', { body }));
  return { id: String(id), secret: String(secret) };
}

let workspaces = 0;
/** With the file `f`, which has `bytes`. */
export async function makeWorkspace(more: object = {}, bytes = 5): Promise<string> {
  workspaces += 1;
  const id = `truth-${String(workspaces)}`;
  await succeed('postWorkspaces', { body: { id, ...more } });
  await succeed('putWorkspacesIdFilesContent', {
    ...onWorkspace(id, '/files/content?path=f'),
    body: 'x'.repeat(bytes),
  });
  return id;
}
export const onWorkspace = (id: string, what = ''): Ask => ({ path: `/v1/workspaces/${id}${what}` });
const onNew = async (what = '', body?: unknown): Promise<Ask> => ({
  ...onWorkspace(await makeWorkspace(), what),
  ...(body === undefined ? {} : { body }),
});
async function onSnapshot(what = ''): Promise<Ask> {
  const id = await makeWorkspace();
  const made = await succeed('postWorkspacesIdSnapshots', { ...onWorkspace(id, '/snapshots'), body: {} });
  return onWorkspace(id, `/snapshots/${String(jsonOf(made)['id'])}${what}`);
}
/** Without an entry. */
const ARCHIVE = gzipSync(Buffer.alloc(1024));

/** A request of each operation that reaches its handler and does what it is for, played or real. */
const VALID: Readonly<Record<string, () => Promise<Ask> | Ask>> = {
  getHealth: () => ({}),
  getMetrics: () => ({}),
  getOpenapiJson: () => ({}),
  getDocs: () => ({}),
  postPut: () => ({ ...FILE, path: '/put?path=truth/file' }),
  postRunPy: () => ({ body: { code: 'print(1)' } }),
  postRunSh: () => ({ body: { cmd: 'true' } }),
  postTokens: () => ({ body: { name: 'n', scopes: ['run'] } }),
  getTokens: () => ({ path: '/v1/tokens?limit=2' }),
  getTokensSelf: () => ({}),
  getTokensId: async () => ({ path: `/v1/tokens/${(await makeToken()).id}` }),
  patchTokensId: async () => ({ path: `/v1/tokens/${(await makeToken()).id}`, body: { name: 'm' } }),
  deleteTokensId: async () => ({ path: `/v1/tokens/${(await makeToken()).id}` }),
  postTokensIdRotate: async () => ({ path: `/v1/tokens/${(await makeToken()).id}/rotate`, body: {} }),
  postRuns: () => ({ body: { code: 'print(1)' } }),
  getRuns: () => ({ path: '/v1/runs?limit=2&state=ended&outcome=ok&runtime=python' }),
  getRunsId: async () => onRun(await startRun({ code: 'print(1)', background: true })),
  getRunsIdEvents: async () => onRun(await startRun({ code: 'print(1)', background: true }), '/events'),
  postRunsIdStdin: async () => ({
    ...onRun(await startSleeper({ interactive: true }), '/stdin'),
    body: { text: 'a', base64: 'YQ==', end: true },
  }),
  postRunsIdSignal: async () => ({
    ...onRun(await startSleeper({ interactive: true }), '/signal'),
    body: { signal: 'SIGTERM' },
  }),
  postRunsIdCancel: async () => onRun(await startSleeper(), '/cancel'),
  getRuntimes: () => ({}),
  postBatch: () => ({ body: { runs: [{ code: 'print(1)' }, { runtime: 'no-such', code: '' }] } }),
  getTerminal: () => ({ path: '/v1/terminal?command=true', upgrade: true }),
  getWorkspaces: () => ({ path: '/v1/workspaces?limit=2' }),
  postWorkspaces: () => ({ body: { label: 'l', quotaBytes: 1000, expires: null } }),
  getWorkspacesId: () => onNew(),
  patchWorkspacesId: () => onNew('', { label: 'm' }),
  deleteWorkspacesId: () => onNew('?force=true'),
  postWorkspacesIdClone: () => onNew('/clone', {}),
  getWorkspacesIdSnapshots: async () => ({
    path: String((await onSnapshot()).path).replace(/\/[^/]+$/, ''),
  }),
  postWorkspacesIdSnapshots: () => onNew('/snapshots', { label: 'l' }),
  postWorkspacesIdSnapshotsSnapshotRestore: async () => ({ ...(await onSnapshot('/restore')), body: {} }),
  deleteWorkspacesIdSnapshotsSnapshot: () => onSnapshot(),
  getWorkspacesIdFiles: () => onNew('/files?recursive=true'),
  getWorkspacesIdFilesStat: () => onNew('/files/stat?path=f'),
  getWorkspacesIdFilesContent: () => onNew('/files/content?path=f'),
  deleteWorkspacesIdFiles: () => onNew('/files?path=f'),
  postWorkspacesIdFilesMove: () => onNew('/files/move', { from: 'f', to: 'g' }),
  postWorkspacesIdFilesCopy: () => onNew('/files/copy', { from: 'f', to: 'g' }),
  postWorkspacesIdFilesMkdir: () => onNew('/files/mkdir', { path: 'd' }),
  getWorkspacesIdArchive: () => onNew('/archive'),
  getWorkspacesIdWatch: () => onNew('/watch'),
  putWorkspacesIdFilesContent: () => onNew('/files/content?path=g', 'x'),
  postWorkspacesIdFilesAppend: () => onNew('/files/append?path=f', 'x'),
  putWorkspacesIdArchive: () => onNew('/archive?path=d', ARCHIVE),
};

export async function validOf(id: string): Promise<Ask> {
  const make = VALID[id.replace(/^head/, 'get')];
  assert(make !== undefined, `${id}: has no case here`);
  return make();
}

/** Bodies of operations that need members. */
const NEEDED: Readonly<Record<string, unknown>> = {
  postRunsIdSignal: { signal: 'SIGTERM' },
  postWorkspacesIdFilesMove: { from: 'x', to: 'y' },
  postWorkspacesIdFilesCopy: { from: 'x', to: 'y' },
  postWorkspacesIdFilesMkdir: { path: 'x/y' },
  putWorkspacesIdFilesContent: 'x',
  postWorkspacesIdFilesAppend: 'x',
  putWorkspacesIdArchive: ARCHIVE,
};

/** The same with ids that are not there: for what is refused before anybody looks. */
export function emptyOf(id: string, workspace = 'none'): Ask {
  const { path, operation } = endpointOf(id);
  const json = operation.requestBody?.content['application/json'] !== undefined;
  const ids: Readonly<Record<string, string>> = { tokens: NO_TOKEN, runs: NO_RUN, workspaces: workspace };
  const filled = path
    .replace('{id}', ids[path.split('/')[2] ?? ''] ?? 'x')
    .replace('{snapshot}', NO_SNAPSHOT)
    .replaceAll(/\{\w+\}/g, 'x');
  const file = path.startsWith('/v1/') && operation.parameters?.some(({ name }) => name === 'path') === true;
  const body = NEEDED[id] ?? (json ? {} : undefined);
  return { path: `${filled}${file ? '?path=x' : ''}`, ...(body === undefined ? {} : { body }) };
}

export const idsWith = (code: ErrorCode): string[] =>
  [...endpoints.values()]
    .map(({ operation }) => operation)
    .filter((operation) => operation['x-nox-errors'].includes(code))
    .map(({ operationId }) => operationId);
