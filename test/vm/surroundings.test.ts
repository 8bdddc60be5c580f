/** What stands around Nox on a server: reverse proxies, firewall, log rotation, all of Debian's own under systemd. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noxctl, SLOW, start, works } from './nox.ts';

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
    const lines = async () => Number(await m.succeed('cat /home/nox/nox/logs/audit.log* | wc -l'));
    const before = await lines();
    await m.succeed(
      'mv /etc/logrotate.d/nox /root/ && sed s/weekly/size\\ 1/ /root/nox >/etc/logrotate.d/nox',
    );
    await works(m);
    await m.succeed('systemctl start logrotate.service');
    await works(m);
    assert.equal(await lines(), before + 2);
    assert.match(await m.succeed('noxctl audit verify'), /^PASS/);
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
