/** The gateway's unit lets packets of other machines through only where a setting names one. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeUnits } from '../../src/admin/units.ts';

const SETTINGS = {
  ...{ bindAddress: '127.0.0.1', metricsAddress: '', otlpEndpoint: '' },
  webhookAllow: undefined as readonly string[] | undefined,
  ...{ sandbox: '/home/nox/nox/sandbox', workspaces: '/var/lib/nox-runner/workspaces', stopGraceSeconds: 30 },
};
const gateway = (more: Partial<typeof SETTINGS>): string =>
  makeUnits({ ...SETTINGS, ...more })['nox-api.service'];

for (const near of [
  {},
  { metricsAddress: '127.0.0.1:9464', otlpEndpoint: 'http://127.0.0.1:4318/v1/traces' },
  { metricsAddress: '[::1]:9464', otlpEndpoint: 'http://[::1]:4318/' },
  { metricsAddress: 'localhost:9464', otlpEndpoint: 'http://localhost/' },
])
  test(`this machine alone: ${JSON.stringify(near)}`, () => {
    assert.match(gateway(near), /^IPAddressDeny=any\nIPAddressAllow=localhost$/m);
  });

for (const [far, named] of [
  [{ bindAddress: '0.0.0.0' }, 'NOX_BIND_ADDR=0.0.0.0'],
  [{ metricsAddress: '10.0.0.5:9464' }, 'NOX_METRICS_ADDR=10.0.0.5'],
  [{ otlpEndpoint: 'https://collector.lan/v1/traces' }, 'NOX_OTLP_ENDPOINT=collector.lan'],
  [{ webhookAllow: [] }, 'NOX_WEBHOOK=on'],
] as const)
  test(`another machine: ${named}`, () => {
    const unit = gateway(far);
    assert.doesNotMatch(unit, /^IPAddressDeny=/m);
    assert(unit.includes(`# IPAddressDeny= is missing: ${named}:`));
  });
