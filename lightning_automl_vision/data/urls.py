"""Where an image lies: names become absolute paths or URLs, and either is read."""

from __future__ import annotations

import os
import posixpath
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from lightning_automl_vision.errors import ConfigError, DataError, UnreachableError
from lightning_automl_vision.settings import DataConfig

_MAPPED = ("azureml://", "amldatastore://")
_EXTRAS = {"s3": "lightning-automl-vision[s3]", "s3a": "lightning-automl-vision[s3]"}
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "sftp": "paramiko"}
# Seconds before a file is asked for again, and those that a server may be silent.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
SILENCE = 30.0
# Servers that did not answer at all the last time are asked but once, for so many seconds.
_DOWN = 60.0
_down: dict[str, float] = {}
_JITTER = random.Random()  # none that anything else draws from
_BUSY = (408, 425, 429)
# What libraries that need not be installed call a line that is down.
_UNSTEADY = frozenset(("ClientConnectionError", "ClientPayloadError", "IncompleteRead", "HTTPClientError"))
_CHANGED = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "created")


def resolve_image(name: str, base: str, config: DataConfig) -> str:
    """The absolute path or URL of an image that is named relative to ``base``, a folder or a URL.

    Names are compared as text: a symbolic link inside the folder may lead out of it.
    """
    if config.url_prefixes:
        name = _with_prefix_replaced(name, config)
    if "://" in name:
        return _checked_url(name)
    if name.startswith("/"):
        return name
    if config.confine_images and _climbs(name) and _leaves(name, url="://" in base):
        raise DataError(_left(name, base))
    if "://" in base:
        return _joined_url(base, name)
    return f"{base}/{name}" if base and base[-1] != "/" else base + name


def local_path(url: str) -> str | None:
    """The path of a plain name or a ``file://`` URL; None for what lies elsewhere.

    A ``file://`` URL is taken as it is written if there is such a file, else with its %-escapes decoded.
    """
    if "://" not in url:
        return url
    if not url.startswith("file://"):
        return None
    path = url.removeprefix("file://").removeprefix("localhost")
    return path if "%" not in path or os.path.exists(path) else unquote(path)


def read_bytes(url: str) -> bytes:
    """The whole content of a file, from disk or from any URL that fsspec knows."""
    path = local_path(url)
    if path is None:
        return _fetched(url)
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {read_fault(error)}.") from None


def read_fault(error: Exception) -> str:
    """Why a file could not be read, in words."""
    if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
        error = error.__cause__  # what fsspec calls a missing file, but is a server that does not answer
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    if isinstance(status, int) and message:  # a web server's answer, without its address
        return f"cannot be read ({status} {message})"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"cannot be read ({reason or type(error).__name__})"


@dataclass(frozen=True)
class Described:
    """What a source tells of a file without giving it: bytes, and seconds since 1970, where it tells them."""

    size: int | None = None
    changed: float | None = None

    def is_another_than(self, size: int, kept: float) -> bool:
        """Than a copy of so many bytes that was made at that time."""
        return (self.size is not None and self.size != size) or (self.changed is not None and self.changed > kept)


def described(url: str) -> Described:
    """Without reading it; a source that does not answer tells nothing."""
    try:
        found = _asked(url, "info")
    except DataError:
        return Described()
    changed = next((found[key] for key in _CHANGED if found.get(key)), None)
    return Described(found.get("size"), _seconds(changed))


def _seconds(moment: Any) -> float | None:
    try:
        if isinstance(moment, str):
            moment = parsedate_to_datetime(moment) if "," in moment else datetime.fromisoformat(moment)
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return None if moment is None else float(moment)
    except (TypeError, ValueError):
        return None


def _fetched(url: str) -> bytes:
    content: bytes = _asked(url, "cat_file")
    return content


