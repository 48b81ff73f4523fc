"""``lav predict``: lists on stdin, videos, the CSV form, and how a half-finished output goes on."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from closed import as_nobody, open_place

from lightning_automl_vision.answers_file import ASKED, AnswersFile, fingerprint, line_of, rows_of
from lightning_automl_vision.asking import Asking, answers
from lightning_automl_vision.data.files import IMAGE_SUFFIXES, files_below
from lightning_automl_vision.data.inputs import Picture, pictures_of
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.data.video import Video, check_every
from lightning_automl_vision.errors import ConfigError, DataError, Interrupted, StorageError
from lightning_automl_vision.jobs.predict import Config
from lightning_automl_vision.model_folder import ModelCard
from lightning_automl_vision.predictor import Predictor
from lightning_automl_vision.samples import ScoredLabels
from lightning_automl_vision.settings import DataConfig

Network = Callable[[Any], Any]


def brightness(pictures: Any) -> list[ScoredLabels]:
    shares = [float(pixels.mean() / 255) for pixels in pictures]
    return [ScoredLabels(scores=np.array([1 - share, share], np.float32)) for share in shares]


def predictor(network: Network = brightness) -> Predictor:
    card = ModelCard(
        task="image_classification", name="bright", parameters={}, image_size=8, labels=["dark", "light"], settings={}
    )
    return Predictor(card=card, resizing=CenterCrop(8, 8), network=network)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures, one lighter than the other, the fifth of which is none."""
    for number in range(9):
        path = tmp_path / "in" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((10, 10, 3), 20 * number, np.uint8))
    (tmp_path / "in" / "4.png").write_text("none")
    return tmp_path / "in"


