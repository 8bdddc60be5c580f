import asyncio


async def work(n):
    await asyncio.sleep(0.01 * n)
    print('done', n)
    return n


async def main():
    print(await asyncio.gather(work(3), work(1), work(2)))
    task = asyncio.create_task(work(100))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print('cancelled', task.cancelled())
    try:
        async with asyncio.timeout(0.02):
            await work(100)
    except TimeoutError as error:
        print('timeout', repr(error))
    queue = asyncio.Queue()
    for n in range(3):
        queue.put_nowait(n)
    print([await queue.get() for _ in range(3)])
    print(await asyncio.to_thread(lambda: 'from a thread'))
    results = await asyncio.gather(work(0), asyncio.sleep(0, 'x'), return_exceptions=True)
    print(results)
    await asyncio.wait_for(asyncio.Event().wait(), 0.01)


asyncio.run(main())
