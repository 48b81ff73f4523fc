"""Where the study of a sweep lies: in SQLite for one process; in a journal file or on a server for several machines."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from io import RawIOBase
from pathlib import Path
from typing import Any, cast

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from lightning_automl_vision.errors import ConfigError, StorageError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import SWEEP, write

DATABASE, JOURNAL, ELSEWHERE = "study.db", "study.journal", SWEEP
_SWEEP = "sweep"
_FORMS = "journal, a path that ends in .journal, postgresql://USER@HOST/NAME or mysql://USER@HOST/NAME"
# By the scheme of a URL: SQLAlchemy's names of drivers, with the module of each; the first is the one that we name.
_DRIVERS = {
    "postgresql": {"pg8000": "pg8000", "psycopg": "psycopg", "psycopg2": "psycopg2"},
    "mysql": {"pymysql": "pymysql", "mysqldb": "MySQLdb", "mysqlconnector": "mysql"},
}
# What an operation raises whose storage is out of reach.
LOST = (OSError, StorageInternalError, SQLAlchemyError)
_LONGEST_PAUSE = 5.0
_BLOCK = 1 << 16
_SLICE = 0.2  # seconds after which a pause notices that it is to be cut short


@dataclass(frozen=True, kw_only=True)
class Place:
    """``address`` is the path of a journal, or a URL, which may hold a password: ``str()`` gives it without."""

    address: str = field(repr=False)
    name: str = _SWEEP

    @property
    def is_journal(self) -> bool:
        return "://" not in self.address

    @property
    def is_shared(self) -> bool:
        """Whether several processes may claim from it."""
        return not self.address.startswith("sqlite")

    def is_in(self, folder: Path) -> bool:
        """Whether it moves with the folder."""
        path = self.address if self.is_journal else "" if self.is_shared else str(self.url.database)
        return Path(path).parent == folder

    @property
    def url(self) -> URL:
        return make_url(self.address)

    def __str__(self) -> str:
        return self.address if self.is_journal else self.url.set(query={}).render_as_string(hide_password=True)

    def reason(self, error: BaseException) -> str:
        """What a driver said, in one line and without the password."""
        while isinstance(error, (SQLAlchemyError, StorageInternalError)):
            cause = getattr(error, "orig", None) or error.__cause__
            if cause is None:
                break
            error = cause
        said = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        text = " ".join(str(said.get("M") or getattr(error, "strerror", None) or error).split()).rstrip(".")
        password = None if self.is_journal else self.url.password
        return text.replace(str(password), "***") if password else text

    def check(self) -> None:
        """Whether its server answers, before there is a folder."""
        if not self.is_shared or self.is_journal:
            return
        try:
            create_engine(self.url, poolclass=NullPool).connect().close()
        except LOST as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: BaseException) -> ConfigError:
        return ConfigError(f"search.storage={self} cannot be reached: {self.reason(error)}.")

    def open(self, *, begin: bool = True) -> BaseStorage:
        """A journal is begun if there is none, unless it must be there."""
        if self.is_journal:
            if not begin:
                os.stat(self.address)
            return JournalStorage(Journal(self.address))
        # A server has room for so many connections, and may be begun anew: none is kept between two questions.
        options = {"poolclass": NullPool} if self.is_shared else {}
        return get_storage(RDBStorage(self.address, engine_kwargs=options))


def place_of(storage: Any, study_name: str | None, folder: Path, *, several: bool) -> Place:
    """Where a sweep's study lies, if ``several`` processes use it or if one does; refuses what cannot hold it."""
    place = _place(storage, study_name, folder, several=several)
    there = _known(folder)
    if there is not None and there != _words(place):
        raise ConfigError(
            f"search.storage={place}: output_dir={folder} holds a sweep whose study is at {there}. Name that one, or"
            " another output_dir."
        )
    if several and not place.is_shared:
        raise ConfigError(
            f"search.storage={place}: on SQLite several workers would be given the same trial now and then. Name"
            f" {_FORMS}; or let one process run the sweep, with hydra/launcher=basic."
        )
    return place


def _place(storage: Any, study_name: str | None, folder: Path, *, several: bool) -> Place:
    if storage is None:
        journal = _known(folder) == JOURNAL or (several and _known(folder) != DATABASE)
        return _named(str(folder / JOURNAL) if journal else f"sqlite:///{folder / DATABASE}", study_name)
    if not isinstance(storage, str):
        raise ConfigError(f"search.storage is a text here, and no {type(storage).__name__}. Name {_FORMS}.")
    if storage == "journal":
        return _named(str(folder / JOURNAL), study_name)
    if "://" not in storage and storage.endswith(".journal"):
        return _named(str(Path(storage).absolute()), study_name)
    return _named(_with_driver(storage), study_name or str(folder))


