/**
 * Where a webhook may go: never to this machine or its network, whatever its name resolves to, now or later. A name is
 * resolved once, every address is checked, and the connection goes to exactly the one that was checked.
 */
import { lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';
import { parseBlock } from '../../addresses.ts';
import { NoxError } from '../../protocol/errors.ts';

/** Not of the public network (IANA's special-purpose registries of IPv4 and IPv6), and what embeds IPv4 in IPv6. */
const REFUSED = [
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12'],
  ...['192.0.0.0/24', '192.0.2.0/24', '192.31.196.0/24', '192.52.193.0/24', '192.88.99.0/24'],
  ...['192.168.0.0/16', '192.175.48.0/24', '198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24'],
  ...['224.0.0.0/4', '240.0.0.0/4'],
  // Of IPv6 what is not in 2000::/3, and of that the special parts: Teredo, 6to4, documentation.
  ...['::/3', '4000::/2', '8000::/1', '2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'],
];

export interface Target {
  readonly url: URL;
  readonly address: string;
  readonly family: 4 | 6;
}

export type Resolve = (name: string) => Promise<readonly { address: string; family: number }[]>;

export class WebhookTargets {
  readonly #refused = new Blocks(REFUSED);
  readonly #allowed: Blocks;
  readonly #resolve: Resolve;

  /** @param allowed blocks that are allowed all the same (NOX_WEBHOOK_ALLOW) */
  constructor(allowed: readonly string[], resolve: Resolve = (name) => lookup(name, { all: true })) {
    this.#allowed = new Blocks(allowed);
    this.#resolve = resolve;
  }

  /** What can be said without asking for the name. @throws NoxError `invalid_request` */
  check(text: string): URL {
    const url = URL.parse(text);
    if (url === null || !['http:', 'https:'].includes(url.protocol))
      throw refusal('is no http or https address');
    if (url.username !== '' || url.password !== '') throw refusal('must have no user and no password');
    const port = url.port === '' ? 443 : Number(url.port);
    if (![80, 443].includes(port) && port < 1024) throw refusal('a port is 80, 443, or 1024 and more');
    const host = hostOf(url);
    if (isIP(host) !== 0) this.#require(host);
    return url;
  }

  /** @throws NoxError, or the resolver's error */
  async resolve(text: string): Promise<Target> {
    const url = this.check(text);
    const host = hostOf(url);
    const found = isIP(host) === 0 ? await this.#resolve(host) : [{ address: host, family: isIP(host) }];
    for (const { address } of found) this.#require(address);
    const [first] = found;
    if (first === undefined) throw refusal('its name has no address');
    return { url, address: first.address, family: isIP(first.address) === 6 ? 6 : 4 };
  }

  #require(address: string): void {
    // One with a zone is of this network.
    const known = isIP(address) !== 0 && !address.includes('%');
    if (known && this.#allowed.has(address)) return;
    if (!known || this.#refused.has(address))
      throw refusal(`leads to ${address}, which is not of the public network (NOX_WEBHOOK_ALLOW)`);
  }
}

const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, '');

function refusal(why: string): NoxError {
  return new NoxError('invalid_request', `webhook.url: ${why}`);
}

/** Each family by itself: a BlockList takes every IPv4 address for one of `::ffff:0:0/96` as well. */
class Blocks {
  readonly #lists = { ipv4: new BlockList(), ipv6: new BlockList() };

  constructor(blocks: readonly string[]) {
    for (const each of blocks) {
      const block = parseBlock(each);
      if (block === undefined) throw new Error(`${each} is no block of addresses`);
      this.#lists[block.family].addSubnet(block.address, block.prefix, block.family);
    }
  }

  has(address: string): boolean {
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
    return this.#lists[family].check(address, family);
  }
}
