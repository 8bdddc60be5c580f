/**
 * Who may reach the gateway's port: an nftables table of its own.
 *
 * The table accepts; the one thing that it drops is traffic to the gateway's port from elsewhere than this machine and
 * the sources that were named. So it can neither open what another table closes nor cut anything else off, and to take
 * it away leaves the machine as it was.
 */
import { parseBlock } from '../addresses.ts';

export interface FirewallOptions {
  readonly port: number;
  /** Addresses and blocks besides this machine itself. */
  readonly allowed: readonly string[];
  /** The ports of sshd, from `sshPorts`. */
  readonly sshPorts: readonly number[];
}

/** Where the ruleset is kept. */
export const FIREWALL_FILE = '/etc/nox-firewall.nft';

/**
 * The ports on which sshd listens: by its own settings, by what listens now, and 22 in any case.
 *
 * @param sshdSettings the output of `sshd -T`, or nothing
 * @param listening the output of `ss -Hltnp`, or nothing; a socket of systemd's for sshd is held by process 1
 */
export function sshPorts(sshdSettings: string, listening: string): number[] {
  const ports = new Set([22]);
  for (const [, port] of sshdSettings.matchAll(/^(?:port|listenaddress .*[:\]]:?)\s*(\d+)$/gim))
    ports.add(Number(port));
  for (const line of listening.split('\n')) {
    const [, port] = /^\S+\s+\d+\s+\d+\s+\S+:(\d+)\s/.exec(line) ?? [];
    if (port !== undefined && /"(sshd|sshd-session|dropbear|systemd)"/.test(line)) ports.add(Number(port));
  }
  return [...ports];
}

/** @throws Error naming the value that cannot be used, and the remedy */
export function firewallText({ port, allowed, sshPorts: ssh }: FirewallOptions): string {
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Error(`firewall: ${port} is no port; set NOX_PORT to one from 1 to 65535`);
  if (port === 22 || ssh.includes(port)) {
    throw new Error(
      `firewall: refused: sshd listens on port ${port}, and a rule for it could lock you out; set NOX_PORT to another port`,
    );
  }
  const blocks = allowed.map((text) => {
    const block = parseBlock(text);
    if (block === undefined) {
      throw new Error(
        `firewall: ${JSON.stringify(text.slice(0, 100))} is no address or block; give one such as 192.168.1.0/24`,
      );
    }
    return block;
  });
  const set = (family: 'ipv4' | 'ipv6') => {
    const elements = blocks.filter((block) => block.family === family);
    const list = elements.map(({ address, prefix }) => `${address}/${prefix}`).join(', ');
    return `    set allowed_${family} {
        type ${family}_addr
        flags interval
        auto-merge${list === '' ? '' : `\n        elements = { ${list} }`}
    }`;
  };
  return `#!/usr/sbin/nft -f
# Nox: who may reach port ${port}. One transaction: the old table is in force until the new one is.
add table inet nox
delete table inet nox
table inet nox {
${set('ipv4')}
${set('ipv6')}
    chain input {
        type filter hook input priority filter; policy accept;
        iif "lo" accept
        tcp dport ${port} ip saddr @allowed_ipv4 accept
        tcp dport ${port} ip6 saddr @allowed_ipv6 accept
        tcp dport ${port} counter drop
    }
}
`;
}

/** The same rules for another port. */
export function withPort(text: string, port: number): string {
  return text.replaceAll(/\b(tcp dport|who may reach port) \d+/g, `$1 ${String(port)}`);
}

/** Loads the ruleset at boot, before there is a network, and again whenever nftables.service has flushed all tables. */
export function firewallUnit(file = FIREWALL_FILE): string {
  return `[Unit]
Description=Nox firewall
Documentation=man:nft(8)
ConditionPathExists=${file}
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
After=local-fs.target nftables.service
# Debian's nftables.service begins with "flush ruleset", at its start and at each reload.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f ${file}
ExecReload=/usr/sbin/nft -f ${file}
ExecStop=/usr/sbin/nft "add table inet nox; delete table inet nox"
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=true
ProtectSystem=strict
ProtectHome=true
PrivateDevices=true
ProtectControlGroups=true
ProtectKernelLogs=true
ProtectClock=true
RestrictAddressFamilies=AF_NETLINK AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
LockPersonality=true
MemoryDenyWriteExecute=true

[Install]
WantedBy=sysinit.target
`;
}