def _named(address: str, study_name: str | None) -> Place:
    return Place(address=address, name=study_name or _SWEEP)


def _with_driver(storage: str) -> str:
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):  # its text would show a password
        raise ConfigError(f"search.storage is no address of a study. Name {_FORMS}.") from None
    scheme, _, driver = url.drivername.partition("+")
    scheme = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
    if scheme == "sqlite":
        return storage
    if scheme not in _DRIVERS:
        raise ConfigError(f"search.storage: a study cannot lie at {scheme}://. Name {_FORMS}.")
    known = _DRIVERS[scheme]
    wanted = {driver: known.get(driver, driver)} if driver else known
    found = next((name for name, module in wanted.items() if find_spec(module) is not None), None)
    if found is None:
        named = driver or next(iter(known))
        raise ConfigError(
            f"search.storage={scheme}://…: the package {named} is missing."
            f" pip install {named}, or lightning-automl-vision[{scheme}]."
        )
    return url.set(drivername=f"{scheme}+{found}").render_as_string(hide_password=False)


def remember(place: Place, folder: Path) -> None:
    """So that the same folder never gets a second study."""
    write(folder / ELSEWHERE, f"{_words(place)}\n")


def _known(folder: Path) -> str | None:
    try:
        return (folder / ELSEWHERE).read_text(encoding="utf-8").strip()
    except OSError:
        own = [folder / name for name in (DATABASE, JOURNAL) if (folder / name).exists()]
    return own[0].name if own else None


def _words(place: Place) -> str:
    """As little as tells places apart: a folder may be moved, and a password or a driver changed."""
    if place.is_journal or not place.is_shared:
        path = Path(place.address if place.is_journal else place.url.database or "")
        return path.name if path.name in (DATABASE, JOURNAL) else str(path)
    url = place.url
    server = f"{url.drivername.partition('+')[0]}://{url.host or ''}{f':{url.port}' if url.port else ''}"
    return f"{server}/{url.database or ''}, study {place.name}"


class Journal(JournalFileBackend):
    """Appended to whole or not at all: what a writer that was killed left of a line is taken away by the next."""

    def __init__(self, path: str) -> None:
        self._path, self._turn = Path(path), JournalFileSymlinkLock(path)
        super().__init__(path, self._turn)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        self._turn.acquire()
        try:
            with self._path.open("r+b", buffering=0) as file:  # a journal that has vanished is not begun anew
                end = _end_of_lines(file)
                file.truncate(end)
                file.seek(end)
                try:
                    if file.write(text) != len(text):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        finally:
            with suppress(RuntimeError):  # another took it over, after a long silence
                self._turn.release()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise OSError(errno.EIO, f"{self._path.name} cannot be read: {error}") from error


def _end_of_lines(file: RawIOBase) -> int:
    """Behind the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        newline = (file.read(end - start) or b"").rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@dataclass
class Patience:
    """How long a storage that cannot be reached is asked again; ``hurried`` cuts that short."""

    place: Place
    seconds: float = 600.0
    hurried: bool = False

    def ask(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer; StorageError when it does not come in all that time."""
        until, pause = None, _SLICE
        while True:
            try:
                answer = question(*arguments, **options)
            except LOST as error:
                if isinstance(error, IntegrityError):
                    raise
                if until is None:
                    until = time.monotonic() + self.seconds
                    LOG.warning(
                        "The study at %s cannot be reached, and is asked again: %s.", self.place, self._reason(error)
                    )
                if self.hurried or time.monotonic() > until:
                    self.hurried = True
                    raise StorageError(
                        f"The study at {self.place} could not be reached: {self._reason(error)}. What has ended is kept"
                        " in output_dir. Repeat the command when it is there again."
                    ) from error
                self._wait(pause, until)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if until is not None:
                    LOG.warning("The study at %s is there again.", self.place)
                return answer

    def _reason(self, error: BaseException) -> str:
        return self.place.reason(error)

    def _wait(self, pause: float, until: float) -> None:
        over = min(time.monotonic() + pause, until)
        while not self.hurried and time.monotonic() < over:
            time.sleep(_SLICE)


def patient(storage: BaseStorage, patience: Patience) -> BaseStorage:
    """The same storage, asked with patience whatever it is asked for."""
    names = [name for name in dir(BaseStorage) if not name.startswith("_")]
    asked = {name: staticmethod(partial(patience.ask, getattr(storage, name))) for name in names}
    kind = type("PatientStorage", (BaseStorage,), {**asked, "__module__": __name__})
    return cast("BaseStorage", kind())
