"""The body of a request, read whole and never further than is allowed, whatever the client says of its length."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from lightning_automl_vision.serving.gate import Share
from lightning_automl_vision.serving.refusals import Refused


async def read_body(
    chunks: AsyncIterator[bytes], headers: Mapping[str, str], most: int, held: Share | None = None
) -> bytes:
    """413 as soon as it is known to be too long: by its announced length, or while it comes in pieces.

    ``held`` is told of each piece, where bodies of several requests together have a limit.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Content-Encoding is not read. Send the body as it is.")
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise _too_long(most)
    body = bytearray()
    async for chunk in chunks:
        if len(body) + len(chunk) > most:
            raise _too_long(most)
        if held is not None:
            held.take(len(chunk))
        body += chunk
    return bytes(body)


def _too_long(most: int) -> Refused:
    return Refused(413, f"The body is too long: {most} bytes are the most.")
