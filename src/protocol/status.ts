/** What only the runner knows of itself, for metrics and status: a moment's view, cheap to take. */
import Type, { type Static } from 'typebox';

const Count = Type.Integer({ minimum: 0 });

export const RunnerStatus = Type.Object({
  /** Runs that wait for a slot, and how many may. */
  queue: Type.Object({ waiting: Count, size: Count }),
  slots: Type.Object({ busy: Count, size: Count }),
  warm: Type.Object({
    /** That have a zygote which serves. */
    workspaces: Count,
    /** That are alive, those that are being replaced included. */
    zygotes: Count,
    /** Sandboxes that wait for a program. */
    cells: Count,
    /** Of the zygotes with their cells, as last measured. */
    memoryBytes: Count,
  }),
  /** Resident memory of the runner's own process. */
  memoryBytes: Count,
});
export type RunnerStatus = Static<typeof RunnerStatus>;
