/** `make fuzz`: NOX_FUZZ_REQUESTS requests (50,000) with the seed NOX_FUZZ_SEED (a new one), which is printed. */
import { fuzz } from './fuzz.ts';

const number = (name: string, fallback: number): number => Number(process.env[name] ?? fallback);
const requests = number('NOX_FUZZ_REQUESTS', 50_000);
const seed = number('NOX_FUZZ_SEED', Date.now() % 1_000_000);
console.log(`${requests} requests, seed ${seed}: NOX_FUZZ_SEED=${seed} make fuzz repeats it`);
const { faults, answers, succeeded, operations } = await fuzz({ requests, seed, connections: 8 });
for (const [status, count] of [...answers].sort(([a], [b]) => a - b)) console.log(`${status}: ${count}`);
const never = operations.filter((each) => !succeeded.has(each));
console.log(
  `succeeded at least once: ${succeeded.size} of ${operations.length} operations${never.length === 0 ? '' : `, not ${never.join(', ')}`}`,
);
for (const fault of faults) console.error(`FAULT ${fault}`);
console.log(faults.length === 0 ? 'no fault' : `${faults.length} faults`);
process.exit(faults.length === 0 ? 0 : 1);
