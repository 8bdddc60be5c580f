/** The proxies' configuration as text; what it does is in test/e2e/proxy.test.ts. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { proxyCommand } from '../../src/admin/proxy.ts';
import { NOT_REACHED, TOO_LARGE } from '../../src/admin/proxy-errors.ts';
import { parseConfig } from '../../src/config.ts';

const config = parseConfig('runner', {});
const run = (...args: string[]) => proxyCommand(args, config);
const LAN = ['--lan', 'nox.lan', '--cert', '/etc/nox.crt', '--key', '/etc/nox.key'];

describe('names that cannot be a host are refused, by name and with the remedy', () => {
  const EVIL = [
    ...[
      '',
      ' ',
      'a b',
      'a;b',
      'a{b',
      'a}',
      'a\nb',
      'a"b',
      "a'b",
      '$host',
      '{env.X}',
      'a/b',
      'a\\b',
      'a#b',
      'a:80',
    ],
    ...[
      '-a',
      'a-',
      '.a',
      'a..b',
      'a.',
      '*',
      '*.example.org',
      'é.example.org',
      'a\0b',
      'x'.repeat(64),
      'a_b',
      '1.2.3',
    ],
    ...[
      '[::1]',
      '::1%lo',
      '999.1.1.1',
      `${'a.'.repeat(130)}org`,
      'nox.example.org;}server{',
      'a`b',
      'a,b',
      '@a',
    ],
  ];
  for (const name of EVIL) {
    test(JSON.stringify(name.slice(0, 30)), () => {
      for (const kind of ['caddy', 'nginx']) {
        assert.throws(
          () => run(kind, `--lan=${name}`, '--cert=/c', '--key=/k'),
          /--lan: ".*; give a name such as/s,
        );
        assert.throws(() => run(kind, `--domain=${name}`), /--domain: ".*; (give a name|use --lan)/s);
      }
    });
  }

  test('property: whatever passes is letters, digits, dots, hyphens and colons, and stands in the text', () => {
    const near = fc.string({ unit: fc.constantFrom(...'aZ09.-:[]{};"\'$ \n\\#/'.split('')), maxLength: 12 });
    fc.assert(
      fc.property(near, fc.constantFrom('caddy', 'nginx'), (name, kind) => {
        let text: string;
        try {
          text = run(kind, `--lan=${name}`, '--cert=/c', '--key=/k');
        } catch {
          return;
        }
        assert.match(name, /^[A-Za-z0-9.:-]+$/);
        assert(text.includes(name.toLowerCase()));
      }),
      { numRuns: 2000 },
    );
  });
});

test('a private name or an address is no public domain', () => {
  for (const name of [
    'localhost',
    'nox',
    'nox.lan',
    'nox.local',
    'a.home.arpa',
    '192.168.1.5',
    '2001:db8::1',
  ])
    assert.throws(() => run('caddy', '--domain', name), /--domain: .*(use --lan|give a name)/);
});

for (const file of [
  'relative',
  '/a b',
  '/a;b',
  '/a{b}',
  '/a"',
  "/a'",
  '/a$b',
  '/a/../b',
  '/a\n',
  '',
  '/',
  '/a//b',
]) {
  test(`${JSON.stringify(file)} is no certificate file`, () => {
    for (const kind of ['caddy', 'nginx']) {
      assert.throws(
        () => run(kind, '--lan=nox.lan', `--cert=${file}`, '--key=/k'),
        /--cert: .*absolute path/,
      );
      assert.throws(() => run(kind, '--lan=nox.lan', '--cert=/c', `--key=${file}`), /--key: .*absolute path/);
    }
  });
}

for (const upstream of [
  '',
  'x',
  ':80',
  '127.0.0.1',
  '127.0.0.1:0',
  '127.0.0.1:65536',
  '::1:80',
  '[127.0.0.1]:80',
  '[::1]',
  'a b:80',
  'a:80;',
  'http://a:80',
  '1.2.3:80',
  'unix:/x',
]) {
  test(`${JSON.stringify(upstream)} is no upstream`, () => {
    assert.throws(
      () => run('caddy', '--lan=nox.lan', `--upstream=${upstream}`),
      /--upstream: .*give it as 127/,
    );
  });
}

describe('the command line', () => {
  for (const [args, message] of [
    [[], /name one of caddy and nginx/],
    [['apache', '--lan', 'a'], /name one of caddy and nginx/],
    [['caddy', 'nginx', '--lan', 'a'], /name one of caddy and nginx/],
    [['caddy'], /give one of --lan and --domain/],
    [['caddy', '--lan', 'a', '--domain', 'b.org'], /give one of --lan and --domain/],
    [['nginx', '--lan', 'a', '--cert', '/c'], /--cert and --key go together/],
    [['nginx', '--lan', 'a'], /needs --cert and --key/],
    [['caddy', '--lan', 'a', '--port', 'x'], /--port: "x" is no number/],
    [['caddy', '--lan', 'a', '--port', '0'], /--port: "0" is no port/],
    [['caddy', '--what'], /--what/],
  ] as const) {
    test(args.join(' ') || 'nothing', () => assert.throws(() => run(...args), message));
  }
});

describe('what the settings say is in the text', () => {
  const settings = {
    NOX_MAX_UPLOAD: '2G',
    NOX_TIMEOUT: '100',
    NOX_QUEUE_WAIT: '30.5',
    NOX_BIND_ADDR: '::',
    NOX_PORT: '81',
  };
  const other = parseConfig('runner', settings);
  for (const kind of ['caddy', 'nginx']) {
    test(`${kind}: body limit, timeout, address`, () => {
      const text = proxyCommand([kind, ...LAN], other);
      assert(text.includes(String(2 * 2 ** 30 + 128 * 1024)));
      assert(text.includes('191s'));
      assert(text.includes('[::1]:81'));
    });

    test(`${kind}: HSTS for a public domain only`, () => {
      assert.doesNotMatch(run(kind, ...LAN), /Strict-Transport-Security/);
      assert.match(run(kind, '--domain', 'Nox.Example.org'), /Strict-Transport-Security "?max-age=31536000"/);
    });
  }

  test('certbot’s files for nginx, Caddy’s own for Caddy', () => {
    assert.match(
      run('nginx', '--domain', 'nox.example.org'),
      /\/etc\/letsencrypt\/live\/nox\.example\.org\/privkey\.pem;/,
    );
    assert.doesNotMatch(run('caddy', '--domain', 'nox.example.org'), /internal|pem/);
    assert.match(run('caddy', '--lan', 'nox.lan'), /tls internal/);
  });

  test('the proxies’ own answers are JSON and need no quoting', () => {
    for (const text of [TOO_LARGE, NOT_REACHED]) {
      assert.doesNotMatch(text, /[\\'$]/);
      assert.deepEqual(Object.keys(JSON.parse(text) as object), ['detail', 'code', 'hint']);
    }
  });
});
