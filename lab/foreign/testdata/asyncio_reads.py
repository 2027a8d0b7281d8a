"""Reads to the end with asyncio streams and copies all of it to standard output."""
import asyncio
import sys


async def main(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    sys.stdout.buffer.write(await reader.read())
    writer.close()
    await writer.wait_closed()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
