"""From labelled images to a server: look at them, search, a gate that can say no, export, serve.

    python examples/pipeline/pipeline.py training=photos test=held_out require='accuracy>=0.9' folder=work

Run it again after whatever happened: what is done is not repeated, a search goes on where it was, and the gate is
always asked. It ends with the exit code of the step that failed; 7 means that the model is not as good as it has to be.
format= is that of the export, onnx if it is left out. serve=no ends before the server, serve='serve.port=80
serve.auth_mode=key' gives it keys of its own. Further words are keys of `lav` for the search, such as
limits.max_trials=20 or task=image_object_detection; without either the search is AutoMode with eight trials.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LAV = (sys.executable, "-m", "lightning_automl_vision")
TRIALS = "limits.max_trials=8"
# Of the search's keys, those that say how labelled images are read: every step that reads some is given them.
READING = ("task", "data.format", "data.images", "data.encoding", "data.url_prefixes", "data.ignore_data_errors")


@dataclass(frozen=True)
class Pipeline:
    """``test`` is what no training has seen; ``serve`` are keys of `lav serve`, "no" to end before that."""

    training: str
    test: str
    require: str
    folder: Path = Path("pipeline")
    format: str = "onnx"
    serve: str = ""
    search: Sequence[str] = field(default=())

    @property
    def best(self) -> Path:
        return self.folder / "sweep" / "best"

    @property
    def exported(self) -> Path:
        return self.folder / "exported"

    def inspect(self) -> list[str]:
        output = f"output={self.folder / 'inspected'}"
        return ["inspect", "pictures=annotations", f"data.training={self.training}", *self._reading, output]

    def sweep(self) -> list[str]:
        is_said = any(key.startswith(("limits.max_trials=", "+search=")) or key == "-m" for key in self.search)
        usual = [] if is_said else [TRIALS]
        return [f"data.training={self.training}", *usual, *self.search, f"output_dir={self.folder / 'sweep'}"]

    def gate(self) -> list[str]:
        output = f"output={self.folder / 'gate'}"
        return ["evaluate", str(self.best), f"input={self.test}", f"require={self.require}", *self._reading, output]

    def export(self) -> list[str]:
        images, output = f"images={self.test}", f"output={self.exported}"
        return ["export", str(self.best), f"format={self.format}", images, *self._reading, output]

    def server(self) -> list[str]:
        return ["serve", str(self.exported), *self.serve.split()]

    @property
    def _reading(self) -> list[str]:
        return [key for key in self.search if key.partition("=")[0] in READING]


def run(pipeline: Pipeline) -> None:
    """Each step, unless what it makes is there."""
    if not (pipeline.folder / "inspected" / "annotations.jpg").exists():
        step("look at the labels", pipeline.inspect())
    step("search", pipeline.sweep())
    shutil.rmtree(pipeline.folder / "gate", ignore_errors=True)
    step("gate", pipeline.gate())
    made_of, remembered = digest(pipeline.best / "model"), pipeline.folder / "exported.sha256"
    if not pipeline.exported.exists() or not remembered.exists() or remembered.read_text() != made_of:
        shutil.rmtree(pipeline.exported, ignore_errors=True)
        step("export", pipeline.export())
        remembered.write_text(made_of)
    if pipeline.serve != "no":
        step("serve", pipeline.server())


def step(name: str, arguments: Sequence[str]) -> None:
    """Leaves with the exit code of a step that failed."""
    print(f"\n=== {name}: lav {' '.join(arguments)}", flush=True)
    running = subprocess.Popen([*LAV, *arguments])
    with ended_by(running):
        code = running.wait()
    if code:
        print(f"=== {name} ended with {code}; nothing after it was done.", file=sys.stderr)
        sys.exit(code if code > 0 else 1)


@contextmanager
def ended_by(running: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whoever asks this process to end asks the step, which knows what is to be kept; Ctrl-C has reached it already."""
    passed_on = {signal.SIGTERM: lambda *_: running.terminate(), signal.SIGINT: lambda *_: None}
    before = {number: signal.signal(number, answer) for number, answer in passed_on.items()}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def digest(folder: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        content.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()


def asked(arguments: Sequence[str]) -> Pipeline:
    own: dict[str, str] = {}
    search = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name in ("training", "test", "require", "folder", "format", "serve"):
            own[name] = value
        else:
            search.append(argument)
    if missing := {"training", "test", "require"} - own.keys():
        sys.exit(f"{', '.join(f'{name}=' for name in sorted(missing))} is missing.\n\n{__doc__}")
    return pipeline_of(own, search)


def pipeline_of(own: Mapping[str, str], search: Sequence[str]) -> Pipeline:
    folder = Path(own.get("folder", "pipeline"))
    others = {name: value for name, value in own.items() if name != "folder"}
    return Pipeline(**others, folder=folder, search=tuple(search))


if __name__ == "__main__":
    run(asked(sys.argv[1:]))
