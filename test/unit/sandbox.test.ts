import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  ETC,
  NODE,
  OWN_ETC,
  ROOT_DIRS,
  sandboxArguments,
  type SandboxPlan,
} from '../../src/runner/sandbox.ts';

const PLAN: SandboxPlan = {
  workspace: { from: '/srv/work', at: '/home/work' },
  etcDir: '/tmp/nox-runner-x/etc',
  rootLinks: new Map([
    ['/bin', 'usr/bin'],
    ['/lib64', 'usr/lib64'],
  ]),
  etc: ['/etc/ssl/certs', '/etc/ld.so.cache'],
  venv: '/opt/nox/.venv',
};

/** How many arguments each option takes (bwrap(1)). An option that is not here fails the test. */
const ARITY: Readonly<Record<string, number>> = {
  '--unshare-user': 0,
  '--unshare-pid': 0,
  '--unshare-ipc': 0,
  '--unshare-uts': 0,
  '--unshare-net': 0,
  '--unshare-cgroup': 0,
  '--hostname': 1,
  '--die-with-parent': 0,
  '--new-session': 0,
  '--as-pid-1': 0,
  '--cap-drop': 1,
  '--cap-add': 1,
  '--ro-bind': 2,
  '--bind': 2,
  '--symlink': 2,
  '--perms': 1,
  '--dir': 1,
  '--proc': 1,
  '--dev-bind': 2,
  '--tmpfs': 1,
  '--remount-ro': 1,
};

type Option = readonly [name: string, ...values: string[]];

function parse(args: readonly string[]): Option[] {
  const options: Option[] = [];
  for (let at = 0; at < args.length;) {
    const name = args[at] ?? '';
    const arity = ARITY[name];
    assert.ok(arity !== undefined, `${JSON.stringify(name)} stands where an option must`);
    const values = args.slice(at + 1, at + 1 + arity);
    assert.equal(values.length, arity, `${name} lacks a value`);
    options.push([name, ...values]);
    at += 1 + arity;
  }
  return options;
}

const named = (options: readonly Option[], name: string) => options.filter(([each]) => each === name);
const position = (options: readonly Option[], ...wanted: string[]) =>
  options.findIndex((option) => option.join(' ') === wanted.join(' '));