def asking(
    source: Path | str, output: Path, *, network: Network = brightness, asked: Any = None, **keys: Any
) -> Asking:
    config = Config(name="predict", input=str(source), output=str(output), **{"batch_size": 2, **keys})
    file = AnswersFile(folder=output, form=config.format, asked=asked or {"model": "first"})
    pictures = pictures_of(config.input, DataConfig(), outside=config.output)
    return Asking(predictor=predictor(network), job=config, pictures=pictures, file=file)


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class Stopping:
    """A network that is interrupted when it is asked once too often."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, pictures: Any) -> list[ScoredLabels]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return brightness(pictures)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("torn", [b"", b'{"filename": "3.p', b'"3.png","{""probs"": [0.', b"\n"])
def test_an_interrupted_command_goes_on_where_it_was(folder: Path, tmp_path: Path, form: str, torn: bytes) -> None:
    whole = asking(folder, tmp_path / "whole", format=form)
    whole.run()
    output = tmp_path / "out"
    with pytest.raises(Interrupted, match=r"rows stand in .*predictions.*part. Repeat the command to go on"):
        asking(folder, output, network=Stopping(2), format=form).run()
    part = output / f"predictions.{form}.part"
    assert not (output / f"predictions.{form}").exists()
    standing = part.read_bytes().count(b"\n")
    assert 0 < standing <= 4
    part.write_bytes(part.read_bytes() + torn)
    seen: list[int] = []

    def counting(pictures: Any) -> list[ScoredLabels]:
        seen.append(len(pictures))
        return brightness(pictures)

    again = asking(folder, output, network=counting, format=form)
    assert again.run() == whole.found
    assert sum(seen) == 8 - standing
    assert (output / f"predictions.{form}").read_bytes() == (tmp_path / "whole" / f"predictions.{form}").read_bytes()
    assert [path.name for path in output.iterdir()] == [f"predictions.{form}"]
    assert len(again.faults) == 1


def test_a_killed_process_leaves_rows_that_the_same_command_keeps(folder: Path, tmp_path: Path) -> None:
    """Nothing is said at the end: rows are on disk as they come."""
    ready, released = threading.Event(), threading.Event()
    calls: list[int] = []

    def waiting(pictures: Any) -> list[ScoredLabels]:
        calls.append(1)
        if len(calls) == 3:
            ready.set()
            released.wait(30)
        return brightness(pictures)

    thread = threading.Thread(target=asking(folder, tmp_path / "out", network=waiting).run)
    thread.start()
    assert ready.wait(30)
    part = tmp_path / "out" / "predictions.jsonl.part"
    standing = lines(part)
    released.set()
    thread.join()
    assert [row["filename"] for row in standing] == [f"{number}.png" for number in range(len(standing))]
    assert standing


def test_rows_of_another_model_or_of_other_pictures_are_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(Interrupted):
        asking(folder, output, network=Stopping(2)).run()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    reason = r'half of another command\'s predictions: the model was "first", and is "second". Name another folder'
    with pytest.raises(ConfigError, match=reason):
        asking(folder, output, asked={"model": "second"}).run()
    with pytest.raises(ConfigError, match="tta was null, and is "):
        asking(folder, output, asked={"model": "first", "tta": ["flip"]}).run()
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    (folder / "0.png").rename(folder / "00.png")
    with pytest.raises(ConfigError, match=r"has a row for 0\.png where 00\.png should be"):
        asking(folder, output).run()


def test_an_output_that_is_complete_is_never_touched(folder: Path, tmp_path: Path) -> None:
    asking(folder, tmp_path / "out").run()
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"already holds predictions\.jsonl"):
        asking(folder, tmp_path / "out").run()
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def test_rows_that_nobody_said_what_they_answer_are_not_trusted(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        asking(folder, tmp_path / "out", network=Stopping(2)).run()
    (tmp_path / "out" / ASKED).write_text('{"mod')
    again = asking(folder, tmp_path / "out")
    again.run()
    assert again.rows == 9
    assert len(lines(tmp_path / "out" / "predictions.jsonl")) == 9


@pytest.mark.parametrize("pattern", ["", "**/*.png", "*/*.png", "*/*"])
def test_a_folder_that_may_not_be_looked_into_has_a_row(pattern: str) -> None:
    with open_place() as place:
        for name in ("a/0.png", "b/1.png", "c/2.png"):
            (place / name).parent.mkdir()
            cv2.imwrite(str(place / name), np.zeros((4, 4, 3), np.uint8))
        (place / "b").chmod(0)
        with as_nobody():
            found = pictures_of(os.path.join(place, pattern), DataConfig())
            with pytest.raises(DataError, match=r"/b: the folder may not be read .* Allow it with chmod a\+rx /\S+/b"):
                next(iter(files_below(str(place / "b"), IMAGE_SUFFIXES)))
            with pytest.raises(DataError, match=r"b/1\.png: may not be read \(permission denied\)\."):
                pictures_of(str(place / "b" / "1.png"), DataConfig())
        (place / "b").chmod(0o755)
    assert [picture.name for picture in found] == ["a/0.png", "c/2.png", str(place / "b")]
    assert [picture.fault is None for picture in found] == [True, True, False]


def test_an_output_without_answers_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "none.png").write_text("none")
    (tmp_path / "there").mkdir()
    for folder in ("out", "above/out", "there"):
        with pytest.raises(DataError):
            asking(tmp_path / "none.png", tmp_path / folder).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.png", "there"]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"out cannot be written: not a directory\. Name .*: output=PATH"):
        asking(tmp_path / "none.png", tmp_path / "file" / "out").run()


def test_a_row_of_csv_is_the_name_and_the_answer(folder: Path, tmp_path: Path) -> None:
    asking(folder, tmp_path / "rows", format="jsonl").run()
    (folder / 'a "quoted", name.png').write_bytes((folder / "0.png").read_bytes())
    asking(folder, tmp_path / "out", format="csv").run()
    rows = list(csv.reader(io.StringIO((tmp_path / "out" / "predictions.csv").read_text())))
    assert [name for name, _ in rows] == [*(f"{number}.png" for number in range(9)), 'a "quoted", name.png']
    expected = lines(tmp_path / "rows" / "predictions.jsonl")
    assert [{"filename": name, **json.loads(answer)} for name, answer in rows[:9]] == expected
    assert [*json.loads(rows[4][1])] == ["error"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("name", ["a.png", "a\u2028b\x0b.png", "tab\t,;.png", "\udcff.png", "日本.png"])
def test_a_row_is_read_back_whatever_the_name(form: str, name: str) -> None:
    row = {"filename": name, "probs": [0.25, None], "labels": ["ü", 'x"y']}
    content = line_of(row, form).encode("utf-8", errors="surrogateescape")
    assert rows_of(content * 2, form) == ([row, row], 2 * len(content))
    for length in range(len(content)):
        assert rows_of(content + content[:length], form) == ([row], len(content))


def say(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said), encoding="ascii"))


def test_names_on_stdin_are_bytes_between_newlines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = ["bad\udcff\udcfe.png", "a\u2028b\x0c\x85.png", "{b}.png"]
    for name in said:
        (folder / name).write_bytes((folder / "1.png").read_bytes())
    say(os.fsencode("\r\n".join(said)), monkeypatch)
    assert [picture.name for picture in pictures_of("-", DataConfig())] == said


def test_a_line_on_stdin_that_names_nothing_has_an_answer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    say(b'a.png\n{"label": 1}\n{c}.png\n', monkeypatch)
    _, *faults = pictures_of("-", DataConfig())
    assert [fault.name for fault in faults] == ["stdin:2", "stdin:3"]
    assert all(f"{fault.name}: " in str(fault.fault) and "as ./{b}.png" in str(fault.fault) for fault in faults)


def test_a_list_may_be_said_on_stdin(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = f'1.png\n\n  {folder}/2.png \n{{"image_url": "3.png", "label": 1}}\nhttps://host/x.png\nnot there.png\n'
    say(said.encode(), monkeypatch)
    pictures = pictures_of("-", DataConfig())
    assert [picture.name for picture in pictures] == [
        "1.png",
        f"{folder}/2.png",
        "3.png",
        "https://host/x.png",
        "not there.png",
    ]
    assert [picture.image for picture in pictures[:3]] == [str(folder / f"{number}.png") for number in (1, 2, 3)]
    said_of = {picture.name: answer for picture, answer in answers(predictor(), [pictures[0], pictures[4]], 16)}
    assert isinstance(said_of["1.png"], ScoredLabels)
    assert isinstance(said_of["not there.png"], DataError)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "input=-: nothing was said on stdin"),
        ("\n \n", "input=-: nothing was said on stdin"),
        ('\n{"label": 1}', 'stdin:2: .*names no picture. Write a path or URL on each line, or {"image_url": "a.jpg"}'),
        ('{"image_url": ""}', "stdin:1: "),
        ("{", "stdin:1: "),
    ],
)
def test_a_list_that_says_nothing_is_refused(said: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    say(said.encode(), monkeypatch)
    with pytest.raises(DataError, match=reason):
        pictures_of("-", DataConfig())


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames, one lighter than the other."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(10):
        writer.write(np.full((48, 64, 3), (0, 0, 25 * number), np.uint8))
    writer.release()
    return path


def asking_video(clip: Path, output: Path, *, every: int = 1, network: Network = brightness, **keys: Any) -> Asking:
    config = Config(name="predict", input=str(clip), output=str(output), every=every, batch_size=2, **keys)
    file = AnswersFile(folder=output, asked={"every": every})
    video = Video(path=str(clip), every=every)
    return Asking(predictor=predictor(network), job=config, pictures=(), video=video, file=file)


def test_the_frames_of_a_video_are_pictures_with_numbers(clip: Path, tmp_path: Path) -> None:
    asking_video(clip, tmp_path / "all").run()
    rows = lines(tmp_path / "all" / "predictions.jsonl")
    assert [row["filename"] for row in rows] == [f"clip.avi#{number:06d}" for number in range(10)]
    light = [row["probs"][1] for row in rows]
    assert light == sorted(light)
    assert light[8] == pytest.approx(200 / 255 / 3, abs=0.02)
    asking_video(clip, tmp_path / "some", every=4, draw=True).run()
    assert lines(tmp_path / "some" / "predictions.jsonl") == rows[::4]
    drawn = sorted(path.name for path in (tmp_path / "some" / "pictures" / "clip").iterdir())
    assert drawn == ["000000.jpg", "000004.jpg", "000008.jpg"]
    blue, _, red = cv2.imread(str(tmp_path / "some" / "pictures" / "clip" / "000008.jpg"))[5, 110].tolist()
    assert red > 150 > 60 > blue
    assert Video(path=str(clip), every=4).estimate == 3


def test_a_video_goes_on_where_it_was(clip: Path, tmp_path: Path) -> None:
    asking_video(clip, tmp_path / "whole", every=2).run()
    with pytest.raises(Interrupted):
        asking_video(clip, tmp_path / "out", every=2, network=Stopping(2)).run()
    asking_video(clip, tmp_path / "out", every=2).run()
    assert lines(tmp_path / "out" / "predictions.jsonl") == lines(tmp_path / "whole" / "predictions.jsonl")


def test_a_video_that_cannot_be_used_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.mp4: there is no such file"):
        Video(path=str(tmp_path / "nothing.mp4")).check(1000)
    with pytest.raises(DataError, match=r"a frame has 64x48 pixels, more than data\.maximum_image_pixels=1000"):
        Video(path=str(clip)).check(1000)
    with pytest.raises(ConfigError, match=r"every=2: input=photos is no video"):
        check_every("photos", 2)
    check_every("a.MP4", 2)
    check_every("photos", None)


def test_a_file_that_is_no_video_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\x10\0mdat" + bytes(4000))
    code = (
        "from lightning_automl_vision.data.video import Video\n"
        "from lightning_automl_vision.errors import DataError\n"
        f"try: Video(path={str(tmp_path / 'bad.mp4')!r}).check(10**9)\n"
        "except DataError as error: print(error)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "bad.mp4: is no video that OpenCV can read" in process.stdout
    assert process.stderr == ""


def test_a_model_is_told_from_another_by_its_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    (model / "settings.json").write_text("{}")
    weights = bytearray(np.random.default_rng(0).bytes(5 << 20))
    (model / "weights.safetensors").write_bytes(weights)
    first = fingerprint(model)
    (model / "README.md").write_text("only to be read")
    assert fingerprint(model) == first
    (model / "settings.json").write_text('{"fill": 3}')
    second = fingerprint(model)
    assert (second["model"], second["settings"] == first["settings"]) == (first["model"], False)
    weights[: 1 << 20] = bytes(1 << 20)
    (model / "weights.safetensors").write_bytes(weights)
    assert fingerprint(model)["model"] != first["model"]


def test_what_is_read_is_prepared_before_the_network_asks_for_it(folder: Path) -> None:
    """While the network works on a batch, the next one is read: the reader is never behind by a whole batch."""
    asked: list[str] = []
    told = predictor()
    pictures = [Picture(str(number), str(folder / "1.png"), str(number)) for number in range(40)]

    class Listening(Predictor):
        def picture(self, image: Any) -> Any:
            asked.append(str(image))
            return super().picture(image)

    listening = Listening(card=told.card, resizing=told.resizing, network=told.network)
    answered = answers(listening, pictures, 8)
    next(answered)
    until = time.monotonic() + 20
    while len(asked) < 16 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(asked) >= 16, "nothing is read before it is asked for"
