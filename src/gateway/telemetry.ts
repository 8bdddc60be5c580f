/** Metrics and traces of one gateway, put together from its settings. */
import { once } from 'node:events';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import type { AuditFile } from './audit-file.ts';
import { listenForMetrics } from './metrics-listener.ts';
import { Metrics, type MetricsSources } from './metrics.ts';
import { Tracer } from './trace.ts';

export interface Telemetry {
  readonly metrics: Metrics;
  readonly tracer: Tracer | undefined;
  /** Sends the last spans; call it when no request is left. */
  close(): Promise<void>;
}

/** @throws Error with the remedy, where NOX_METRICS_ADDR cannot be had */
export async function startTelemetry(
  config: Pick<Config, 'metricsAddress' | 'otlpEndpoint'>,
  audit: AuditFile | undefined,
  runnerStatus: MetricsSources['runnerStatus'],
  log: Logger,
): Promise<Telemetry> {
  const tracer = config.otlpEndpoint === '' ? undefined : new Tracer(config.otlpEndpoint, log);
  const metrics = new Metrics({
    runnerStatus,
    audit: audit === undefined ? undefined : () => audit.state,
    traces: tracer === undefined ? undefined : () => tracer.state,
  });
  const server =
    config.metricsAddress === '' ? undefined : await listenForMetrics(metrics, config.metricsAddress);
  if (server !== undefined) log.info({ metrics: server.address() }, 'metrics');
  return {
    ...{ metrics, tracer },
    close: async () => {
      metrics.close();
      await tracer?.close();
      if (server === undefined) return;
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
