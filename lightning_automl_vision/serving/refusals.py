"""What a client is told when a request is not answered as it wished."""

from __future__ import annotations

from typing import Any

TOO_LATE = "The request took longer than it may."
_SHOWN = 40


class Refused(Exception):
    """A request ends here, with a status and one line that says why; ``retry_after`` is in seconds."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def quoted(value: Any) -> str:
    """What a client sent, short and harmless enough to be sent back."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
