/** The units at work: what they let happen and what they refuse, from the processes and from the runs themselves. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { boot, SUITES, type Machine } from './machine.ts';

const NODE = '/opt/nox-src/node_modules/node/bin/node';
const URL = 'http://127.0.0.1:8080';
const TOKEN = 'a-token-for-the-machine';
const SLOW = { seconds: 900 };
const UNITS = ['nox-api', 'nox-runner'] as const;
type Unit = (typeof UNITS)[number];
/** Of the unit's promise: `systemd-analyze security` says at most so much. */
const EXPOSURE = { 'nox-api': 1.2, 'nox-runner': 3.2 } as const;
const SETTINGS: Readonly<Record<string, string>> = {
  NOX_API_TOKEN: TOKEN,
  // Emulation is ten times slower than a machine: enough to fill the memory, and to start Python.
  NOX_TIMEOUT: '200',
  NOX_MAX_CPU: '20',
  NOX_MAX_MEMORY: '128M',
  NOX_MAX_PROCESSES: '24',
  NOX_SLOTS: '2',
  NOX_STOP_GRACE: '60',
};

/** Lines of nox-api.service. */
const PROMISED = `Description=Nox API
ProtectSystem=strict
ProtectHome=read-only
NoNewPrivileges=true
PrivateTmp=true
ReadWritePaths=/home/nox/nox/sandbox /home/nox/nox/logs
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=true
RestrictRealtime=true
MemoryDenyWriteExecute=true`.split('\n');

const suites = (process.env['VM_SUITES'] ?? 'bookworm').split(',').map((name) => {
  const suite = SUITES.find((known) => known === name);
  if (suite === undefined) throw new Error(`VM_SUITES: ${name} is none of ${SUITES.join(', ')}`);
  return suite;
});

/** Takes memory without spending the CPU time that a loop over it would. */
const hog = (mebibytes: number) =>
  `import mmap\nx = mmap.mmap(-1, ${mebibytes} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)`;

interface Call {
  readonly status: number;
  readonly outcome: string | undefined;
  readonly body: Readonly<Record<string, unknown>>;
}

async function call(m: Machine, path: string, body: unknown): Promise<Call> {
  const curl = `curl -sS -i --max-time 400 -H 'Authorization: Bearer ${TOKEN}' --data-binary @- ${URL}${path}`;
  const answer = await m.succeed(curl, { stdin: JSON.stringify(body), seconds: 450 });
  const [head = '', text = ''] = answer.split('\r\n\r\n', 2);
  return {
    status: Number(/^HTTP\/1.1 (\d+)/.exec(head)?.[1]),
    outcome: /^nox-outcome: (.*)$/im.exec(head)?.[1]?.trim(),
    body: JSON.parse(text) as Call['body'],
  };
}

const python = (m: Machine, code: string) => call(m, '/run_py', { code });

async function works(m: Machine): Promise<void> {
  const run = await python(m, 'print(6 * 7)');
  assert.deepEqual([run.outcome, run.body['stdout']], ['ok', '42\n'], JSON.stringify(run));
}

async function healthy(m: Machine, seconds = 300): Promise<void> {
  try {
    await m.waitUntilSucceeds(`curl -fsS --max-time 20 ${URL}/health`, seconds);
  } catch (error) {
    throw new Error(await m.succeed('journalctl --no-pager -n 60 -o cat -u nox-api -u nox-runner'), {
      cause: error,
    });
  }
}

const pidOf = async (m: Machine, unit: Unit) => (await m.succeed(`systemctl show -P MainPID ${unit}`)).trim();

async function configure(m: Machine, settings: Readonly<Record<string, string>>): Promise<void> {
  const lines = Object.entries({ ...SETTINGS, ...settings }).map(([name, value]) => `${name}=${value}\n`);
  await m.write('/etc/default/nox-api', lines.join(''), '600');
}

const install = (m: Machine) => m.succeed(`${NODE} /opt/nox-src/dist/cli/noxctl.js install`, SLOW);

