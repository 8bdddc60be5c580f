/** What the tests of installation share: Nox in a machine, as its administrator and its clients see it. */
import assert from 'node:assert/strict';
import { boot, SUITES, type BootOptions, type Machine } from './machine.ts';

/** A command of ours takes a minute or two under emulation, an installation three. */
export const SLOW = { seconds: 900 };
const HOURS = 3600;
/** The tree of this project, as a built clone. */
export const TREE = '/opt/nox-src';
/** What `make install` and the like call. */
export const noxctl = (words: string): string =>
  `${TREE}/node_modules/node/bin/node ${TREE}/dist/cli/noxctl.js ${words}`;

/** One suite of Debian a run: VM_SUITES=trixie for the other. */
const SUITE = SUITES.find((suite) => suite === (process.env['VM_SUITES'] ?? 'bookworm'));

export function start(options: BootOptions = {}): Promise<Machine> {
  if (SUITE === undefined) throw new Error(`VM_SUITES: name one of ${SUITES.join(', ')}`);
  return boot({ suite: SUITE, seconds: 4 * HOURS, ...options });
}

export interface Run {
  readonly returncode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** /run_py with the machine's own token. */
export async function python(m: Machine, code: string): Promise<Run> {
  const answer = await m.succeed(
    '. /etc/default/nox-api; curl -sS -H "Authorization: Bearer $NOX_API_TOKEN" --data-binary @- http://127.0.0.1:8080/run_py',
    { stdin: JSON.stringify({ code }) },
  );
  return JSON.parse(answer) as Run;
}

/** The services are up and a run answers. */
export async function works(m: Machine): Promise<void> {
  await m.waitForUnit('nox-runner', 300);
  await m.waitForUnit('nox-api', 300);
  await m.waitUntilSucceeds('curl -fsS http://127.0.0.1:8080/health', 300);
  assert.equal((await python(m, 'print(6 * 7)')).stdout, '42\n');
}

/**
 * Everything that installation answers for: names, kinds, modes, owners, targets, and what is in the files. Without
 * what the tools of passwd(5) keep of their files' last version.
 */
export const PICTURE = `{ for path in /opt/nox /etc /home/nox /var/lib/nox-admin; do [ ! -e $path ] || find $path -not -path '*/logs/*' -not -name lock -not -path '/etc/ld.so*' -printf '%p %y %m %u:%g %l\\n'; done | sort
{ find /etc /home/nox /opt/nox -type f -not -path '*/logs/*' -not -path '/etc/ld.so*' -not -path '*/releases/*' -not -path '*/__pycache__/*' -print0 2>/dev/null || true; } | sort -z | xargs -0 sha256sum; } | grep -vE '/etc/(passwd|shadow|group|gshadow)-'`;

export const picture = (m: Machine): Promise<string> => m.succeed(PICTURE, SLOW);

/** Fails with the lines of two pictures that are not in both; a whole one has thousands. */
export function assertSamePicture(actual: string, expected: string): void {
  const [now, then] = [actual.split('\n'), expected.split('\n')].map((lines) => new Set(lines));
  const added = [...(now ?? [])].filter((line) => then?.has(line) !== true);
  const gone = [...(then ?? [])].filter((line) => now?.has(line) !== true);
  assert.deepEqual({ added, gone }, { added: [], gone: [] });
}

const ORIGINAL_UNIT = `[Unit]
Description=Nox API
[Service]
User=nox
EnvironmentFile=/etc/default/nox-api
WorkingDirectory=/home/nox/nox/api
# Stands in for uvicorn, which this machine cannot fetch: the same command line, an HTTP server behind it.
ExecStart=/home/nox/nox/.venv/bin/python3 -m uvicorn nox_api:app --host 127.0.0.1 --port 8080
ProtectSystem=full
ProtectHome=read-only
ReadWritePaths=/home/nox/nox/sandbox
[Install]
WantedBy=multi-user.target
`;
const UVICORN = `import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"status":"ok"}'
        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.HTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
`;

/** Makes of a bare machine one of the original system: token the-old-token, a file old.txt, a package of its own. */
export async function makeOriginal(m: Machine): Promise<void> {
  await m.succeed(`useradd --system --user-group --home-dir /home/nox --shell /bin/bash nox
install -d -o nox -g nox /home/nox /home/nox/nox /home/nox/nox/api /home/nox/nox/sandbox /home/nox/nox/logs
cd / && setpriv --reuid nox --regid nox --clear-groups python3 -m venv --without-pip /home/nox/nox/.venv
printf 'NOX_API_TOKEN=the-old-token\\nNOX_OLD_THING=1\\n' >/etc/default/nox-api
install -o nox -g nox -m 644 /dev/null /home/nox/nox/sandbox/old.txt && echo kept >/home/nox/nox/sandbox/old.txt`);
  const site = (await m.succeed('ls -d /home/nox/nox/.venv/lib/python3*/site-packages')).trim();
  await m.write(`${site}/uvicorn.py`, UVICORN);
  await m.write(`${site}/brought_along.py`, 'ANSWER = 42\n');
  await m.write('/etc/systemd/system/nox-api.service', ORIGINAL_UNIT);
  await m.succeed('systemctl enable --now --quiet nox-api');
  await originalWorks(m);
}

const OLD_UNIT = `[Unit]
Description=Nox API
[Service]
User=nox
EnvironmentFile=/etc/default/nox-api
Environment=XDG_STATE_HOME=/home/nox/nox/sandbox/.state
ExecStart=${TREE}/node_modules/node/bin/node ${TREE}/dist/dev.js
ProtectSystem=full
ProtectHome=read-only
ReadWritePaths=/home/nox/nox/sandbox /home/nox/nox/logs
[Install]
WantedBy=multi-user.target
`;

/** One of an earlier Nox: in one process, as nox, less hardened, the environment in the home. */
export async function makeOld(m: Machine): Promise<void> {
  await m.succeed(`useradd --system --user-group --home-dir /home/nox --shell /usr/sbin/nologin nox
install -d -o nox -g nox /home/nox /home/nox/nox /home/nox/nox/sandbox /home/nox/nox/logs
cd / && setpriv --reuid nox --regid nox --clear-groups python3 -m venv --without-pip /home/nox/nox/.venv
printf 'NOX_API_TOKEN=the-old-token\nNOX_SANDBOX=/home/nox/nox/sandbox\nNOX_PYTHON=/home/nox/nox/.venv/bin/python3\n' >/etc/default/nox-api
install -o nox -g nox -m 600 /dev/null /home/nox/nox/sandbox/old.txt && echo kept >/home/nox/nox/sandbox/old.txt`);
  await m.write('/etc/systemd/system/nox-api.service', OLD_UNIT);
  await m.succeed('systemctl enable --now --quiet nox-api');
  await originalWorks(m);
}

export async function originalWorks(m: Machine): Promise<void> {
  await m.waitUntilSucceeds('systemctl is-active nox-api && curl -fsS http://127.0.0.1:8080/health');
}

/** A later version: the same tree under another number. */
export async function makeNext(m: Machine, version: string): Promise<string> {
  const tree = `/root/nox-${version}`;
  await m.succeed(`mkdir ${tree} && cd ${TREE} && cp -r dist deploy package.json package-lock.json ${tree}/ && ln -s ${TREE}/node_modules ${tree}/node_modules
sed -i 's/"version": "[^"]*"/"version": "${version}"/' ${tree}/package.json`);
  return tree;
}
