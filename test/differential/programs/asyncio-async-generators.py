import asyncio
import contextvars

variable = contextvars.ContextVar('variable', default='default')


async def numbers():
    try:
        for n in range(10):
            yield n
            await asyncio.sleep(0)
    finally:
        print('closed')


class Manager:
    async def __aenter__(self):
        variable.set('inside')
        return self

    async def __aexit__(self, *details):
        print('leaving', details[0].__name__ if details[0] else None)
        return True


async def main():
    async for n in numbers():
        if n == 3:
            break
    print([n async for n in numbers() if n % 2])
    async with Manager():
        print(variable.get())
        raise ValueError
    print(await asyncio.create_task(asyncio.sleep(0, variable.get())))


asyncio.run(main())
print(variable.get())
asyncio.run(asyncio.sleep(0)) or asyncio.get_running_loop()