/** What probe.pl finds, started by systemd with every line of the unit but the program and its runtime directory. */
async function probe(m: Machine, unit: Unit): Promise<Record<string, string>> {
  const other = await pidOf(m, unit === 'nox-api' ? 'nox-runner' : 'nox-api');
  const text = (await m.succeed(`cat /etc/systemd/system/${unit}.service`))
    .replace(/^ExecStart=.*$/m, `ExecStart=/usr/bin/perl /opt/nox-src/test/vm/probe.pl ${other}`)
    .replace(/^(Type|Restart|RuntimeDirectory|WatchdogSec|NotifyAccess)=.*$/gm, '')
    .replace(
      '[Service]',
      '[Service]\nType=oneshot\nStandardOutput=file:/run/probe.out\nStandardError=journal',
    );
  await m.write('/etc/systemd/system/nox-probe.service', text);
  await m.succeed('rm -f /run/probe.out; systemctl daemon-reload');
  const ended = await m.execute('systemctl start nox-probe', SLOW);
  if (ended.code !== 0) throw new Error(await m.succeed('journalctl --no-pager -n 30 -o cat -u nox-probe'));
  const rows = (await m.succeed('cat /run/probe.out')).trim().split('\n');
  return Object.fromEntries(rows.map((row) => row.split('\t') as [string, string]));
}

const REFUSED_TO_BOTH = {
  'write /etc': 'EROFS',
  'write /usr': 'EROFS',
  'write /var/lib': 'EROFS',
  'write /opt/nox': 'EROFS',
  'write /home/nox/nox/sandbox': 'done',
  'write /tmp': 'done',
  'real-time scheduling': 'EPERM',
  'socket packet': 'EAFNOSUPPORT',
  'socket vsock': 'EAFNOSUPPORT',
  'socket alg': 'EAFNOSUPPORT',
  'socket bluetooth': 'EAFNOSUPPORT',
  'signal the other': 'EPERM',
  'read the other': 'ENOENT',
  'processes of others': '0',
  disks: '0',
  'kernel memory': 'none',
  keyctl: 'EPERM',
  ptrace: 'EPERM',
  process_vm_readv: 'EPERM',
  bpf: 'EPERM',
  perf_event_open: 'EPERM',
  clock_settime: 'EPERM',
  init_module: 'EPERM',
  swapoff: 'EPERM',
  reboot: 'EPERM',
  iopl: 'EPERM',
  setuid: 'EPERM',
  userfaultfd: 'EPERM',
  personality: 'EPERM',
  CapEff: '0000000000000000',
  CapBnd: '0000000000000000',
  NoNewPrivs: '1',
  Seccomp: '2',
};

/** From Linux 6.3 on systemd leaves MemoryDenyWriteExecute= to the kernel (PR_SET_MDWE in prctl(2)). */
const DENIED_BY_KERNEL = {
  'map writable and executable': 'EACCES',
  'make executable what was writable': 'EACCES',
};
const FOUND: Readonly<Record<Unit, Readonly<Record<string, string>>>> = {
  'nox-api': {
    ...REFUSED_TO_BOTH,
    'write /home': 'EROFS',
    'write /home/nox/nox': 'EROFS',
    'write /home/nox/nox/logs': 'done',
    'write /run/lock': 'EROFS',
    'write /dev/shm': 'EROFS',
    'set-user-id bit': 'EPERM',
    'map writable and executable': 'EPERM',
    'make executable what was writable': 'EPERM',
    'namespace user': 'EPERM',
    'namespace mount': 'EPERM',
    'namespace network': 'EPERM',
    'namespace time': 'EPERM',
    mount: 'EPERM',
    memfd_create: 'EPERM',
    io_uring_setup: 'EPERM',
    sethostname: 'EPERM',
    'socket netlink': 'EAFNOSUPPORT',
    'send to another address': 'EPERM',
    'proc beyond processes': 'none',
    homes: 'nox nox/nox nox/nox/logs nox/nox/sandbox',
    token: 'there',
  },
  'nox-runner': {
    ...REFUSED_TO_BOTH,
    'write /home/nox/nox/logs': 'ENOENT',
    // What it is for: sandboxes.
    'namespace user': 'done',
    'namespace mount': 'done',
    'namespace network': 'done',
    // Not to root's files: what it can make is its own user's.
    'set-user-id bit': 'done',
    // Inherited by the runs, whose own compilers and interpreters need it.
    'map writable and executable': 'done',
    'socket netlink': 'done',
    'send to another address': 'ENETUNREACH',
    interfaces: 'lo',
    homes: 'nox nox/nox nox/nox/sandbox',
    token: 'none',
  },
};