/** Absolute paths of any characters that a name can have, options and spaces among them. */
const path = fc
  .array(fc.string({ unit: 'binary', minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 4 })
  .map((names) => `/w${names.join('/').replaceAll('\0', '')}`);
const nasty = fc.oneof(
  path,
  fc.constantFrom('/--bind', '/ --bind / /', '/a b', '/*', '/$HOME', '/w\n--bind'),
);

const plan = fc.record({
  workspace: fc.record({ from: nasty, at: nasty }),
  etcDir: nasty,
  rootLinks: fc.subarray([...ROOT_DIRS]).map((dirs) => new Map(dirs.map((dir) => [dir, `usr${dir}`]))),
  etc: fc.subarray([...ETC]),
  venv: fc.option(nasty, { nil: undefined }),
  node: fc.option(nasty, { nil: undefined }),
});

describe('sandboxArguments', () => {
  const options = parse(sandboxArguments(PLAN));

  for (const namespace of ['user', 'pid', 'ipc', 'uts', 'net', 'cgroup']) {
    test(`a ${namespace} namespace of its own, never \`-try\``, () => {
      assert.equal(named(options, `--unshare-${namespace}`).length, 1);
    });
  }

  test('it dies with its parent, has no terminal, and the zygote is process 1', () => {
    for (const name of ['--die-with-parent', '--new-session', '--as-pid-1']) {
      assert.equal(named(options, name).length, 1, name);
    }
  });

  test('its host name is nox; its capabilities are in the namespace that owns the others, as bwrap makes no second', () => {
    for (const name of ['--uid', '--gid', '--dev']) assert.deepEqual(named(options, name), [], name);
    assert.deepEqual(named(options, '--hostname'), [['--hostname', 'nox']]);
  });

  test('all capabilities are dropped before the three that the zygote needs are given', () => {
    const capabilities = options.filter(([name]) => name.startsWith('--cap-'));
    assert.deepEqual(capabilities, [
      ['--cap-drop', 'ALL'],
      ['--cap-add', 'CAP_SYS_ADMIN'],
      ['--cap-add', 'CAP_NET_ADMIN'],
      ['--cap-add', 'CAP_SETPCAP'],
    ]);
  });

  test('the workspace is the only thing of the host that can be written', () => {
    assert.deepEqual(named(options, '--bind'), [['--bind', '/srv/work', '/home/work']]);
  });

  test('its own /proc and /dev, not the host’s', () => {
    assert.deepEqual(named(options, '--proc'), [['--proc', '/proc']]);
    assert.deepEqual(named(options, '--tmpfs'), [['--tmpfs', '/dev']]);
    const devices = named(options, '--dev-bind').map(([, from, to]) => [from, to]);
    const harmless = ['null', 'zero', 'full', 'random', 'urandom', 'tty'].map((name) => `/dev/${name}`);
    assert.deepEqual(
      devices,
      harmless.map((path) => [path, path]),
    );
  });

  test('where runs have cgroups, the zygote sees them, and no namespace hides them from it', () => {
    const cgroups = { from: '/sys/fs/cgroup/nox', at: '/tmp/.nox-cgroup' };
    const extra = parse(sandboxArguments({ ...PLAN, cgroups }));
    assert.deepEqual(named(extra, '--bind')[0], ['--bind', cgroups.from, cgroups.at]);
    assert.deepEqual(named(extra, '--unshare-cgroup'), []);
  });

  test('the zygote’s program is shown read-only at its place, and only there', () => {
    const zygote = { from: '/tmp/nox-runner-x/zygote', at: '/tmp/.nox' };
    const extra = parse(sandboxArguments({ ...PLAN, zygote })).filter(
      (option) => !options.some((each) => each.join('\0') === option.join('\0')),
    );
    assert.deepEqual(extra, [['--ro-bind', zygote.from, zygote.at]]);
  });

  test('Nox’s own Node is shown read-only, that one file, before the root becomes read-only', () => {
    const node = '/opt/nox/releases/1/bin/node';
    const extra = parse(sandboxArguments({ ...PLAN, node }));
    const bind = position(extra, '--ro-bind', node, NODE);
    assert.ok(bind >= 0 && bind < position(extra, '--remount-ro', '/'));
    assert.deepEqual(extra.toSpliced(bind, 1), options);
  });

  test('root and /dev become read-only after everything was put there', () => {
    assert.deepEqual(options.slice(-2), [
      ['--remount-ro', '/dev'],
      ['--remount-ro', '/'],
    ]);
  });

  test('the workspace is mounted after what could cover it', () => {
    const bind = position(options, '--bind', '/srv/work', '/home/work');
    for (const [name, ...values] of options.slice(bind + 1)) {
      assert.equal(name, '--remount-ro', `${name} ${values.join(' ')} comes after the workspace`);
    }
  });

  test('/etc: the few public files of the host, and files of its own for who is who', () => {
    const shown = named(options, '--ro-bind').filter(([, , to]) => to?.startsWith('/etc/'));
    assert.deepEqual(
      new Map(shown.map(([, from, to]) => [to, from])),
      new Map([
        ...PLAN.etc.map((each) => [each, each] as const),
        ...Object.keys(OWN_ETC).map((name) => [`/etc/${name}`, `${PLAN.etcDir}/${name}`] as const),
      ]),
    );
  });

  test('no file of ETC is one that can hold a secret, and its own files name no user of the host', () => {
    for (const each of ETC)
      assert.doesNotMatch(each, /shadow|passwd|private|ssh|sudo|hostname|machine-id|resolv/);
    assert.deepEqual(OWN_ETC['passwd']?.match(/^[^:]+/gm), ['nox', 'nobody']);
    assert.deepEqual(OWN_ETC['group']?.match(/^[^:]+/gm), ['nox', 'nogroup']);
  });

  test('without a virtual environment nothing is mounted for one', () => {
    const without = parse(sandboxArguments({ ...PLAN, venv: undefined }));
    assert.equal(without.length, options.length - 1);
    assert.equal(position(without, '--ro-bind', '/opt/nox/.venv', '/opt/nox/.venv'), -1);
  });

  test('property: workspace and environment are exact arguments, whatever is in their names', () => {
    fc.assert(
      fc.property(plan, (each) => {
        const parsed = parse(sandboxArguments(each));
        assert.deepEqual(named(parsed, '--bind'), [['--bind', each.workspace.from, each.workspace.at]]);
        if (each.venv === undefined) return;
        const binds = named(parsed, '--ro-bind').filter(([, from]) => from === each.venv);
        assert.ok(binds.some(([, , to]) => to === each.venv));
      }),
    );
  });

  test('property: of the host it shows only what is listed, each at its own place', () => {
    fc.assert(
      fc.property(plan, (each) => {
        const allowed = new Map([
          ['/usr', '/usr'],
          ...each.etc.map((file) => [file, file] as const),
          ...Object.keys(OWN_ETC).map((name) => [`/etc/${name}`, `${each.etcDir}/${name}`] as const),
          ...(each.venv === undefined ? [] : [[each.venv, each.venv] as const]),
          ...(each.node === undefined ? [] : [[NODE, each.node] as const]),
        ]);
        const parsed = parse(sandboxArguments(each));
        for (const [, from, to = ''] of named(parsed, '--ro-bind')) assert.equal(from, allowed.get(to), to);
        assert.deepEqual(
          new Map(
            named(parsed, '--symlink')
              .filter(([, , name = '']) => !name.startsWith('/dev/'))
              .map(([, target, name]) => [name, target]),
          ),
          each.rootLinks,
        );
      }),
    );
  });

  test('property: it is pure', () => {
    fc.assert(
      fc.property(plan, (each) => {
        assert.deepEqual(sandboxArguments(each), sandboxArguments(structuredClone(each)));
      }),
      { numRuns: 20 },
    );
  });
});
