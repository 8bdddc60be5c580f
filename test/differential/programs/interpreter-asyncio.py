import asyncio
import signal


async def step(n):
    await asyncio.sleep(0)
    return n


async def main():
    loop = asyncio.get_running_loop()
    print(type(loop).__name__, loop.get_debug(), await asyncio.gather(*map(step, range(3))), await asyncio.to_thread(sum, [1, 2]))
    loop.add_signal_handler(signal.SIGUSR1, print, 'signal')
    signal.raise_signal(signal.SIGUSR1)
    await asyncio.sleep(0.01)
    process = await asyncio.create_subprocess_exec('echo', 'child', stdout=asyncio.subprocess.PIPE)
    print((await process.communicate())[0], process.returncode)


asyncio.run(main())
asyncio.run(main())
try:
    asyncio.get_event_loop_policy().get_event_loop()
except RuntimeError as error:
    print(error)
