"""Which versions of packages are installed; each is looked up once, since what says it is long to read."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # needed elsewhere: on another system, or for another task
        return None
