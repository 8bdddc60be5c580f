/** The machine itself: that it offers what the other tests in here, and an installed Nox, take for granted. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { boot, MachineError, SUITES } from './machine.ts';

// linux/sched.h, and x86_64's numbers of unshare(2) and mount(2).
const CLONE_NEWNS = 0x20000;
const SYS_UNSHARE = 272;
const SYS_MOUNT = 165;

const suites = (process.env['VM_SUITES'] ?? 'bookworm').split(',').map((name) => {
  const suite = SUITES.find((known) => known === name);
  if (suite === undefined) throw new Error(`VM_SUITES: ${name} is none of ${SUITES.join(', ')}`);
  return suite;
});

for (const suite of suites) {
  test(`Debian ${suite}`, { timeout: 1_800_000 }, async (t) => {
    const m = await boot({ suite, disks: [64] });
    t.after(() => m.stop());
    t.diagnostic(`booted in ${m.bootSeconds.toFixed(1)} s`);
    await m.succeed('useradd --system --shell /usr/sbin/nologin nox-runner');

    await t.test('runs systemd, with nothing failed', async () => {
      assert.equal((await m.succeed('systemctl is-system-running')).trim(), 'running');
      assert.match(await m.succeed('cat /etc/os-release'), new RegExp(`VERSION_CODENAME=${suite}`));
    });

    await t.test('reports a command as it ended', async () => {
      assert.equal(await m.succeed('cat', { stdin: 'zwölf\n' }), 'zwölf\n');
      assert.equal((await m.fail('echo no >&2; exit 7')).code, 7);
      assert.equal((await m.fail('kill -9 $$')).code, -9);
      assert.equal((await m.execute('sleep 60', { seconds: 1 })).timedOut, true);
      await assert.rejects(m.succeed('echo why >&2; false'), (error) => {
        assert.ok(error instanceof MachineError);
        assert.match(error.message, /ended with 1: echo why.*\n.*\nstderr: why\n[^]*console/);
        return true;
      });
      await m.succeed('sleep 1000 & echo a daemon does not hold the answer', { seconds: 20 });
      assert.equal((await m.succeed('head -c 3000000 /dev/zero | tr "\\0" x')).length, 3_000_000);
      assert.deepEqual(await Promise.all([m.succeed('sleep 2; echo a'), m.succeed('echo b')]), [
        'a\n',
        'b\n',
      ]);
    });

    await t.test('has the tree, its Node, and the extra disk', async () => {
      await m.succeed('test -f /opt/nox-src/package.json');
      assert.match(await m.succeed('/opt/nox-src/node_modules/node/bin/node -p "6 * 7"'), /^42$/m);
      await m.fail('touch /opt/nox-src/new');
      await m.succeed('mkfs.ext4 -q /dev/disk/by-id/virtio-extra0');
    });

    await t.test('has cgroup v2 alone, with the controllers that limits need', async () => {
      assert.equal((await m.succeed('stat -f -c %T /sys/fs/cgroup')).trim(), 'cgroup2fs');
      const controllers = (await m.succeed('cat /sys/fs/cgroup/cgroup.controllers')).split(/\s+/);
      for (const name of ['memory', 'pids', 'cpu']) assert.ok(controllers.includes(name), name);
    });

    await t.test(
      'lets an unprivileged unit limit the memory of a child in its delegated cgroup',
      async () => {
        await m.write(
          '/usr/local/bin/hog',
          // The unit's own process must leave the top of the subtree before controllers can be enabled for children.
          `#!/bin/bash
set -eu
cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir main run
echo $$ >main/cgroup.procs
echo '+memory +pids' >cgroup.subtree_control
echo 67108864 >run/memory.max
echo 1 >run/memory.oom.group
(echo $BASHPID >run/cgroup.procs; exec python3 -c 'x = bytearray(1 << 20) * 256') || echo "ended with $?"
cat run/memory.events
`,
          '755',
        );
        const out = await m.succeed(
          'systemd-run --quiet --wait --pipe --uid=nox-runner -p Delegate=yes /usr/local/bin/hog',
        );
        assert.match(out, /^ended with 137$/m);
        // The kernel counts the victim of a group kill twice.
        assert.match(out, /^oom_kill [1-9]/m);
        assert.match(out, /^oom_group_kill 1$/m);
      },
    );

    await t.test('lets an unprivileged unit nest namespaces in a bubblewrap sandbox', async () => {
      const program = [
        `syscall(${SYS_UNSHARE}, ${CLONE_NEWNS}) == 0 or die "unshare: $!"`,
        `my ($type, $dir, $none) = ("tmpfs", "/mnt", "")`,
        `syscall(${SYS_MOUNT}, $type, $dir, $type, 0, $none) == 0 or die "mount: $!"`,
        `open(my $f, "<", "/proc/self/mountinfo")`,
        `print scalar(grep { m{ /mnt .* - tmpfs } } <$f>), " $<\\n"`,
      ].join('; ');
      await m.write('/usr/local/lib/nest.pl', program);
      const out = await m.succeed(
        `systemd-run --quiet --wait --pipe --uid=nox-runner -p NoNewPrivileges=yes ` +
          `bwrap --unshare-all --cap-add CAP_SYS_ADMIN --uid 1000 --gid 1000 --ro-bind / / --proc /proc --dev /dev ` +
          `--die-with-parent perl /usr/local/lib/nest.pl`,
      );
      assert.equal(out, '1 1000\n');
    });

    await t.test('loses at a power cut what was not on the disk, and keeps what was', async () => {
      await m.succeed('echo kept >/root/kept && sync && echo lost >/root/lost');
      const before = await m.succeed('cat /proc/sys/kernel/random/boot_id');
      await m.powerCut();
      await assert.rejects(m.execute('true'), /the machine is off/);
      await m.start();
      assert.notEqual(await m.succeed('cat /proc/sys/kernel/random/boot_id'), before);
      assert.equal(await m.succeed('cat /root/kept'), 'kept\n');
      await m.fail('grep lost /root/lost');
    });

    await t.test('reboots, and keeps everything', async () => {
      await m.succeed('echo kept >/root/rebooted');
      await m.reboot();
      assert.equal(await m.succeed('cat /root/rebooted'), 'kept\n');
      await m.waitForUnit('multi-user.target');
      await assert.rejects(m.waitForUnit('no-such.service', 1), /is inactive, not active/);
    });
  });
}