for (const suite of suites) {
  test(`units on Debian ${suite}`, { timeout: 5_400_000 }, async (t) => {
    const m = await boot({ suite, seconds: 5400 });
    t.after(() => m.stop());
    await configure(m, {});
    await install(m);
    await m.succeed('ip addr add 192.0.2.1/32 dev lo');

    await t.test('both are active, and the four calls work', async () => {
      for (const unit of UNITS) await m.waitForUnit(unit);
      await healthy(m);
      await works(m);
      const form = `curl -sS -H 'Authorization: Bearer ${TOKEN}' -F f=@- '${URL}/put?path=made/by/put.txt'`;
      const saved = JSON.parse(await m.succeed(form, { stdin: 'hello' })) as unknown;
      assert.deepEqual(saved, { saved: '/home/nox/nox/sandbox/made/by/put.txt' });
      const shown = await call(m, '/run_sh', { cmd: 'cat made/by/put.txt' });
      assert.deepEqual([shown.outcome, shown.body['stdout']], ['ok', 'hello']);
      const prefix = await python(m, 'import sys; print(sys.prefix)');
      assert.equal(prefix.body['stdout'], '/opt/nox/.venv\n');
    });

    await t.test('what runs and uploads make is for both users', async () => {
      await python(
        m,
        `import os, subprocess\nos.makedirs('by/run')\nopen('by/run/file', 'w')\nsubprocess.run(['touch', 'by/run/touched'])`,
      );
      await call(m, '/run_py', { code: 'print(1)', filename: 'by/name/program.py' });
      const rows = await m.succeed(
        `cd /home/nox/nox/sandbox && find by made -printf '%p %M %u:%g\\n' | sort`,
      );
      assert.equal(
        rows,
        `by drwxrwsr-x nox-runner:nox
by/name drwxrwsr-x nox-runner:nox
by/name/program.py -rw-rw-r-- nox-runner:nox
by/run drwxrwsr-x nox-runner:nox
by/run/file -rw-rw-r-- nox-runner:nox
by/run/touched -rw-rw-r-- nox-runner:nox
made drwxrwsr-x nox-runner:nox
made/by drwxrwsr-x nox-runner:nox
made/by/put.txt -rw-rw-r-- nox-runner:nox
`,
      );
      const asNox = 'cd / && setpriv --reuid nox --regid nox --init-groups bash -ec';
      await m.succeed(
        `${asNox} 'cd /home/nox/nox/sandbox; umask 002; echo nox >>by/run/file; mkdir by/run/nox; echo nox >by/run/nox/file; rm by/run/touched'`,
      );
      const back = await python(
        m,
        `import os\nopen('by/run/nox/file', 'a').write('run')\nos.remove('by/run/file')\nprint(open('by/run/nox/file').read())`,
      );
      assert.equal(back.body['stdout'], 'nox\nrun\n', JSON.stringify(back));
    });

    await t.test('systemd-analyze has nothing to say against them', async () => {
      for (const unit of UNITS) {
        const figure = await m.succeed(`systemd-analyze security --no-pager ${unit} | tail -n1`);
        t.diagnostic(figure.trim());
        assert.ok(Number(/level for .*: ([\d.]+)/.exec(figure)?.[1]) <= EXPOSURE[unit], figure);
      }
      const verified = await m.execute('systemd-analyze verify nox-api.service nox-runner.service nox.slice');
      assert.deepEqual([verified.code, verified.stdout + verified.stderr], [0, '']);
      const said = await m.succeed('journalctl -b --no-pager -o cat _PID=1 | grep "/system/nox" || true');
      assert.equal(said, '', 'what systemd does not understand');
    });

    await t.test('nox-api.service has the lines that were promised, word for word', async () => {
      const lines = (await m.succeed('cat /etc/systemd/system/nox-api.service')).split('\n');
      for (const line of PROMISED) assert.ok(lines.includes(line), line);
    });

    await t.test('the processes themselves: users, privileges, memory, secrets', async () => {
      const [gateway, runner] = [await pidOf(m, 'nox-api'), await pidOf(m, 'nox-runner')];
      for (const [pid, user] of [
        [gateway, 'nox'],
        [runner, 'nox-runner'],
      ] as const) {
        assert.equal(await m.succeed(`ps -o user:20=,group= -p ${pid} | tr -s ' '`), `${user} nox\n`);
        const status = await m.succeed(`grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/${pid}/status`);
        assert.equal(
          status.replace(/\s+/g, ' '),
          `${['Inh', 'Prm', 'Eff', 'Bnd', 'Amb'].map((set) => `Cap${set}: 0000000000000000 `).join('')}NoNewPrivs: 1 Seccomp: 2 `,
        );
      }
      assert.equal(await m.succeed(`grep -c 'rwx' /proc/${gateway}/maps || true`), '0\n');
      await m.succeed(`grep -qz NOX_API_TOKEN=${TOKEN} /proc/${gateway}/environ`);
      await m.fail(`grep -z ${TOKEN} /proc/${runner}/environ`);
      // Even root, if it were in there.
      for (const place of ['/etc', '/usr', '/var/lib', '/opt/nox/current/dist', '/home', '/home/nox/nox'])
        for (const pid of place.startsWith('/home') ? [gateway] : [gateway, runner]) {
          const perl = `open my $f, ">", "${place}/x" or print $!{EROFS} ? "EROFS" : $!`;
          assert.equal(
            await m.succeed(`nsenter -t ${pid} -m /usr/bin/perl -MErrno -e '${perl}'`),
            'EROFS',
            place,
          );
        }
      await m.succeed(`nsenter -t ${runner} -m touch /home/x /root/x || true`);
      await m.fail('ls /home/x /root/x');
    });

    for (const unit of UNITS) {
      await t.test(`what can be done under the directives of ${unit}`, async () => {
        const found = await probe(m, unit);
        const expected = {
          ...FOUND[unit],
          ...(unit === 'nox-api' && suite !== 'bookworm' ? DENIED_BY_KERNEL : {}),
        };
        assert.deepEqual(
          Object.fromEntries(Object.keys(expected).map((name) => [name, found[name]])),
          expected,
        );
      });
    }

    await t.test(
      'from inside a run: no other process, no way to gateway or runner, no secret, no network',
      async () => {
        const pids = [await pidOf(m, 'nox-api'), await pidOf(m, 'nox-runner')].join(', ');
        const run = await python(
          m,
          `import os, socket
print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))
for pid in (${pids}):
    for action in (lambda: os.kill(pid, 0), lambda: open(f'/proc/{pid}/environ')):
        try: print('done', action())
        except OSError as error: print(type(error).__name__)
print(any('TOKEN' in name or 'NOTIFY' in name for name in os.environ), os.path.exists('/etc/default'), os.path.exists('/run/nox-runner'))
print([name for _, name in socket.if_nameindex()])
print([line for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp:'))])
print(sorted(os.readlink('/proc/self/fd/' + name).split(':')[0] for name in os.listdir('/proc/self/fd') if int(name) < 3))
`,
        );
        assert.equal(
          run.body['stdout'],
          `[1, 2]
ProcessLookupError
FileNotFoundError
ProcessLookupError
FileNotFoundError
False False False
['lo']
['CapEff:\\t0000000000000000\\n', 'CapBnd:\\t0000000000000000\\n', 'NoNewPrivs:\\t1\\n', 'Seccomp:\\t2\\n']
['/dev/null', 'pipe', 'pipe']
`,
          JSON.stringify(run),
        );
      },
    );

    await t.test('no process of the runs has the runner’s line to systemd', async () => {
      const runner = await pidOf(m, 'nox-runner');
      const holders = await m.succeed(
        `fd=$(tr '\\0' '\\n' </proc/${runner}/environ | sed -n s/^NOTIFY_FD=//p)
line=$(readlink /proc/${runner}/fd/$fd); test "\${line%%:*}" = socket
for pid in $(pgrep -u nox-runner); do ls -l /proc/$pid/fd 2>/dev/null | grep -qF "$line" && echo $pid; done; true`,
      );
      assert.equal(holders, `${runner}\n`);
      assert.ok((await m.succeed('pgrep -u nox-runner')).trim().split('\n').length > 2, 'bwrap and zygote');
    });

    await t.test('limits by cgroup, with the outcome named', async () => {
      const outcomes = {
        memory_limit: hog(256),
        process_limit: 'import os\nwhile os.fork() > 0: pass\nos.read(os.pipe()[0], 1)',
        cpu_limit: 'import os\nos.fork(); os.fork()\nwhile True: pass',
      };
      for (const [outcome, code] of Object.entries(outcomes)) {
        const run = await python(m, code);
        assert.equal(run.outcome, outcome, JSON.stringify(run));
      }
      await works(m);
      assert.equal(await m.succeed('find /sys/fs/cgroup/nox.slice -name "run-*"'), '', 'cgroups of runs');
    });

    await t.test('systemd reading its units again takes nothing away from runs', async () => {
      await m.succeed('systemctl daemon-reload');
      await works(m);
      assert.equal((await python(m, hog(256))).outcome, 'memory_limit');
    });

    await t.test('runs come after the gateway, and after the rest of the machine', async () => {
      const weight = async (group: string) =>
        Number(await m.succeed(`cat /sys/fs/cgroup/${group}/cpu.weight`));
      assert.ok((await weight('nox.slice')) < (await weight('system.slice')));
      assert.ok((await weight('nox.slice/nox-runner.service')) < (await weight('nox.slice/nox-api.service')));
      const score = async (unit: Unit) =>
        Number(await m.succeed(`cat /proc/${await pidOf(m, unit)}/oom_score_adj`));
      assert.ok((await score('nox-api')) < 0);
      assert.ok((await score('nox-runner')) > 0);
    });

    await t.test('a run that may take all memory takes what is the runs’, and only it ends', async () => {
      await configure(m, { NOX_MAX_MEMORY: '64G', NOX_MAX_CPU: '150' });
      await m.succeed('systemctl restart nox-runner', SLOW);
      await healthy(m);
      const before = [await pidOf(m, 'nox-api'), await pidOf(m, 'nox-runner')];
      const piece = 'mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)';
      const run = await python(m, `import mmap\nheld = []\nwhile True: held.append(${piece})`);
      assert.equal(run.outcome, 'memory_limit', JSON.stringify(run));
      assert.deepEqual([await pidOf(m, 'nox-api'), await pidOf(m, 'nox-runner')], before);
      await works(m);
      await configure(m, {});
      await m.succeed('systemctl restart nox-runner', SLOW);
      await healthy(m);
    });

    for (const unit of UNITS) {
      await t.test(`${unit}: killed, it comes back`, async () => {
        const pid = await pidOf(m, unit);
        await m.succeed(`kill -9 ${pid}`);
        await m.waitUntilSucceeds(
          `p=$(systemctl show -P MainPID ${unit}); [ $p != 0 ] && [ $p != ${pid} ]`,
          300,
        );
        await m.waitUntilSucceeds(`systemctl is-active ${unit}`, 300);
        await healthy(m);
        await works(m);
      });

      await t.test(`${unit}: stopped in its tracks, the watchdog ends it and it comes back`, async () => {
        const pid = await pidOf(m, unit);
        await m.succeed(`kill -STOP ${pid}`);
        await m.waitUntilSucceeds(
          `p=$(systemctl show -P MainPID ${unit}); [ $p != 0 ] && [ $p != ${pid} ]`,
          400,
        );
        await m.waitUntilSucceeds(`systemctl is-active ${unit}`, 300);
        assert.match(await m.succeed(`journalctl -b --no-pager -o cat -u ${unit}`), /[Ww]atchdog timeout/);
        await healthy(m);
        await works(m);
        assert.equal(
          await m.succeed('find / -xdev -type f "(" -name core -o -name "core.[0-9]*" ")"'),
          '',
          'no core',
        );
      });
    }

    /** Starts a run that lasts, and resolves when it has begun. */
    async function lasting(seconds: number): Promise<{ readonly answer: Promise<Call> }> {
      await m.succeed('rm -f /home/nox/nox/sandbox/begun');
      const answer = call(m, '/run_sh', { cmd: ['bash', '-c', `echo >begun; sleep ${seconds}; echo whole`] });
      await m.waitUntilSucceeds('test -e /home/nox/nox/sandbox/begun');
      return { answer };
    }

    await t.test(
      'stop: a run under way gets its answer, a new one is refused by name; systemd waits',
      async () => {
        // Far below the grace: the gateway itself asks systemd for the time that it needs.
        await m.write('/etc/systemd/system/nox-api.service.d/short.conf', '[Service]\nTimeoutStopSec=5\n');
        await m.succeed('systemctl daemon-reload');
        const { answer } = await lasting(25);
        const stopped = m.succeed('systemctl stop nox-runner nox-api', SLOW);
        await m.waitUntilSucceeds('journalctl -b --no-pager -o cat -u nox-api -n 1 | grep stopping', 60);
        const refused = await call(m, '/run_py', { code: 'print(1)' });
        assert.deepEqual([refused.status, refused.body['code']], [503, 'shutting_down']);
        const run = await answer;
        assert.deepEqual([run.status, run.body['stdout']], [200, 'whole\n'], JSON.stringify(run));
        await stopped;
        for (const unit of UNITS)
          assert.equal(await m.succeed(`systemctl show -P Result -P ExecMainStatus ${unit}`), 'success\n0\n');
        assert.equal(await m.succeed('pgrep -u nox-runner || true'), '');
        await m.succeed('rm -r /etc/systemd/system/nox-api.service.d; systemctl daemon-reload');
        await m.succeed('systemctl start nox-api', SLOW);
        await healthy(m);
      },
    );

    await t.test('stop: a run beyond the bound is ended by name', async () => {
      await configure(m, { NOX_STOP_GRACE: '5' });
      await m.succeed('systemctl restart nox-runner nox-api', SLOW);
      await healthy(m);
      const { answer } = await lasting(190);
      await m.succeed('systemctl stop nox-api', SLOW);
      const run = await answer;
      assert.deepEqual([run.status, run.body['code']], [503, 'shutting_down']);
      assert.equal(await m.succeed('systemctl show -P Result nox-api'), 'success\n');
      await configure(m, {});
      await m.succeed('systemctl restart nox-runner nox-api', SLOW);
      await healthy(m);
      await works(m);
    });

    await t.test('settings that cannot be used are not tried again and again', async () => {
      await configure(m, { NOX_PORT: 'http' });
      await m.fail('systemctl restart nox-api', SLOW);
      assert.equal((await m.execute('systemctl is-active nox-api')).stdout, 'failed\n');
      await configure(m, {});
      await m.succeed('systemctl restart nox-api', SLOW);
    });

    await t.test('a machine without the delegated cgroup is refused, whatever the settings say', async () => {
      await configure(m, { NOX_CGROUP: 'off' });
      await m.succeed('systemctl restart nox-runner', SLOW);
      await healthy(m);
      assert.match(
        await m.succeed('journalctl -b --no-pager -o cat -u nox-runner -n 5'),
        /"limitsBy":"cgroup v2/,
      );
      await configure(m, {});
    });

    await t.test('bound to all addresses, it is reached from another', async () => {
      await configure(m, { NOX_BIND_ADDR: '0.0.0.0' });
      await install(m);
      assert.equal(await m.succeed('curl -fsS http://192.0.2.1:8080/health', SLOW), '{"status":"ok"}');
      const figure = await m.succeed('systemd-analyze security --no-pager nox-api | tail -n1');
      t.diagnostic(`bound to all addresses: ${figure.trim()}`);
      assert.ok(Number(/level for .*: ([\d.]+)/.exec(figure)?.[1]) <= EXPOSURE['nox-api'], figure);
      await configure(m, {});
      await install(m);
      await m.fail('curl -fsS --max-time 20 http://192.0.2.1:8080/health');
    });

    await t.test('a reboot brings both up', async () => {
      await m.reboot();
      for (const unit of UNITS) await m.waitForUnit(unit, 300);
      await healthy(m);
      await works(m);
    });
  });
}
