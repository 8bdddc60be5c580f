/** What stands around Nox on a server: reverse proxies, firewall, log rotation, all of Debian's own under systemd. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noxctl, python, SLOW, start, works } from './nox.ts';

const HOURS = 3_600_000;
const NAME = 'nox.test-lan.net';
const UPLOAD = 64 << 20;

test('the surroundings of an installed machine', { timeout: 4 * HOURS }, async (t) => {
  const m = await start();
  t.after(() => m.stop());
  await m.succeed(
    'install -m 600 /dev/null /etc/default/nox-api; echo NOX_TRUSTED_PROXY=127.0.0.1 >/etc/default/nox-api',
  );
  await m.succeed(noxctl('install'), SLOW);
  await works(m);
  await m.succeed(
    `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=${NAME} -addext subjectAltName=DNS:${NAME} -keyout /etc/ssl/private/nox.key -out /etc/ssl/nox.crt`,
  );
  await m.succeed(
    'chgrp caddy /etc/ssl/private /etc/ssl/private/nox.key && chmod 750 /etc/ssl/private && chmod 640 /etc/ssl/private/nox.key',
  );
  const given = `--domain ${NAME} --cert /etc/ssl/nox.crt --key /etc/ssl/private/nox.key`;

  for (const { kind, write } of [
    {
      kind: 'nginx',
      write: `/opt/nox/bin/noxctl proxy nginx ${given} >/etc/nginx/conf.d/nox.conf && rm -f /etc/nginx/sites-enabled/default && nginx -t`,
    },
    {
      kind: 'caddy',
      write: `/opt/nox/bin/noxctl proxy caddy ${given} >/etc/caddy/Caddyfile && caddy validate --config /etc/caddy/Caddyfile`,
    },
  ]) {
    await t.test(`${kind} passes every call, a large upload, a large answer`, async () => {
      await m.succeed(write);
      await m.succeed(`systemctl start ${kind}`);
      await m.waitForUnit(kind);
      const call = (words: string, stdin?: string) =>
        m.succeed(
          `. /etc/default/nox-api; curl -sS --cacert /etc/ssl/nox.crt --resolve ${NAME}:443:127.0.0.1 -H "Authorization: Bearer $NOX_API_TOKEN" ${words}`,
          { seconds: 600, ...(stdin === undefined ? {} : { stdin }) },
        );
      const url = `https://${NAME}`;
      assert.equal(await call(`${url}/health`), '{"status":"ok"}');
      const run = (code: string) => call(`--data-binary @- ${url}/run_py`, JSON.stringify({ code }));
      assert.match(await run('print(6 * 7)'), /"stdout":"42\\n"/);
      assert.match(await call(`--data-binary @- ${url}/run_sh`, '{"cmd":["echo","hi"]}'), /"stdout":"hi\\n"/);
      await m.succeed(`head -c ${String(UPLOAD)} /dev/urandom >/root/big`);
      await call(`-F f=@/root/big '${url}/put?path=big-${kind}'`);
      await m.succeed(`cmp /root/big /home/nox/nox/sandbox/big-${kind}`);
      const answer = JSON.parse(await run('print("x" * 9_000_000)')) as { stdout: string };
      assert.equal(answer.stdout.length, 9_000_001);
      const head = await call(`-D - -o /dev/null ${url}/health`);
      assert.match(head, /^x-content-type-options: nosniff/im);
      assert.match(
        await m.succeed(
          `curl -sS -o /dev/null -w '%{http_code} %{redirect_url}' -H 'Host: ${NAME}' http://127.0.0.1/health`,
        ),
        new RegExp(`^308 https://${NAME.replaceAll('.', '\\.')}/health`),
      );
      assert.match(
        await m.succeed(
          `curl -sS -k --resolve ${NAME}:443:127.0.0.1 -d '{"code":""}' ${url}/run_py -w '%{http_code}'`,
        ),
        /401$/,
      );
      await m.succeed(`systemctl stop ${kind}`);
    });
  }

  await t.test(
    'packages for the runs come from a directory of wheels, and only with the right hash',
    async () => {
      await m.succeed('python3 -', { stdin: MAKE_WHEEL });
      const hash = (await m.succeed('sha256sum /opt/wheels/*.whl')).slice(0, 64);
      const settings = await m.succeed('cat /etc/default/nox-api');
      const want = (digest: string) =>
        m.write(
          '/etc/default/nox-api',
          `${settings}NOX_PYTHON_INDEX=/opt/wheels\nNOX_PYTHON_PACKAGES="tiny==1.0 --hash=sha256:${digest}"\n`,
          '600',
        );
      await want('0'.repeat(64));
      const refused = await m.fail('/opt/nox/bin/noxctl install', SLOW);
      assert.match(refused.stderr, /HASHES[^]*everything is as it was before/);
      await works(m);
      await want(hash);
      await m.succeed('/opt/nox/bin/noxctl install', SLOW);
      assert.equal((await python(m, 'import tiny; print(tiny.ANSWER)')).stdout, '42\n');
      await m.write('/etc/default/nox-api', settings, '600');
      await m.succeed('/opt/nox/bin/noxctl install', SLOW);
      assert.match((await python(m, 'import tiny')).stderr, /No module named 'tiny'/);
    },
  );

  await t.test('the firewall is shown, then applied, stays over a reboot, and leaves SSH alone', async () => {
    // An address of the machine's own network, and one beyond it.
    await m.succeed(NETWORK);
    const reach = (from: string, port: number) =>
      m.execute(
        `ip netns exec ${from} timeout 5 bash -c '</dev/tcp/10.9.${from === 'near' ? '1' : '2'}.1/${String(port)}'`,
      );
    await m.succeed("sed -i '$aNOX_BIND_ADDR=0.0.0.0' /etc/default/nox-api");
    await m.succeed(noxctl('install'), { seconds: 1800 });
    await works(m);
    assert.equal((await reach('far', 8080)).code, 0);
    const shown = await m.succeed('/opt/nox/bin/noxctl firewall 10.9.1.0/24', SLOW);
    assert.match(shown, /not applied; to do so: noxctl firewall 10\.9\.1\.0\/24 --apply/);
    assert.equal((await m.succeed('nft list tables')).trim(), '');
    await m.succeed('/opt/nox/bin/noxctl firewall 10.9.1.0/24 --apply', SLOW);

    const inForce = async () => {
      assert.equal((await reach('near', 8080)).code, 0);
      assert.notEqual((await reach('far', 8080)).code, 0);
      for (const from of ['near', 'far']) assert.equal((await reach(from, 22)).code, 0, from);
    };
    await inForce();
    await m.reboot();
    await works(m);
    await m.succeed(NETWORK);
    await inForce();
    await m.succeed('systemctl disable --now --quiet nox-firewall');
    assert.equal((await reach('far', 8080)).code, 0);
  });

  await t.test('logrotate, as its own timer starts it: no line is lost, nothing is restarted', async () => {
    const started = await m.succeed('systemctl show -P ExecMainStartTimestamp nox-api nox-runner');
    const lines = async () =>
      Number(
        await m.succeed(
          'cat /home/nox/nox/logs/audit.log /home/nox/nox/logs/audit.log.1 2>/dev/null | wc -l',
        ),
      );
    const before = await lines();
    await m.succeed(
      'mv /etc/logrotate.d/nox /root/ && sed s/weekly/size\\ 1/ /root/nox >/etc/logrotate.d/nox',
    );
    await works(m);
    await m.succeed('systemctl start logrotate.service');
    await works(m);
    assert.equal(await lines(), before + 2);
    await m.succeed('test -s /home/nox/nox/logs/audit.log.1 && test -s /home/nox/nox/logs/audit.log');
    assert.equal(await m.succeed('systemctl show -P ExecMainStartTimestamp nox-api nox-runner'), started);
  });
});

/** Two hosts beside this one, each on a wire of its own. */
const NETWORK = ['near', 'far']
  .map(
    (name, index) => `ip netns add ${name} && ip link add to-${name} type veth peer name eth0 netns ${name}
ip addr add 10.9.${String(index + 1)}.1/24 dev to-${name} && ip link set to-${name} up
ip -n ${name} addr add 10.9.${String(index + 1)}.2/24 dev eth0 && ip -n ${name} link set eth0 up`,
  )
  .join('\n');

const MAKE_WHEEL = `import os, zipfile
os.makedirs('/opt/wheels', exist_ok=True)
with zipfile.ZipFile('/opt/wheels/tiny-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('tiny.py', 'ANSWER = 42\n')
    info = 'tiny-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr(info + 'RECORD', 'tiny.py,,\n%sMETADATA,,\n%sWHEEL,,\n%sRECORD,,\n' % (info, info, info))
`;
