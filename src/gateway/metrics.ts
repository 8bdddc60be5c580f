/**
 * What /metrics says, in the text format of Prometheus (version 0.0.4). docs/operations.md lists each name.
 *
 * Every label has a closed set of values, whatever clients send: routes as they are declared, names of runtimes that
 * this server has, outcomes, error codes and limits as the protocol lists them; anything else is `other`.
 */
import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { isErrorCode } from '../protocol/errors.ts';
import { LIMIT_NAMES } from '../protocol/limits.ts';
import type { RunResult } from '../protocol/messages.ts';
import { OUTCOMES } from '../protocol/outcome.ts';
import type { RunnerStatus } from '../protocol/status.ts';
import type { AuditState } from './audit.ts';
import type { TracerState } from './trace.ts';

/** Where the values come from that others keep. */
export interface MetricsSources {
  /** undefined where the runner does not answer; asked once for each scrape */
  readonly runnerStatus?: (() => Promise<RunnerStatus | undefined>) | undefined;
  readonly audit?: (() => AuditState | undefined) | undefined;
  readonly traces?: (() => TracerState | undefined) | undefined;
}

const HTTP_BUCKETS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const RUN_BUCKETS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 300, 3600];
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);
const KNOWN_OUTCOMES: ReadonlySet<string> = new Set(OUTCOMES);
const KNOWN_LIMITS: ReadonlySet<string> = new Set(LIMIT_NAMES);
/** A runner that takes longer is down for this scrape. */
const STATUS_TIMEOUT_MS = 2000;
/** A finer one would wake an idle gateway more often. */
const LAG_RESOLUTION_MS = 100;

export class Metrics {
  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE;
  readonly #registry = new Registry();
  readonly #sources: MetricsSources;
  readonly #runtimes = new Set<string>(['python', 'command']);
  readonly #lag = monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS });
  #rendering: Promise<string> | undefined;
  #askRunner = (): Promise<void> => Promise.resolve();

