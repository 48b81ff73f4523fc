"""The file of predictions while it is made: rows stand as soon as they are there, and the same command goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.run import check_output, write
from lightning_automl_vision.storage import missing_of, remove_empty, sampled, unreadable, unwritable, writing

JSONL, CSV = "jsonl", "csv"
NAME = "predictions"
ASKED = "predictions.asked.json"
"""What the rows that stand are answers to, while not all of them do."""
_SAMPLED, _SAMPLE = 64, 1 << 16

Row = dict[str, Any]


def line_of(row: Row, form: str) -> str:
    """JSON with its ``filename``, or a row of two columns, the file's name and the answer as JSON."""
    if form == JSONL:
        return _json(row) + "\n"
    answer = {name: value for name, value in row.items() if name != "filename"}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([row["filename"], _json(answer)])
    return text.getvalue()


def rows_of(content: bytes, form: str) -> tuple[list[Row], int]:
    """The rows that stand at the beginning, and how many bytes they take; what follows was being written."""
    rows: list[Row] = []
    length = 0
    for line in content.split(b"\n")[:-1]:
        row = _row(line, form)
        if row is None:
            break
        rows.append(row)
        length += len(line) + 1
    return rows, length


def _row(line: bytes, form: str) -> Row | None:
    try:
        text = line.decode("utf-8", errors="strict" if form == JSONL else "surrogateescape")
        if form == JSONL:
            row = json.loads(text)
        else:
            ((name, answer),) = csv.reader([text], strict=True)
            row = {"filename": name, **json.loads(answer)}
    except (ValueError, TypeError, csv.Error):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("filename"), str) else None


def _json(value: Any) -> str:
    """Letters as they are, but for names that are no text in any encoding."""
    text = json.dumps(value, ensure_ascii=False)
    return text if _is_text(text) else json.dumps(value)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(kw_only=True)
class AnswersFile:
    """``predictions.FORM`` in ``folder``; while it is made it ends in ``.part``."""

    folder: Path
    form: str = JSONL
    asked: Mapping[str, Any] = field(default_factory=dict)
    _stream: IO[str] | None = None
    _made: list[Path] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / f"{NAME}.{self.form}"

    @property
    def part(self) -> Path:
        return self.folder / f"{NAME}.{self.form}.part"

    def check(self) -> None:
        """ConfigError where the answers are there already, or others are being made."""
        check_output(str(self.folder), self.path.name)
        before = self._asked_before()
        if before is None:
            return
        for name in dict.fromkeys((*before, *self.asked)):
            if before.get(name) != self.asked.get(name):
                raise ConfigError(
                    f"output={self.folder} holds half of another command's predictions: {_difference(name)} was"
                    f" {_in_words(before.get(name))}, and is {_in_words(self.asked.get(name))}. Name another folder, or"
                    f" delete {ASKED} and {NAME}.*.part in it."
                )

    def standing(self) -> list[Row]:
        """The rows of an earlier attempt; a torn last one is taken away."""
        if not self.part.exists():
            return []
        if self._asked_before() is None:
            self.part.unlink()
            return []
        rows, length = rows_of(self.part.read_bytes(), self.form)
        with writing(self.part, "output"):
            os.truncate(self.part, length)
        return rows

    @contextmanager
    def open(self) -> Iterator[None]:
        """Whatever happens, rows that were added stand; where there is none, nothing is left."""
        with writing(self.folder, "output"):
            self._made = missing_of(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            write(self.folder / ASKED, json.dumps(dict(self.asked), ensure_ascii=False, indent=2) + "\n", "output")
            self._stream = self.part.open("a", encoding="utf-8", errors="surrogateescape", newline="")
        try:
            yield
        finally:
            self._stream.close()
            if self.part.exists() and not self.part.stat().st_size:
                self.forget()

    def add(self, row: Row) -> None:
        """The whole row, or nothing that a later attempt would not take away."""
        assert self._stream is not None
        try:
            self._stream.write(line_of(row, self.form))
            self._stream.flush()
        except OSError as error:
            raise unwritable(self.part, error, "output") from None

    def complete(self) -> None:
        with writing(self.path, "output"):
            self.part.replace(self.path)
        (self.folder / ASKED).unlink(missing_ok=True)

    def forget(self) -> None:
        for file in (self.part, self.folder / ASKED):
            file.unlink(missing_ok=True)
        remove_empty(self._made)

    def _asked_before(self) -> Mapping[str, Any] | None:
        try:
            found = json.loads((self.folder / ASKED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


_WORDS = {"model": "the model", "settings": "the model's settings.json", "pictures": "the list of pictures"}


def _difference(name: str) -> str:
    return _WORDS.get(name, name)


def _in_words(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def fingerprint(folder: Path) -> dict[str, str]:
    """What tells a model from any other: of its files, but for what is only to be read, every bit or enough of them."""
    settings, others = sha256(), sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.name.startswith(".") or file.suffix.lower() in (".md", ".py", ".txt", ".yaml", ".yml"):
            continue
        digest = settings if file.name == "settings.json" else others
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
        digest.update(_sampled(file))
    return {"model": others.hexdigest()[:16], "settings": settings.hexdigest()[:16]}


def _sampled(file: Path) -> bytes:
    """The whole of a small file; of a large one pieces from everywhere, as other weights differ everywhere."""
    try:
        return sampled(file, _SAMPLED, _SAMPLE)
    except OSError as error:
        raise ConfigError(unreadable(file, error)) from None


def digest_of(names: Sequence[str]) -> str:
    """What tells a list of pictures from another one."""
    found = sha256("\n".join(names).encode("utf-8", errors="surrogateescape"))
    return f"{len(names)}, {found.hexdigest()[:16]}"
