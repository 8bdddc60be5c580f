/** Addresses and blocks of addresses (CIDR), as settings and firewall rules name them. */
import { isIP } from 'node:net';

export interface AddressBlock {
  readonly address: string;
  readonly prefix: number;
  readonly family: 'ipv4' | 'ipv6';
}

/** @returns undefined for what is no address (no zone, no name) and no block; `/0` is everybody, which is no block */
export function parseBlock(text: string): AddressBlock | undefined {
  const [, address = '', digits] = /^([0-9A-Fa-f.:]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const version = isIP(address);
  if (version === 0) return undefined;
  const bits = version === 4 ? 32 : 128;
  const prefix = digits === undefined ? bits : Number(digits);
  if (prefix < 1 || prefix > bits) return undefined;
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' };
}

/** `host:port` at which a server bound to this address is reached from the machine itself. */
export function reachedAt(bindAddress: string, port: number): string {
  const own: Record<string, string> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
  const host = own[bindAddress] ?? bindAddress;
  return `${host.includes(':') ? `[${host}]` : host}:${String(port)}`;
}

/** Words between spaces of any number. */
export function words(text: string): string[] {
  return text.split(/\s+/).filter(Boolean);
}
