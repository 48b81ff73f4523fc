"""Who may ask: keys that are compared in constant time and never written anywhere."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.jobs.serve import KEY_VARIABLE, ServeConfig
from lightning_automl_vision.serving.refusals import Refused

_SHORTEST = 16


class Access:
    """Knows the keys by their hashes alone; without keys everybody may ask."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._hashes = [_hashed(key) for key in keys]

    @property
    def is_guarded(self) -> bool:
        return bool(self._hashes)

    def check(self, headers: Mapping[str, str]) -> None:
        """401 unless there is a good key, as ``Authorization: Bearer KEY``."""
        if not self.is_guarded:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _hashed(key.strip())
        # Each is compared, so that the time does not tell which was right.
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        if scheme.lower() != "bearer" or not any(matches):
            raise Refused(401, "A key is needed: send the header Authorization: Bearer KEY.")


def access_of(config: ServeConfig) -> Access:
    """The keys of the file that is named, or else that of the environment; ConfigError if they are no good."""
    if config.auth_mode == "none":
        if config.key_file is not None:
            raise ConfigError(f"serve.key_file={config.key_file}: nobody asks for it. Add serve.auth_mode=key.")
        return Access()
    if config.key_file is None:
        place, text = f"the environment variable {KEY_VARIABLE}", os.environ.get(KEY_VARIABLE, "")
    else:
        place, text = f"serve.key_file={config.key_file}", _content(config.key_file)
    keys = tuple(text.split())
    if not keys:
        raise ConfigError(
            f"serve.auth_mode=key: there is no key in {place}. Put one there, or name a file: serve.key_file=PATH."
        )
    if any(len(key) < _SHORTEST or not key.isascii() or not key.isprintable() for key in keys):
        raise ConfigError(
            f"serve.auth_mode=key: a key has {_SHORTEST} or more characters of ASCII, without spaces, and one in"
            f" {place} has not. `openssl rand -hex 32` makes a good one."
        )
    return Access(keys)


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"serve.key_file={file}: it cannot be read ({reason}). Name a text file.") from None


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
