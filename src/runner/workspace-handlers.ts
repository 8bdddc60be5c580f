/** The operations on workspaces and snapshots (protocol/workspaces.ts). */
import type { WORKSPACE_ASK } from '../protocol/workspaces.ts';
import type { Handlers } from './operations.ts';
import type { Workspaces } from './workspaces.ts';

export function workspaceHandlers(workspaces: Workspaces): Pick<Handlers['ask'], keyof typeof WORKSPACE_ASK> {
  return {
    workspaceCreate: (request) => workspaces.create(request),
    workspaceClone: (request, signal) => workspaces.clone(request, signal),
    // eslint-disable-next-line @typescript-eslint/require-await -- what it throws is a rejection
    workspaceInfo: async ({ workspace }) => workspaces.info(workspace),
    workspaceUsage: ({ workspace }) => workspaces.usage(workspace),
    workspaceList: (request) => Promise.resolve(workspaces.list(request)),

    workspaceUpdate: async (request) => workspaces.update(request),
    workspaceRemove: async ({ workspace, force = false }) => {
      await workspaces.remove(workspace, force);
      return {};
    },
    snapshotCreate: (request, signal) => workspaces.snapshot(request, signal),
    // eslint-disable-next-line @typescript-eslint/require-await -- what it throws is a rejection
    snapshotList: async ({ workspace }) => workspaces.snapshots(workspace),
    snapshotRestore: async ({ workspace, snapshot, force = false }) => {
      await workspaces.restore(workspace, snapshot, force);
      return {};
    },
    snapshotRemove: async ({ workspace, snapshot }) => {
      await workspaces.removeSnapshot(workspace, snapshot);
      return {};
    },
  };
}