def _asked(url: str, method: str) -> Any:
    """What a file system's method says of the URL; a server that is busy or silent is asked again."""
    import fsspec

    name, server = without_query(url), urlsplit(url).netloc
    for pause in (*_PAUSES, None):
        try:
            system, path = fsspec.core.url_to_fs(url, **_limits(url))
            answer = getattr(system, method)(path)
            _down.pop(server, None)
            return answer
        except ImportError as error:
            raise DataError(f"{name}: {_missing_package(url, error)}") from None
        except Exception as error:  # each remote file system raises exceptions of its own
            if isinstance(error, ValueError) and "Protocol not known" in str(error):
                scheme = url.partition("://")[0]
                raise DataError(f"{name}: {scheme}:// is not known. {_prefix_hint(f'{scheme}://')}") from None
            passing = may_pass(error)
            if pause is None and passing:
                _down[server] = time.monotonic()
            if pause is None or not passing or is_down(url):
                kind = UnreachableError if passing else DataError
                raise kind(f"{name}: {read_fault(error).replace(url, name)}.") from None
        time.sleep(pause * _JITTER.uniform(0.5, 1.0))  # not all that wait come back at once
    raise AssertionError("the last attempt gives or raises")


def is_down(url: str) -> bool:
    """Whether its server did not answer just now."""
    return time.monotonic() - _down.get(urlsplit(url).netloc, -_DOWN) < _DOWN


def may_pass(error: BaseException) -> bool:
    """Whether the same question may have another answer in a while: a server that is busy, or a line that is down."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(seen, "status", None) or getattr(seen, "code", None)
        if isinstance(status, int) and status >= 400:
            return status >= 500 or status in _BUSY
        kind = type(seen)
        if isinstance(seen, (TimeoutError, ConnectionError)) or {base.__name__ for base in kind.__mro__} & _UNSTEADY:
            return True
        seen = seen.__cause__
    return False


def _limits(url: str) -> dict[str, Any]:
    """Seconds that a web server may be silent."""
    if "::" in url or not url.lower().startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)}}


def _missing_package(url: str, error: ImportError) -> str:
    scheme = url.partition("://")[0].lower()
    package = _EXTRAS.get(scheme) or _PACKAGES.get(scheme)
    if package is None:
        return f"{scheme}:// needs a package that is not installed ({' '.join(str(error).split())})."
    return f"{scheme}:// needs a package that is not installed. Install it: pip install '{package}'."


def without_query(url: str) -> str:
    """The URL as messages show it: what follows ``?`` may be a secret."""
    return url.partition("?")[0] if "://" in url else url


def _with_prefix_replaced(name: str, config: DataConfig) -> str:
    prefixes = _places(tuple(config.url_prefixes))
    prefix = max((prefix for prefix in prefixes if prefix and name.startswith(prefix)), key=len, default=None)
    if prefix is None:
        return name
    rest = name[len(prefix) :]
    if config.confine_images and ".." in unquote(rest) and _leaves(rest.lstrip("/"), url=True):
        raise DataError(_left(name, prefix))
    if prefix.endswith("/") or rest.startswith("/"):
        return f"{prefixes[prefix].rstrip('/')}/{rest.lstrip('/')}"
    return prefixes[prefix] + rest


@cache
def _places(entries: tuple[str, ...]) -> dict[str, str]:
    for entry in entries:
        if not all(entry.partition("=")):
            raise ConfigError(f"data.url_prefixes: {entry!r} is not of the form BEGINNING=PLACE.")
    return dict(entry.split("=", 1) for entry in entries)


def _checked_url(url: str) -> str:
    if url.lower().startswith(_MAPPED):
        # azureml://…/paths/ and AmlDatastore://NAME/ are where a datastore's own paths begin.
        head, paths, _ = url.partition("/paths/")
        prefix = head + paths if paths else "/".join(url.split("/", 3)[:3]) + "/"
        raise DataError(f"{url}: nothing says where this lies. {_prefix_hint(prefix)}")
    return url


def _prefix_hint(prefix: str) -> str:
    return f"Map its beginning to a folder or URL: \"data.url_prefixes=['{prefix}=/mnt/images/']\"."


def _climbs(name: str) -> bool:
    return ".." in name or ("%" in name and ".." in unquote(name))


def _leaves(name: str, *, url: bool) -> bool:
    path = posixpath.normpath(unquote(name) if url else name)
    return path == ".." or path.startswith(("../", "/"))


def _left(name: str, base: str) -> str:
    return (
        f"The image {name!r} leads out of {without_query(base)}, where it must lie. "
        "Name it within, or allow such names with data.confine_images=false."
    )


def _joined_url(base: str, name: str) -> str:
    """Chained URLs, such as ``zip://::s3://bucket/images.zip``, are extended in their first part."""
    first, chain, rest = base.partition("::")
    return f"{first if first.endswith('/') else first + '/'}{name}{chain}{rest}"
