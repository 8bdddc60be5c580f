/** A Nox that is laid out on a machine as an installation leaves it, by plain commands: for tests of the units alone. */
import { makeUnits, type UnitSettings } from '../../src/admin/units.ts';
import type { Machine } from './machine.ts';

export const TOKEN = 'a-token-for-the-machine';
export const UNIT_SETTINGS: UnitSettings = { bindAddress: '127.0.0.1', stopGraceSeconds: 60 };

const SETTINGS = {
  NOX_API_TOKEN: TOKEN,
  // Emulation is ten times slower than a machine.
  NOX_TIMEOUT: '200',
  NOX_MAX_CPU: '60',
  NOX_STOP_GRACE: String(UNIT_SETTINGS.stopGraceSeconds),
  NOX_SLOTS: '2',
};

const COMMANDS = `
useradd --system --user-group --home-dir /home/nox/nox --shell /usr/sbin/nologin nox
useradd --system --gid nox --home-dir /nonexistent --shell /usr/sbin/nologin nox-runner
install -d -m 755 -o nox -g nox /home/nox /home/nox/nox
install -d -m 2775 -o nox -g nox /home/nox/nox/sandbox
install -d -m 2750 -o nox -g nox /home/nox/nox/logs
release=/opt/nox/releases/test
mkdir -p $release/bin
cp -r /opt/nox-src/dist /opt/nox-src/deploy /opt/nox-src/package.json $release/
cp /opt/nox-src/node_modules/node/bin/node $release/bin/
# As large as all the rest, and read from there as well.
ln -s /opt/nox-src/node_modules $release/node_modules
ln -s releases/test /opt/nox/current
python3 -m venv --without-pip /opt/nox/.venv
chown -Rh nox:nox /opt/nox/.venv
`;

/** Everything but starting it. */
export async function layOut(m: Machine, settings: Readonly<Record<string, string>> = {}): Promise<void> {
  await m.succeed(COMMANDS, { seconds: 600 });
  await writeSettings(m, settings);
  await writeUnits(m, UNIT_SETTINGS);
}

export async function writeSettings(m: Machine, settings: Readonly<Record<string, string>>): Promise<void> {
  const lines = Object.entries({ ...SETTINGS, ...settings }).map(([name, value]) => `${name}=${value}\n`);
  await m.write('/etc/default/nox-api', lines.join(''), '600');
}

export async function writeUnits(m: Machine, settings: UnitSettings): Promise<void> {
  for (const [name, text] of Object.entries(makeUnits(settings)))
    await m.write(`/etc/systemd/system/${name}`, text);
  await m.succeed('systemctl daemon-reload');
}
