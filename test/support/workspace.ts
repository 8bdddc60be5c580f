/** A workspace in a directory of its own, without sandboxes. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskWatch } from '../../src/runner/disk.ts';
import { Files } from '../../src/runner/files.ts';
import { Workspace } from '../../src/runner/workspace.ts';
import { WorkspaceState } from '../../src/runner/workspace-state.ts';

const MIB = 2 ** 20;

/** What has been taken, never counted. */
class Ledger extends DiskWatch {
  /** For so many takes a count is waited for. */
  counts = 0;

  override async ready(): Promise<void> {
    if (this.counts === 0) return;
    this.counts -= 1;
    await sleep(20);
  }

  override count(): Promise<void> {
    return Promise.resolve();
  }
}

export interface Bench {
  readonly outside: string;
  readonly path: string;
  readonly files: Files;
  readonly disk: Ledger;
  readonly state: WorkspaceState;
  close(): void;
}

/** Runs see it at /shown. */
export function makeWorkspace(limitBytes = 100 * MIB): Bench {
  const outside = realpathSync(mkdtempSync(join(tmpdir(), 'nox-files-')));
  const path = join(outside, 'w');
  mkdirSync(path);
  const disk = new Ledger(path, limitBytes, () => undefined);
  const state = new WorkspaceState('default', new Workspace(path, '/shown'), disk);
  return {
    ...{ outside, path, disk, state, files: new Files(state) },
    close: () => {
      rmSync(outside, { recursive: true, force: true });
    },
  };
}

export async function* pieces(...parts: (string | Uint8Array | Error)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    await Promise.resolve();
    if (part instanceof Error) throw part;
    yield Buffer.from(part as Uint8Array);
  }
}

export async function all(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of body) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}