  readonly #requests = this.#histogram(
    'nox_http_request_duration_seconds',
    'Time from the head of a request to the end of its answer',
    HTTP_BUCKETS,
    ['route', 'method', 'status'],
  );
  readonly #errors = this.#counter('nox_http_errors_total', 'Answers with an error, by its code', ['code']);
  readonly #inFlight = this.#gauge('nox_http_requests_in_flight', 'Requests whose answer has not ended');
  readonly #received = this.#counter('nox_http_received_bytes_total', 'Bytes of requests');
  readonly #sent = this.#counter('nox_http_sent_bytes_total', 'Bytes of answers');
  readonly #runs = this.#counter('nox_runs_total', 'Runs that ended, by outcome', ['runtime', 'outcome']);
  readonly #refused = this.#counter('nox_runs_refused_total', 'Runs that never began, by error code', [
    'code',
  ]);
  readonly #limits = this.#counter('nox_limits_fired_total', 'Runs that a limit ended', ['limit']);
  readonly #running = this.#gauge(
    'nox_runs_in_flight',
    'Runs that wait, are prepared or run, as the gateway sees them',
  );
  readonly #queueWait = this.#histogram(
    'nox_run_queue_seconds',
    'Time that a run waited for its slot',
    RUN_BUCKETS,
  );
  readonly #prepare = this.#histogram(
    'nox_run_prepare_seconds',
    'Time from the slot to the start of the program: its code placed, its sandbox had',
    RUN_BUCKETS,
  );
  readonly #wall = this.#histogram(
    'nox_run_wall_seconds',
    'Wall time of runs, waiting excluded',
    RUN_BUCKETS,
    ['runtime'],
  );
  readonly #cpu = this.#counter('nox_run_cpu_seconds_total', 'CPU time of runs');
  readonly #uploads = this.#counter('nox_uploads_total', 'Files that were uploaded, or were not', ['result']);
  readonly #uploadBytes = this.#counter('nox_upload_bytes_total', 'Bytes of files that were uploaded');

  constructor(sources: MetricsSources = {}) {
    this.#sources = sources;
    this.#lag.enable();
    this.#runnerGauges();
    this.#ownGauges();
    this.#processGauges();
    // From the start, so that a rate of them is right from the first one on.
    for (const outcome of OUTCOMES)
      for (const runtime of this.#runtimes) this.#runs.inc({ runtime, outcome }, 0);
    for (const limit of LIMIT_NAMES) this.#limits.inc({ limit }, 0);
  }

  /** Names that the label `runtime` may have besides `python`, `command` and `other`. */
  knowRuntimes(names: Iterable<string>): void {
    for (const name of names) this.#runtimes.add(name);
  }

  requestBegan(): void {
    this.#inFlight.inc();
  }

  /** @param route as it was declared, undefined for none */
  requestEnded(request: {
    readonly route: string | undefined;
    readonly method: string;
    readonly status: number;
    readonly seconds: number;
    readonly bytesIn: number;
    readonly bytesOut: number;
    readonly failure: string | undefined;
  }): void {
    const { route = 'none', method, status, seconds, bytesIn, bytesOut, failure } = request;
    this.#inFlight.dec();
    const labels = {
      route,
      method: METHODS.has(method) ? method : 'other',
      status: `${String(Math.trunc(status / 100))}xx`,
    };
    this.#requests.observe(labels, seconds);
    if (failure !== undefined) this.#errors.inc({ code: isErrorCode(failure) ? failure : 'other' });
    this.#received.inc(Math.max(0, bytesIn));
    this.#sent.inc(Math.max(0, bytesOut));
  }

  runBegan(): void {
    this.#running.inc();
  }

  runEnded(runtime: string, { outcome, limit, usage, timings }: RunResult): void {
    const name = this.#runtimes.has(runtime) ? runtime : 'other';
    this.#running.dec();
    this.#runs.inc({ runtime: name, outcome: KNOWN_OUTCOMES.has(outcome) ? outcome : 'other' });
    if (limit !== undefined) this.#limits.inc({ limit: KNOWN_LIMITS.has(limit.name) ? limit.name : 'other' });
    this.#wall.observe({ runtime: name }, usage.wallSeconds);
    this.#cpu.inc(usage.userSeconds + usage.systemSeconds);
    if (timings === undefined) return;
    this.#queueWait.observe(timings.queueSeconds);
    this.#prepare.observe(timings.prepareSeconds);
  }

  /** A run whose result nobody has heard: it was cancelled, or never began. */
  runFailed(runtime: string, code: string): void {
    this.#running.dec();
    const name = this.#runtimes.has(runtime) ? runtime : 'other';
    if (code === 'cancelled') this.#runs.inc({ runtime: name, outcome: 'cancelled' });
    else this.#refused.inc({ code: isErrorCode(code) ? code : 'other' });
  }

  uploadEnded(bytes: number | undefined): void {
    this.#uploads.inc({ result: bytes === undefined ? 'failed' : 'ok' });
    this.#uploadBytes.inc(bytes ?? 0);
  }

  /** The text; those who ask at one time get the same. */
  render(): Promise<string> {
    this.#rendering ??= this.#askRunner()
      .then(() => this.#registry.metrics())
      .finally(() => {
        this.#rendering = undefined;
      });
    return this.#rendering;
  }

  close(): void {
    this.#lag.disable();
  }

  #counter<T extends string>(name: string, help: string, labelNames: readonly T[] = []): Counter<T> {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }

  #histogram<T extends string>(
    name: string,
    help: string,
    buckets: number[],
    labelNames: readonly T[] = [],
  ): Histogram<T> {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.#registry] });
  }

  #gauge(name: string, help: string, collect?: () => number): Gauge {
    const registers = [this.#registry];
    if (collect === undefined) return new Gauge({ name, help, registers });
    return new Gauge({
      ...{ name, help, registers },
      collect() {
        this.set(collect());
      },
    });
  }

  /** A counter that somebody else keeps. */
  #kept(name: string, help: string, value: () => number): void {
    new Counter({
      ...{ name, help, registers: [this.#registry] },
      collect() {
        this.reset();
        this.inc(value());
      },
    });
  }

  #runnerGauges(): void {
    const { runnerStatus } = this.#sources;
    if (runnerStatus === undefined) return;
    const values: Readonly<Record<string, readonly [help: string, of: (status: RunnerStatus) => number]>> = {
      nox_queue_length: ['Runs that wait for a slot', ({ queue }) => queue.waiting],
      nox_queue_size: ['Runs that may wait for a slot', ({ queue }) => queue.size],
      nox_slots_busy: ['Slots that have a run', ({ slots }) => slots.busy],
      nox_slots: ['Runs at one time', ({ slots }) => slots.size],
      nox_warm_workspaces: ['Workspaces with a warm interpreter', ({ warm }) => warm.workspaces],
      nox_warm_zygotes: ['Warm interpreters that are alive', ({ warm }) => warm.zygotes],
      nox_warm_cells: ['Sandboxes that wait for a program', ({ warm }) => warm.cells],
      nox_warm_memory_bytes: [
        'Memory of warm interpreters, as last measured',
        ({ warm }) => warm.memoryBytes,
      ],
      nox_runner_memory_bytes: ['Resident memory of the runner', ({ memoryBytes }) => memoryBytes],
    };
    const up = this.#gauge(
      'nox_runner_up',
      'Whether the runner says how it is; if not, what it would say is missing',
    );
    const gauges = Object.entries(values).map(([name, [help, of]]) => [this.#gauge(name, help), of] as const);
    this.#askRunner = async () => {
      const status = await withinTime(runnerStatus());
      up.set(status === undefined ? 0 : 1);
      for (const [gauge, of] of gauges)
        if (status === undefined) gauge.remove();
        else gauge.set(of(status));
    };
  }

  #ownGauges(): void {
    const { audit, traces } = this.#sources;
    if (audit !== undefined) {
      this.#gauge(
        'nox_audit_sequence',
        'Number of the last line of the audit chain',
        () => audit()?.head.seq ?? 0,
      );
      this.#gauge(
        'nox_audit_waiting_lines',
        'Lines that are not in the file yet',
        () => audit()?.waiting ?? 0,
      );
      this.#kept('nox_audit_lost_lines_total', 'Lines that a full disk has cost', () => audit()?.lost ?? 0);
    }
    if (traces !== undefined) {
      this.#kept('nox_trace_spans_sent_total', 'Spans that the collector took', () => traces()?.sent ?? 0);
      this.#kept('nox_trace_spans_dropped_total', 'Spans that were dropped', () => traces()?.dropped ?? 0);
    }
  }

  #processGauges(): void {
    const started = Date.now() / 1000 - process.uptime();
    this.#gauge(
      'process_start_time_seconds',
      'When the gateway was started, seconds since 1970',
      () => started,
    );
    this.#gauge('process_resident_memory_bytes', 'Resident memory of the gateway', () =>
      process.memoryUsage.rss(),
    );
    this.#gauge(
      'process_open_fds',
      'Open file descriptors of the gateway',
      () => readdirSync('/proc/self/fd').length,
    );
    this.#kept('process_cpu_seconds_total', 'CPU time of the gateway', () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1e6;
    });
    const lag = this.#lag;
    const quantiles = new Gauge({
      name: 'nox_event_loop_lag_seconds',
      help: 'How late the gateway comes to its timers, since the last scrape',
      labelNames: ['quantile'],
      registers: [this.#registry],
      collect() {
        // Its timer's own interval is in what it measures.
        const late = (ns: number) => Math.max(0, ns / 1e9 - LAG_RESOLUTION_MS / 1000);
        for (const quantile of [0.5, 0.99])
          quantiles.set(
            { quantile: String(quantile) },
            lag.count === 0 ? 0 : late(lag.percentile(quantile * 100)),
          );
        lag.reset();
      },
    });
  }
}

async function withinTime<T>(work: Promise<T | undefined>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, STATUS_TIMEOUT_MS, undefined);
  });
  const status = await Promise.race([work.catch(() => undefined), late]);
  clearTimeout(timer);
  return status;
}
