"""What became of a trial: its result where it left one, else what its exit and its last words tell."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_automl_vision.errors import Interrupted, StorageError
from lightning_automl_vision.result import FINISHED, PRUNED, RESULT
from lightning_automl_vision.search.same_data import OtherDataError

State = Literal["complete", "pruned", "failed", "interrupted"]
Kind = Literal["", "policy", "interrupted", "timeout", "nan", "memory", "signal", "storage", "data", "error"]

_MEMORY = re.compile(
    r"out of memory|memory is too small|MemoryError|can(?:'t|not) allocate memory|unable to allocate"
    r"|insufficient (?:shared )?memory|_ALLOC_FAILED|bad_alloc|is killed by signal: Killed",
    re.IGNORECASE,
)
_UNDEFINED = re.compile(r"\bloss is -?(?:nan|inf)")
_KILLED = "killed (out of memory?)"
_REQUESTS_TO_END = (Interrupted.exit_code, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
_TAIL = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``value`` and ``epoch`` are those of the best evaluation, also of a trial that did not finish."""

    state: State
    value: float | None = None
    epoch: int | None = None
    reason: str = ""
    kind: Kind = ""


@dataclass(frozen=True)
class Trace:
    """What a process left: ``exit_code`` is negative for a signal and None where nobody could see it end."""

    exit_code: int | None
    result: Mapping[str, Any] | None
    last_words: str


def outcome_of(trace: Trace, killed_as: Outcome | None = None) -> Outcome:
    """A result that was finished stands, whatever happened after it was written."""
    result = trace.result or {}
    primary = result.get("primary_metric") or {}
    return replace(_judged(trace, result, killed_as), value=primary.get("value"), epoch=primary.get("epoch"))


def _judged(trace: Trace, result: Mapping[str, Any], killed_as: Outcome | None) -> Outcome:
    status = result.get("status")
    if status == PRUNED:
        return Outcome(state="pruned", reason=result.get("reason") or "", kind="policy")
    if status in FINISHED:
        return _finished(result)
    if killed_as is not None:
        return killed_as
    if trace.exit_code is None:
        return Outcome(state="interrupted", reason="the fork server was lost", kind="interrupted")
    if status == "interrupted" or trace.exit_code in _REQUESTS_TO_END:
        return Outcome(state="interrupted", reason="interrupted from outside", kind="interrupted")
    if trace.exit_code == StorageError.exit_code:
        reason = result.get("error") or _error_line(trace.last_words) or "its files cannot be written"
        return Outcome(state="interrupted", reason=reason, kind="storage")
    if trace.exit_code == OtherDataError.exit_code:
        reason = result.get("error") or _error_line(trace.last_words) or "its data are not those of the sweep"
        return Outcome(state="interrupted", reason=reason, kind="data")
    return _failed(trace.exit_code, result.get("error"), trace.last_words)


def _finished(result: Mapping[str, Any]) -> Outcome:
    primary = result["primary_metric"]
    if primary["epoch"] is None:
        return Outcome(state="failed", reason="timed out before its first evaluation", kind="timeout")
    if primary["value"] is None:
        return Outcome(state="failed", reason=f"nan: {primary['name']} was never finite", kind="nan")
    return Outcome(state="complete")


def _failed(exit_code: int, error: str | None, last_words: str) -> Outcome:
    if exit_code == -signal.SIGKILL:
        return Outcome(state="failed", reason=_KILLED, kind="memory")
    if exit_code < 0 and error is None:
        name = f"signal {-exit_code} ({_name(-exit_code)})"
        memory = _MEMORY.search(last_words)
        return Outcome(
            state="failed", reason=f"out of memory: {name}" if memory else name, kind="memory" if memory else "signal"
        )
    line = " ".join((error or _error_line(last_words) or f"exit code {exit_code}, and no result").split())
    if _MEMORY.search(line):
        return Outcome(state="failed", reason=f"out of memory: {line}", kind="memory")
    return Outcome(state="failed", reason=line, kind="nan" if _UNDEFINED.search(line) else "error")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return "unnamed"


def _error_line(last_words: str) -> str | None:
    """The line that `main` ends with, else the last one, which is where Python names an exception."""
    lines = [line.strip() for line in last_words.splitlines() if line.strip()]
    ours = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return next(reversed(ours or lines), None)


def read_result(folder: Path) -> Mapping[str, Any] | None:
    """What stands in result.json, if it is one."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and isinstance(result.get("primary_metric"), dict) else None


def last_words(console: Path, start: int) -> str:
    """The end of what a process printed, of what lies behind ``start``."""
    try:
        with console.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
