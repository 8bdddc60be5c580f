import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  ConfigError,
  describeConfig,
  parseConfig,
  SETTINGS,
  type Environment,
  type Role,
  type Setting,
  type SettingName,
} from '../../src/config.ts';

const TOKEN = 'correct-horse-battery-staple';
const TOKENED = { NOX_API_TOKEN: TOKEN };
const ALL = Object.entries(SETTINGS) as [SettingName, Setting][];
const NUMBERS = ALL.flatMap(([name, setting]) =>
  setting.kind === 'number' ? [[name, setting] as const] : [],
);
const TEXTS = ALL.flatMap(([name, setting]) => (setting.kind === 'text' ? [[name, setting] as const] : []));

/** The lines of the refusal. */
function faults(env: Environment, role: Role = 'gateway', defaults = {}): string[] {
  let message: string | undefined;
  try {
    parseConfig(role, env, defaults);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    ({ message } = error);
  }
  assert.ok(message !== undefined, `${JSON.stringify(env)} is refused`);
  return message.split('\n');
}

describe('parseConfig', () => {
  test('a token is all that a gateway needs', () => {
    const config = parseConfig('gateway', TOKENED);
    assert.equal(config.token, TOKEN);
    assert.equal(config.bindAddress, '127.0.0.1');
    assert.equal(config.port, 8080);
    assert.equal(config.sandbox, '/home/nox/nox/sandbox');
    assert.equal(config.limits.wallSeconds, 20);
    assert.equal(config.limits.outputBytes, 10 * 2 ** 20);
    assert.equal(config.pythonJit, false);
    assert.deepEqual(config.forbidden, [
      ...['rm', 'reboot', 'shutdown', 'mkfs', 'dd', 'mount', 'umount', 'kill', 'pkill', 'sudo'],
    ]);
  });

  test('a runner needs none', () => {
    assert.equal(parseConfig('runner', {}).token, '');
    assert.equal(parseConfig('runner', { NOX_API_TOKEN: '' }).token, '');
  });

  for (const env of [{}, { NOX_API_TOKEN: '' }]) {
    test(`a gateway with ${JSON.stringify(env)} is refused and told how to make a token`, () => {
      const [line, ...more] = faults(env);
      assert.match(line ?? '', /^NOX_API_TOKEN: missing or empty; .*openssl rand/);
      assert.deepEqual(more, []);
    });
  }

  test('an unknown name is fatal and named, to the runner too', () => {
    for (const role of ['gateway', 'runner'] as const) {
      const [line, ...more] = faults({ ...TOKENED, NOX_TIMEOUTS: '5' }, role);
      assert.match(line ?? '', /^NOX_TIMEOUTS: no such setting/);
      assert.deepEqual(more, []);
    }
  });

  test('names that look like a setting are unknown: another case, a prototype’s, the bare prefix', () => {
    for (const name of ['NOX_timeout', 'NOX_', 'NOX___proto__', 'NOX_TIMEOUT ']) {
      assert.match(faults({ ...TOKENED, [name]: '1' })[0] ?? '', new RegExp(`^${name}: no such setting`));
    }
  });

  test('names of others are left alone', () => {
    assert.doesNotThrow(() =>
      parseConfig('gateway', { ...TOKENED, NO_X: '1', XNOX_Y: '2', nox_z: '3', PATH: '/' }),
    );
  });

  for (const [name, text] of [
    ['NOX_TIMEOUT', '0'],
    ['NOX_TIMEOUT', '-1'],
    ['NOX_TIMEOUT', '86401'],
    ['NOX_TIMEOUT', '1e3'],
    ['NOX_TIMEOUT', '.5'],
    ['NOX_TIMEOUT', '5.'],
    ['NOX_TIMEOUT', '5s'],
    ['NOX_TIMEOUT', ''],
    ['NOX_TIMEOUT', ' 5'],
    ['NOX_TIMEOUT', '5\n'],
    ['NOX_TIMEOUT', 'NaN'],
    ['NOX_TIMEOUT', 'Infinity'],
    ['NOX_PORT', '65536'],
    ['NOX_PORT', '80.5'],
    ['NOX_PORT', '0x50'],
    ['NOX_PORT', '８０'],
    ['NOX_PORT', '1K'],
    ['NOX_RUN_UID', '0'],
    ['NOX_API_UID', '0'],
    ['NOX_MAX_OUTPUT', '1.5M'],
    ['NOX_MAX_OUTPUT', '10m'],
    ['NOX_MAX_OUTPUT', '10MB'],
    ['NOX_MAX_OUTPUT', '10 M'],
    ['NOX_MAX_OUTPUT', 'M'],
    ['NOX_MAX_OUTPUT', '1023'],
    ['NOX_MAX_OUTPUT', '9'.repeat(400)],
    ['NOX_SANDBOX', 'relative/path'],
    ['NOX_SANDBOX', '/'],
    ['NOX_SANDBOX', '/a/'],
    ['NOX_SANDBOX', '/a//b'],
    ['NOX_SANDBOX', ''],
    ['NOX_BIND_ADDR', ''],
    ['NOX_BIND_ADDR', 'a b'],
    ['NOX_CGROUP', 'on'],
    ['NOX_PYTHON_JIT', 'yes'],
    ['NOX_LOG_LEVEL', 'INFO'],
  ] as const) {
    test(`${name}=${JSON.stringify(text.slice(0, 20))} is fatal, names itself and says what it must be`, () => {
      const [line = '', ...more] = faults({ ...TOKENED, [name]: text });
      assert.ok(line.startsWith(`${name}: ${JSON.stringify(text)} is not `), line);
      assert.deepEqual(more, []);
    });
  }

  for (const path of ['/..', '/.', '/a/..', '/srv/../etc', '/srv/./x']) {
    test(`NOX_SANDBOX=${path} is fatal: a path is compared and mounted by its name`, () => {
      assert.match(faults({ ...TOKENED, NOX_SANDBOX: path })[0] ?? '', /^NOX_SANDBOX: /);
    });
  }

  test('several faults at once are all told, one a line', () => {
    const lines = faults({
      NOX_API_TOKEN: '',
      NOX_PORT: 'x',
      NOX_CGROUP: 'maybe',
      NOX_FOO: '1',
      NOX_BAR: '',
    });
    assert.deepEqual(lines.map((line) => line.split(':')[0]).sort(), [
      'NOX_API_TOKEN',
      'NOX_BAR',
      'NOX_CGROUP',
      'NOX_FOO',
      'NOX_PORT',
    ]);
  });

  test('K, M, G and T are powers of 1024', () => {
    const bytes = (text: string) => parseConfig('runner', { NOX_MAX_FILE_SIZE: text }).limits.fileBytes;
    assert.deepEqual(['4096', '4K', '3M', '2G', '1T'].map(bytes), [
      4096,
      4096,
      3 * 2 ** 20,
      2 ** 31,
      2 ** 40,
    ]);
  });

  test('seconds may have a fraction, and so may defaults of the caller', () => {
    assert.equal(parseConfig('runner', { NOX_TIMEOUT: '0.25' }).limits.wallSeconds, 0.25);
    const defaults = { NOX_TIMEOUT: '3', NOX_PORT: '0' };
    const config = parseConfig('gateway', { ...TOKENED, NOX_TIMEOUT: '4' }, defaults);
    assert.deepEqual([config.limits.wallSeconds, config.port], [4, 0]);
  });

  test('NOX_FORBIDDEN: words between spaces of any number; empty: none', () => {
    const forbidden = (text: string) => parseConfig('runner', { NOX_FORBIDDEN: text }).forbidden;
    assert.deepEqual(forbidden('  a\t b\n'), ['a', 'b']);
    assert.deepEqual(forbidden(''), []);
  });

  test('property: every number within its range is taken as it is, and none outside', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...NUMBERS),
        fc.bigInt({ min: 0n, max: 2n ** 60n }),
        ([name, setting], value) => {
          const number = Number(value);
          const env = { ...TOKENED, [name]: String(value) };
          if (number >= setting.minimum && number <= setting.maximum)
            assert.doesNotThrow(() => parseConfig('gateway', env));
          else assert.equal(faults(env)[0]?.split(':')[0], name);
        },
      ),
      { numRuns: 500 },
    );
  });

  for (const [name, { minimum, maximum }] of NUMBERS) {
    test(`${name}: both ends of its range are taken, and what is just outside is not`, () => {
      for (const value of [minimum, maximum]) {
        assert.doesNotThrow(() => parseConfig('gateway', { ...TOKENED, [name]: String(value) }));
      }
      faults({ ...TOKENED, [name]: String(maximum + 1) });
      if (minimum > 0)
        faults({ ...TOKENED, [name]: String(Math.floor(minimum) - (Number.isInteger(minimum) ? 1 : 0)) });
    });
  }
});

