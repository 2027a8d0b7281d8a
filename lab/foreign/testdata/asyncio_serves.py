"""Listens with asyncio streams, reads one connection to its end and copies it to
standard output."""
import asyncio
import sys


async def main(host, port):
    done = asyncio.Event()

    async def serve(reader, writer):
        sys.stdout.buffer.write(await reader.read())
        writer.close()
        await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(serve, host, port):
        await done.wait()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
