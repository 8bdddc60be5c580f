/** The settings file, and what an older system tells of its own. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { inheritedSettings, timestamp, withoutOldPython } from '../../src/admin/legacy.ts';
import {
  completeSettings,
  editSettings,
  hideSecrets,
  mendSettings,
  parseSettings,
  requirements,
} from '../../src/admin/settings.ts';
import { debianPackage } from '../../src/admin/venv.ts';
import { at, machine } from '../support/machine.ts';

const NOW = new Date('2026-01-02T03:04:05Z');

describe('the settings file', () => {
  const names = fc.constantFrom('NOX_API_TOKEN', 'NOX_PORT', 'NOX_SANDBOX', 'OTHER', 'NOX_FORBIDDEN');
  const values = fc
    .string({ unit: 'grapheme-ascii' })
    .filter((text) => !/[\n\r\0\\]/.test(text) && text === text.trim());

  test('what is written is what is read', () => {
    fc.assert(
      fc.property(fc.dictionary(names, values), fc.dictionary(names, values), (first, second) => {
        const text = editSettings(editSettings('', first), second);
        assert.deepEqual(parseSettings(text), { ...first, ...second });
      }),
    );
  });

  test('what is not ours stays byte for byte, the last line of a name counts', () => {
    const text = "# mine\n\nNOX_PORT=1\n  OTHER='x y'\n;NOX_PORT=7\nNOX_PORT=2\n";
    assert.equal(
      editSettings(text, { NOX_PORT: '3' }),
      "# mine\n\nNOX_PORT=1\n  OTHER='x y'\n;NOX_PORT=7\nNOX_PORT=3\n",
    );
    assert.equal(parseSettings(text)['NOX_PORT'], '2');
  });

  test('a token that is there survives; without one there is a new one; unknown names are taken out of force', () => {
    const kept = completeSettings('NOX_API_TOKEN=abc\nNOX_OLD_THING=1\nPATH=/x\n', {}, () => 'new');
    assert.deepEqual(parseSettings(kept), { NOX_API_TOKEN: 'abc', PATH: '/x' });
    assert.match(kept, /^# cannot be used: NOX_OLD_THING=1$/m);
    assert.equal(parseSettings(completeSettings(undefined, {}, () => 'new'))['NOX_API_TOKEN'], 'new');
    assert.equal(
      parseSettings(completeSettings('NOX_API_TOKEN=\n', {}, () => 'new'))['NOX_API_TOKEN'],
      'new',
    );
    const whole = 'NOX_API_TOKEN="abc"\n';
    assert.equal(
      completeSettings(whole, { NOX_API_TOKEN: 'inherited' }, () => 'new'),
      whole,
    );
  });

  test('values that cannot be used are replaced by those that worked last', () => {
    const good = 'NOX_API_TOKEN=abc\nNOX_PORT=9000\n';
    assert.equal(mendSettings(undefined, good), good);
    assert.deepEqual(parseSettings(mendSettings('NOX_PORT=many\nNOX_TIMEOUT=-1\n', good) ?? ''), {
      NOX_PORT: '9000',
      NOX_API_TOKEN: 'abc',
    });
    assert.equal(mendSettings(good, undefined), good);
  });

  test('secrets are hidden in every form', () => {
    const secret = 'S3CRET';
    for (const line of [
      `NOX_API_TOKEN=${secret}`,
      `  export NOX_API_TOKEN='${secret}'`,
      `#NOX_API_TOKEN=${secret}`,
      `; NOX_API_TOKEN=${secret}`,
      `# cannot be used: NOX_API_TOKEN=${secret}`,
      `DB_PASSWORD=${secret}`,
      `NOX_API_TOKEN=\\\n${secret}`,
    ])
      assert.doesNotMatch(hideSecrets(line), new RegExp(secret), line);
    assert.equal(hideSecrets('NOX_PORT=1\n# text'), 'NOX_PORT=1\n# text');
    for (const line of [
      'Environment=NOX_API_TOKEN=abc123',
      'Environment="NOX_PORT=1" "NOX_API_TOKEN=abc123"',
      "Environment=NOX_API_TOKEN='abc 123'",
      'NOX_PYTHON_INDEX=https://me:abc123@pypi.example/simple',
    ])
      assert.doesNotMatch(hideSecrets(line), /abc/, line);
  });

  test('packages: a hash belongs to what is before it', () => {
    assert.equal(
      requirements(' numpy==1 --hash=sha256:aa --hash=sha256:bb  six '),
      'numpy==1 --hash=sha256:aa --hash=sha256:bb\nsix\n',
    );
    assert.equal(debianPackage('Foo_Bar'), 'python3-foo-bar');
    assert.equal(debianPackage('python3-yaml'), 'python3-yaml');
    assert.throws(() => debianPackage('numpy==1.2'), /NOX_PYTHON_INDEX/);
    assert.throws(() => debianPackage('-oX=y'), /Debian has one version/);
  });
});

test('the original system’s unit tells its address and its settings', () => {
  const unit = `[Service]
Environment="NOX_SANDBOX=/srv/box" OTHER=1
Environment=NOX_TIMEOUT=5
ExecStart=/home/nox/nox/.venv/bin/python3 -m uvicorn nox_api:app \\
  --host 0.0.0.0 --port 9090
`;
  writeFileSync(at('/etc/systemd/system/nox-api.service'), unit);
  assert.deepEqual(inheritedSettings(machine), {
    NOX_SANDBOX: '/srv/box',
    NOX_TIMEOUT: '5',
    NOX_BIND_ADDR: '0.0.0.0',
    NOX_PORT: '9090',
  });
  writeFileSync(at('/etc/systemd/system/nox-api.service'), unit.replace('--port 9090', '--port ${NOX_PORT}'));
  assert.equal(inheritedSettings(machine)['NOX_PORT'], undefined);
  assert.match(timestamp(NOW), /^\d{14}$/);

  const old = 'NOX_API_TOKEN=abc\nNOX_PYTHON=/home/nox/nox/.venv/bin/python3\n';
  assert.deepEqual(parseSettings(withoutOldPython(old)), { NOX_API_TOKEN: 'abc' });
  assert.equal(withoutOldPython('NOX_PYTHON=/usr/bin/python3\n'), 'NOX_PYTHON=/usr/bin/python3\n');
});
