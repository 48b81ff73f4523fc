"""The body of a request, read whole and never further than is allowed, whatever the client says of its length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from lightning_automl_vision.serving.refusals import Refused

_LINGER = 2.0  # seconds


async def read_body(chunks: AsyncIterator[bytes], headers: Mapping[str, str], most: int) -> bytes:
    """413 as soon as it is known to be too long: by its announced length, or while it comes in pieces."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Content-Encoding is not read. Send the body as it is.")
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise await _too_long(chunks, most)
    body = bytearray()
    async for chunk in chunks:
        if len(body) + len(chunk) > most:
            raise await _too_long(chunks, most)
        body += chunk
    return bytes(body)


async def _too_long(chunks: AsyncIterator[bytes], most: int) -> Refused:
    """Drops a little of what still comes, because many clients look for an answer only when all is sent."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            dropped = 0
            async for chunk in chunks:
                dropped += len(chunk)
                if dropped > most:
                    break
    return Refused(413, f"The body is too long: {most} bytes are the most.")
