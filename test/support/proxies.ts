/** Real proxies for the tests: Debian's programs with the generated configuration, on loopback only. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { proxyText } from '../../src/admin/proxy.ts';
import type { Config } from '../../src/config.ts';
import { exec, tool, toolEnvironment, until } from './tools.ts';

export interface Proxy {
  readonly port: number;
  readonly httpPort: number;
  /** The authority to trust. */
  readonly ca: Buffer;
  log(): string;
  stop(): Promise<void>;
}

export const HOST = 'nox.test-lan.net';

export interface ProxySetup {
  readonly kind: 'caddy' | 'nginx';
  /** Caddy makes its own authority. */
  readonly internal?: boolean;
  readonly isPublic?: boolean;
  readonly upstream: string;
  readonly config: Config;
  readonly edit?: (text: string) => string;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

export async function startProxy(setup: ProxySetup): Promise<Proxy> {
  const dir = await mkdtemp(join(tmpdir(), 'nox-proxy-'));
  await chmod(dir, 0o755);
  const files = { cert: join(dir, 'nox.crt'), key: join(dir, 'nox.key') };
  const subject = ['-subj', `/CN=${HOST}`, '-addext', `subjectAltName=DNS:${HOST},IP:127.0.0.1`];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  await exec('openssl', ['req', '-x509', ...curve, ...subject, '-keyout', files.key, '-out', files.cert]);
  const [port, httpPort] = [await freePort(), await freePort()];
  const text = proxyText(
    {
      kind: setup.kind,
      site: setup.isPublic === true ? { domain: HOST } : { lan: HOST },
      certificate: setup.internal === true ? undefined : files,
      upstream: setup.upstream,
      port,
      httpPort,
    },
    setup.config,
  );
  const edited = setup.edit?.(text) ?? text;
  const start = setup.kind === 'caddy' ? startCaddy : startNginx;
  const { child, log } = await start(dir, edited);
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      await once(child, 'exit');
    }
    await rm(dir, { recursive: true, force: true });
  };
  try {
    await until(`${setup.kind} listens\n${log()}`, () => {
      if (child.exitCode !== null) throw new Error(`${setup.kind} ended:\n${log()}`);
      return answers(port);
    });
    const authority = join(dir, 'caddy/pki/authorities/local/root.crt');
    const ca = await readFile(setup.internal === true ? authority : files.cert);
    return { port, httpPort, ca, log, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Whether it has its certificate too: caddy listens before it has made one. */
function answers(port: number): Promise<true | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', servername: HOST, rejectUnauthorized: false });
    socket.on('secureConnect', () => {
      resolve(true);
      socket.destroy();
    });
    socket.on('error', () => resolve(undefined));
  });
}

interface Started {
  readonly child: ChildProcess;
  readonly log: () => string;
}

function startChild(program: string, args: string[], env: NodeJS.ProcessEnv): Started {
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  const hear = (data: Buffer) => (log += data.toString());
  child.stdout.on('data', hear);
  child.stderr.on('data', hear);
  return { child, log: () => log };
}

async function startCaddy(dir: string, text: string): Promise<Started> {
  const file = join(dir, 'Caddyfile');
  // No control socket, no entry in the machine's list of authorities, loopback only.
  const test = text
    .replace('\n{\n', '\n{\n\tadmin off\n\tskip_install_trust\n')
    .replace('\n\ttls', '\n\tbind 127.0.0.1\n\ttls');
  await writeFile(file, test.replace('auto_https disable_redirects', ''));
  const env = { ...toolEnvironment(), HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir };
  const args = ['--config', file, '--adapter', 'caddyfile'];
  const program = tool('usr/bin/caddy');
  await exec(program, ['validate', ...args], { env });
  return startChild(program, ['run', ...args], env);
}

export async function startNginx(dir: string, text: string): Promise<Started> {
  await mkdir(join(dir, 'conf.d'));
  await mkdir(join(dir, 'tmp'));
  const test = text.replace(/listen \[::\].*\n/g, '').replace(/listen (\d+)/g, 'listen 127.0.0.1:$1');
  await writeFile(join(dir, 'conf.d/nox.conf'), test);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  const file = join(dir, 'nginx.conf');
  await writeFile(
    file,
    `${process.getuid?.() === 0 ? 'user nobody nogroup;\n' : ''}worker_processes 1;
pid ${dir}/pid;
error_log stderr info;
daemon off;
events { worker_connections 256; }
http {
    access_log off;
    default_type application/octet-stream;
${temporary.map((name) => `    ${name}_temp_path ${dir}/tmp/${name};`).join('\n')}
    include ${dir}/conf.d/*.conf;
}
`,
  );
  const args = ['-p', dir, '-e', join(dir, 'error.log'), '-c', file];
  const program = tool('usr/sbin/nginx');
  await exec(program, ['-t', ...args], { env: toolEnvironment() });
  return startChild(program, args, toolEnvironment());
}
