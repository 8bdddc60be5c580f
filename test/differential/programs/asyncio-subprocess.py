import asyncio
import sys


async def main():
    process = await asyncio.create_subprocess_exec(
        sys.executable, '-c', 'import sys; print(sys.stdin.read()[::-1]); sys.exit(3)', stdin=-1, stdout=-1
    )
    out, _ = await process.communicate(b'abc')
    print(out, process.returncode)
    process = await asyncio.create_subprocess_shell('echo out; echo err >&2; kill -9 $$', stdout=-1, stderr=-1)
    print(await process.communicate(), process.returncode)
    process = await asyncio.create_subprocess_exec('sleep', '10')
    process.terminate()
    print(await process.wait())
    processes = [await asyncio.create_subprocess_shell(f'exit {n}') for n in range(5)]
    print(await asyncio.gather(*(process.wait() for process in processes)))


asyncio.run(main())
