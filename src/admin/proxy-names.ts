/** What may stand in a proxy's configuration: checked so strictly that nothing needs quoting. */
import { isIP } from 'node:net';

// RFC 1123, lower or upper case; names in other scripts are given as they are in the DNS (xn--…).
const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?';
const NAME = new RegExp(`^${LABEL}(?:\\.${LABEL})*$`);
const FILE = /^(\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._@+-]+)+$/;
/** Names for which no public authority signs (RFC 2606, 6761, 6762, 8375, and what routers use). */
const PRIVATE =
  /(^|\.)(localhost|local|localdomain|lan|home|internal|intranet|corp|test|example|invalid|arpa)$/i;

/** A public name. */
export function checkDomain(text: string): string {
  const fault = nameFault(text);
  if (fault !== undefined) throw bad('--domain', text, fault, 'give a name such as nox.example.org');
  if (isIP(text) !== 0 || /^[\d.]+$/.test(text))
    throw bad('--domain', text, 'is an address', 'use --lan for it');
  if (!text.includes('.') || PRIVATE.test(text))
    throw bad('--domain', text, 'is no public name', 'use --lan for it');
  return text.toLowerCase();
}

/** A name or address of the own network. */
export function checkName(text: string): string {
  const version = isIP(text);
  if (version !== 0 && !text.includes('%')) return text.toLowerCase();
  const fault = /^[\d.]+$/.test(text) ? 'is no address' : nameFault(text);
  if (fault !== undefined)
    throw bad('--lan', text, fault, 'give a name such as nox.lan or an address such as 192.168.1.5');
  return text.toLowerCase();
}

function nameFault(text: string): string | undefined {
  if (text.length > 253) return 'is longer than 253 characters';
  return NAME.test(text) ? undefined : 'is no host name';
}

/** `host:port`; the host of an IPv6 address in brackets. */
export function checkAddress(text: string): string {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^[\]:]+)):(\d{1,5})$/.exec(text);
  const [, v6, name = '', port] = match ?? [];
  const good =
    v6 === undefined ? isIP(name) === 4 || (NAME.test(name) && !/^[\d.]+$/.test(name)) : isIP(v6) === 6;
  if (match === null || !good || Number(port) < 1 || Number(port) > 65_535)
    throw bad('--upstream', text, 'is no address and port', 'give it as 127.0.0.1:8080 or [::1]:8080');
  return text;
}

export function checkFile(option: string, text: string): string {
  if (text.length > 4095 || !FILE.test(text)) {
    const remedy = 'give an absolute path of letters, digits and . _ @ + -';
    throw bad(option, text, 'cannot stand in a configuration', remedy);
  }
  return text;
}

export function checkPort(port: number): number {
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw bad('--port', String(port), 'is no port', 'give a number from 1 to 65535');
  return port;
}

function bad(option: string, text: string, fault: string, remedy: string): Error {
  return new Error(`${option}: ${JSON.stringify(text.slice(0, 300))} ${fault}; ${remedy}`);
}