describe('defaults', () => {
  for (const [name, setting] of NUMBERS) {
    test(`${name}: within its own range`, () => {
      assert.ok(setting.minimum <= setting.default && setting.default <= setting.maximum);
    });
  }

  for (const [name] of TEXTS) {
    test(`${name}: may be written out`, () => {
      const { default: text } = SETTINGS[name];
      assert.doesNotThrow(() => parseConfig('runner', { [name]: String(text) }));
    });
  }

  test('writing out what is in force changes nothing', () => {
    const lines = describeConfig({})
      .split('\n')
      .filter((line) => !line.endsWith('=(hidden)'));
    const env = Object.fromEntries(
      lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
    assert.deepEqual(parseConfig('runner', env), parseConfig('runner', {}));
  });
});

describe('secrets', () => {
  test('the token is in no description', () => {
    const text = describeConfig(TOKENED);
    assert.ok(!text.includes(TOKEN));
    assert.match(text, /^NOX_API_TOKEN=\(hidden\)$/m);
  });

  test('property: a token that cannot be used is in no message', () => {
    const bad = fc.string({ minLength: 8, unit: 'binary' }).filter((text) => /[^\x21-\x7e]/.test(text));
    fc.assert(
      fc.property(bad, (token) => {
        const message = faults({ NOX_API_TOKEN: token }).join('\n');
        assert.ok(!message.includes(token) && !message.includes(JSON.stringify(token)));
        assert.match(message, /^NOX_API_TOKEN: a value of \d+ characters is not /);
      }),
    );
  });

  test('the token is in no message about another setting', () => {
    assert.ok(
      !faults({ ...TOKENED, NOX_PORT: 'x', NOX_X: '' })
        .join('\n')
        .includes(TOKEN),
    );
  });

  test('a token of 512 characters is taken, one of 513 is not', () => {
    assert.equal(parseConfig('gateway', { NOX_API_TOKEN: 'x'.repeat(512) }).token.length, 512);
    faults({ NOX_API_TOKEN: 'x'.repeat(513) });
  });
});

describe('describeConfig', () => {
  test('every setting on a line, with the value in force', () => {
    const lines = describeConfig({ NOX_PORT: '81', NOX_MAX_BODY: '1M' }, { NOX_SANDBOX: '/srv/nox' }).split(
      '\n',
    );
    assert.deepEqual(
      lines.map((line) => line.split('=')[0]),
      Object.keys(SETTINGS),
    );
    for (const line of ['NOX_PORT=81', 'NOX_MAX_BODY=1048576', 'NOX_SANDBOX=/srv/nox', 'NOX_TIMEOUT=20']) {
      assert.ok(lines.includes(line), line);
    }
  });
});
