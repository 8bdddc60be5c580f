import asyncio


async def fails():
    raise ValueError('nobody waits for me')


async def main():
    asyncio.create_task(fails(), name='lonely')
    await asyncio.sleep(0.01)
    print('main ends')


asyncio.run(main())
