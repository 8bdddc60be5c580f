/**
 * Whose request it is: the TCP peer's address, or what a trusted proxy says in X-Forwarded-For.
 *
 * Fastify walks the header from its end, as long as each hop is trusted; the strings in it may be anything. Its own
 * notion of an address is lax (`127.1`, `0x7f000001`), so trust is decided here, on what node:net calls an address.
 */
import { BlockList, isIP } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { parseBlock } from '../addresses.ts';

/** @returns Fastify's `trustProxy` for addresses and blocks that the settings have checked */
export function trustOf(blocks: readonly string[]): false | ((address: string) => boolean) {
  if (blocks.length === 0) return false;
  const trusted = new BlockList();
  for (const text of blocks) {
    const block = parseBlock(text);
    if (block === undefined) throw new Error(`trusted proxy: ${JSON.stringify(text)} is no address or block`);
    trusted.addSubnet(block.address, block.prefix, block.family);
  }
  return (address) => isPlain(address) && trusted.check(address, isIP(address) === 4 ? 'ipv4' : 'ipv6');
}

/** The nearest address that can be believed; an IPv4 address is written as one, also on an IPv6 socket. */
export function clientAddress(request: FastifyRequest): string {
  const address = request.ips?.findLast(isPlain) ?? request.ip;
  return /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address;
}

/** A zone (`fe80::1%…`) is free text of the sender's. */
function isPlain(address: string): boolean {
  return isIP(address) !== 0 && !address.includes('%');
}
