import asyncio
import os
import signal


async def main():
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, event.set)
    loop.call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
    await event.wait()
    print('terminated politely')
    loop.call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        print('cancelled by ^C', flush=True)
        raise


asyncio.run(main())
