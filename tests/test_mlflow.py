"""MLflow: models that it loads and serves, runs that it keeps, a registry; what needs MLflow runs where it is there."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import DETECTION, MULTICLASS, MULTILABEL, SEGMENTATION
from pictures import write_folders, write_picture
from untrained import save_untrained

from lightning_automl_vision import train
from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import ConfigError, Interrupted, StorageError
from lightning_automl_vision.export.packagings import MlflowConfig
from lightning_automl_vision.export.packing import pack_for_mlflow
from lightning_automl_vision.export.registering import register, registry_of
from lightning_automl_vision.jobs import export as verb
from lightning_automl_vision.jobs import predict
from lightning_automl_vision.mlflow_runs import (
    BEST_CHILD,
    PARENT,
    TrackedRun,
    absolute,
    asked_for,
    begin_sweep,
    flat,
    publish,
    publish_sweep,
    telling_of_an_end,
    tracked,
)
from lightning_automl_vision.model_folder import read_card
from lightning_automl_vision.result import PrimaryMetric, Result

is_there = find_spec("mlflow") is not None and find_spec("pandas") is not None
needs_mlflow = pytest.mark.skipif(not is_there, reason="MLflow is not installed: pip install -e '.[mlflow]'")
without_mlflow = pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself wherever it is imported

TINY = {
    "model": {"name": "timm", "architecture": "test_vit3", "pretrained": False},
    "trainer": {"accelerator": "cpu"},
    "quiet": True,
}
SHORT = {
    **{f"{side}_size": 32 for side in ("training_crop", "validation_crop", "validation_resize")},
    **{"number_of_epochs": 2, "training_batch_size": 4, "random_seed": 3, "number_of_workers": 0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("run"), MULTICLASS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(3):
        write_picture(folder / f"{number}.png", tuple(random.integers(0, 255, 3)), random)
    return folder


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def packed(run: Path, output: Path, **keys: Any) -> Path:
    card, found = read_card(run)
    pack_for_mlflow(card, found, output, MlflowConfig(**keys))
    return output


def loaded(folder: Path) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(str(folder))


def frame(values: list[Any]) -> Any:
    import pandas

    return pandas.DataFrame({"image": values})


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.png"))]


def predicted(run: Path, photos: Path, output: Path) -> list[Any]:
    job = {"name": "predict", "input": str(photos), "output": str(output)}
    predict.run(settings(checkpoint=str(run), job=job, quiet=True))
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "filename"} for row in rows]


@needs_mlflow
@pytest.mark.parametrize(
    "task",
    [
        MULTICLASS,
        DETECTION,
        pytest.param(MULTILABEL, marks=pytest.mark.slow),
        pytest.param(SEGMENTATION, marks=pytest.mark.slow),
    ],
)
def test_it_says_what_predict_says(task: str, photos: Path, tmp_path: Path) -> None:
    run = save_untrained(tmp_path / "run", task)
    wanted = predicted(run, photos, tmp_path / "predicted")
    folder = shutil.move(packed(run, tmp_path / "out"), tmp_path / "elsewhere")
    shutil.rmtree(run)
    model = loaded(folder)
    answers = model.predict(frame(contents(photos)))
    assert answers.to_dict("records") == wanted
    assert model.metadata.signature.inputs.input_names() == ["image"]
    outputs = model.metadata.signature.outputs
    assert [name for name in outputs.input_names() if name not in outputs.optional_input_names()] == [*answers.columns]
    assert outputs.optional_input_names() == (["decided"] if task in (MULTICLASS, MULTILABEL) else [])


@needs_mlflow
def test_the_folder_holds_no_pickle_and_does_not_tell_where_it_was_made(run: Path, tmp_path: Path) -> None:
    folder = packed(run, tmp_path / "out")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    inside = {f"artifacts/{name}" for name in ("model.json", "settings.json", "labels.json", "weights.safetensors")}
    beside = {"MLmodel", "model.py", "conda.yaml", "python_env.yaml", "requirements.txt"}
    assert inside | beside <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".ckpt"))]
    for name in names - {"artifacts/weights.safetensors"}:
        text = (folder / name).read_text()
        assert not [place for place in (str(tmp_path), str(run), str(Path.home()), os.getcwd()) if place in text], name
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in requirements)
    assert {"lightning-automl-vision", "torch", "pandas"} <= {line.partition("==")[0] for line in requirements}


@needs_mlflow
def test_base64_is_taken_as_bytes_are(run: Path, photos: Path, tmp_path: Path) -> None:
    model, pictures = loaded(packed(run, tmp_path / "out")), contents(photos)
    wanted = model.predict(frame(pictures))
    for encode in (base64.b64encode, base64.encodebytes):
        assert model.predict(frame([encode(picture).decode() for picture in pictures])).equals(wanted)
    assert model.predict(frame(pictures), params={"batch_size": 2}).columns.equals(wanted.columns)
    with pytest.raises(Exception, match="batch_size=0: the pictures at once must be an integer from 1"):
        model.predict(frame(pictures), params={"batch_size": 0})


@needs_mlflow
def test_what_is_no_picture_has_its_reason_beside_the_others(run: Path, photos: Path, tmp_path: Path) -> None:
    model, (good, *_) = loaded(packed(run, tmp_path / "out")), contents(photos)
    answers = model.predict(frame(["?", good, b"junk"])).to_dict("records")
    assert answers[0] == {"error": "The picture is not base64.", "probs": None, "labels": None}
    assert answers[1]["error"] is None
    assert answers[1]["labels"] == ["dark", "bright"]
    assert answers[2]["error"].startswith("The picture is not an image in a known format")
    with pytest.raises(Exception, match=r"None of the pictures can be used\. The first: The picture is not base64"):
        model.predict(frame(["?", "?"]))


@needs_mlflow
def test_a_text_is_understood_as_the_server_does(run: Path, photos: Path, tmp_path: Path) -> None:
    model, (good, *_) = loaded(packed(run, tmp_path / "out")), contents(photos)
    item = {"image_base64": base64.b64encode(good).decode()}
    asks = {**item, "model_explainability": True}
    answers = model.predict(frame([json.dumps(item), json.dumps(asks), "https://host/a.jpg"])).to_dict("records")
    assert answers[0]["labels"] == ["dark", "bright"]
    assert answers[1]["error"].startswith("image[1]: this version gives no explanations")
    assert answers[2]["error"].startswith("image[2] is a URL: this server fetches nothing from elsewhere")


@needs_mlflow
def test_edited_settings_are_obeyed(run: Path, photos: Path, tmp_path: Path) -> None:
    folder = packed(run, tmp_path / "out")
    before = loaded(folder).predict(frame(contents(photos)))
    file = folder / "artifacts" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "valid_resize_size": 200}))
    assert not loaded(folder).predict(frame(contents(photos))).equals(before)


@needs_mlflow
def test_a_registered_model_is_a_copy_and_each_time_another_version(run: Path, photos: Path, tmp_path: Path) -> None:
    import mlflow

    uri = registry_of(None)
    assert uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    for version in (1, 2):
        folder = packed(run, tmp_path / f"out{version}", register="blobs")
        shutil.rmtree(folder)
    mlflow.set_tracking_uri(uri)
    try:
        answers = mlflow.pyfunc.load_model("models:/blobs/2").predict(frame(contents(photos)))
        assert answers.to_dict("records") == predicted(run, photos, tmp_path / "predicted")
        client = mlflow.MlflowClient(uri)
        versions = client.search_model_versions("name='blobs'")
        assert sorted(int(version.version) for version in versions) == [1, 2]
        assert all(client.get_run(version.run_id).info.status == "FINISHED" for version in versions)
    finally:
        mlflow.set_tracking_uri(None)


@needs_mlflow
def test_a_registry_that_cannot_be_reached_is_one_line_and_the_model_stands(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mlflow\.register=blobs: .* The model stands in .*out") as error:
        packed(run, tmp_path / "out", register="blobs", tracking_uri="ftp://nowhere")
    assert "\n" not in str(error.value)
    assert (tmp_path / "out" / "MLmodel").exists()


@needs_mlflow
def test_a_training_tells_parameters_metrics_of_each_epoch_and_files(tmp_path: Path) -> None:
    photos = write_folders(tmp_path / "photos", per_class=4)
    folder = tmp_path / "run"
    result = train(**TINY, data={"training": str(photos)}, training=SHORT, logger="mlflow", output_dir=str(folder))
    own = TrackedRun.of(folder)
    assert own is not None
    assert own.tracking_uri == f"sqlite:///{folder / 'mlflow.db'}"
    kept = own.client.get_run(own.run_id)
    assert (kept.info.status, kept.info.run_name) == ("FINISHED", "run")
    assert kept.data.params["training.number_of_epochs"] == "2"
    assert kept.data.params["model.architecture"] == "test_vit3"
    assert len(own.client.get_metric_history(own.run_id, "accuracy")) == 2
    assert kept.data.metrics["best/accuracy"] == pytest.approx(result.metrics["accuracy"])
    files = {file.path for file in own.client.list_artifacts(own.run_id)}
    assert {"model", "result.json", "config.yaml", "lock.json"} <= files
    assert {file.path for file in own.client.list_artifacts(own.run_id, "model")} >= {"model/model.json"}
    known = register(packed(folder, tmp_path / "out"), "blobs", own.tracking_uri, folder)
    assert own.client.get_model_version("blobs", known.version).run_id == own.run_id


def asked(folder: Path, **keys: Any) -> Any:
    return settings(logger="mlflow", output_dir=str(folder), **{"resume": "auto", **keys})


def with_node(asked: Any, **keys: Any) -> Any:
    return replace(asked, logger={"mlflow": {**asked.logger["mlflow"], **keys}})


def result_of(folder: Path, status: str, value: float | None = 0.5) -> Result:
    return Result(
        status=status,
        task=MULTICLASS,
        model="timm",
        primary_metric=PrimaryMetric(name="accuracy", value=value, epoch=1),
        metrics={"accuracy": value, "undefined": None},
        folder=str(folder),
    )


@needs_mlflow
def test_trials_lie_below_their_sweep_which_names_the_best_of_them(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    trials = [sweep / f"trial_{number:04}" for number in range(3)]
    for folder in trials:
        folder.mkdir(parents=True)
    begin_sweep(asked(sweep), sweep, {"trials": 3})
    for number, folder in enumerate(trials):
        told = tracked(asked(folder), folder)
        assert told.logger["mlflow"]["run_id"] == TrackedRun.of(folder).run_id  # type: ignore[union-attr]
        publish(told, folder, result_of(folder, ("completed", "pruned", "failed")[number], number / 10))
    publish_sweep(asked(sweep), sweep, trials[1], {"accuracy": 0.1})
    above, *below = (TrackedRun.of(folder) for folder in (sweep, *trials))
    assert above is not None
    client = above.client
    assert {one.tracking_uri for one in below if one is not None} == {above.tracking_uri}
    kept = client.get_run(above.run_id)
    assert kept.data.tags[BEST_CHILD] == below[1].run_id  # type: ignore[union-attr]
    assert (kept.data.params, kept.info.status) == ({"trials": "3"}, "FINISHED")
    found = client.search_runs([above.experiment_id], filter_string=f"tags.`{PARENT}` = '{above.run_id}'")
    assert {one.info.run_name: one.info.status for one in found} == {
        "trial_0000": "FINISHED",
        "trial_0001": "FINISHED",
        "trial_0002": "FAILED",
    }
    assert {one.info.run_name: one.data.tags["status"] for one in found}["trial_0001"] == "pruned"


@needs_mlflow
@pytest.mark.parametrize(
    ("error", "state"),
    [(Interrupted("Interrupted."), "KILLED"), (KeyboardInterrupt(), "KILLED"), (StorageError("It is full."), "FAILED")],
    ids=["asked to end", "ended at once", "broken"],
)
def test_a_sweep_that_is_ended_runs_no_more_and_goes_on_in_its_run(
    error: BaseException, state: str, tmp_path: Path
) -> None:
    sweep, trial = tmp_path / "sweep", tmp_path / "sweep" / "trial_0000"
    trial.mkdir(parents=True)

    def ended(inside: BaseException) -> None:
        with telling_of_an_end(asked(sweep), sweep):
            raise inside

    with pytest.raises(type(error)):
        ended(error)  # before there is a run
    assert not (sweep / "mlflow.json").exists()
    begin_sweep(asked(sweep), sweep, {})
    tracked(asked(trial), trial)  # which is heard of no more
    with pytest.raises(type(error)):
        ended(error)
    own, child = TrackedRun.of(sweep), TrackedRun.of(trial)
    assert own is not None
    assert child is not None
    assert [own.client.get_run(one.run_id).info.status for one in (own, child)] == [state, state]
    begin_sweep(asked(sweep), sweep, {})
    tracked(asked(trial), trial)
    assert [own.client.get_run(one.run_id).info.status for one in (own, child)] == ["RUNNING", "RUNNING"]
    publish(asked(trial), trial, result_of(trial, "completed"))
    publish_sweep(asked(sweep), sweep, trial, {})
    assert [own.client.get_run(one.run_id).info.status for one in (own, child)] == ["FINISHED", "FINISHED"]


@needs_mlflow
def test_a_trial_that_died_without_a_word_has_failed_when_its_sweep_is_done(tmp_path: Path) -> None:
    sweep, trial = tmp_path / "sweep", tmp_path / "sweep" / "trial_0000"
    trial.mkdir(parents=True)
    begin_sweep(asked(sweep), sweep, {})
    tracked(asked(trial), trial)
    publish_sweep(asked(sweep), sweep, None, {})
    child = TrackedRun.of(trial)
    assert child is not None
    assert child.client.get_run(child.run_id).info.status == "FAILED"


@needs_mlflow
def test_what_goes_on_goes_on_in_its_run(tmp_path: Path) -> None:
    first = tracked(asked(tmp_path), tmp_path).logger["mlflow"]
    publish(asked(tmp_path), tmp_path, result_of(tmp_path, "interrupted"))
    own = TrackedRun.of(tmp_path)
    assert own is not None
    assert own.client.get_run(own.run_id).info.status == "KILLED"
    again = tracked(asked(tmp_path, trainer={"max_steps": 5}), tmp_path).logger["mlflow"]
    assert again == first
    assert own.client.get_run(own.run_id).info.status == "RUNNING"
    anew = tracked(asked(tmp_path, resume="never"), tmp_path).logger["mlflow"]
    assert anew["run_id"] != first["run_id"]
    assert anew["tracking_uri"] == first["tracking_uri"]


@needs_mlflow
def test_folds_lie_below_the_run_that_they_make(tmp_path: Path) -> None:
    together = asked(tmp_path, data={"folds": 2, "training": "photos"})
    assert tracked(together, tmp_path, several=True) == together
    (tmp_path / "fold_0").mkdir()
    tracked(asked(tmp_path / "fold_0"), tmp_path / "fold_0")
    above, below = TrackedRun.of(tmp_path), TrackedRun.of(tmp_path / "fold_0")
    assert above is not None
    assert below is not None
    assert above.client.get_run(below.run_id).data.tags[PARENT] == above.run_id


@needs_mlflow
def test_a_store_of_the_users_own_is_the_same_from_every_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tracked(with_node(asked(tmp_path / name), tracking_uri="sqlite:///all.db"), tmp_path / name)
    runs = [TrackedRun.of(tmp_path / name) for name in ("a", "b")]
    assert {one.tracking_uri for one in runs if one is not None} == {f"sqlite:///{tmp_path / 'all.db'}"}
    assert PARENT not in runs[1].client.get_run(runs[1].run_id).data.tags  # type: ignore[union-attr]


@needs_mlflow
def test_a_tracker_that_cannot_be_told_costs_no_training(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("lightning_automl_vision"), "propagate", True)
    tracked(asked(tmp_path), tmp_path)
    note = json.loads((tmp_path / "mlflow.json").read_text())
    (tmp_path / "mlflow.json").write_text(json.dumps({**note, "run_id": "gone"}))
    publish(asked(tmp_path), tmp_path, result_of(tmp_path, "completed"))
    assert "MLflow could not be told what became of" in caplog.text


@needs_mlflow
def test_a_store_that_cannot_be_had_ends_it_in_one_line(tmp_path: Path) -> None:
    wrong = with_node(asked(tmp_path), tracking_uri="ftp://nowhere")
    with pytest.raises(ConfigError, match=r"^logger=mlflow: MLflow cannot begin a run: .*logger\.mlflow\.tracking_uri"):
        tracked(wrong, tmp_path)
    assert not (tmp_path / "mlflow.json").exists()


def test_other_trackers_are_none_of_its_business(tmp_path: Path) -> None:
    csv = settings(logger="csv", output_dir=str(tmp_path))
    assert asked_for(csv.logger) is None
    assert tracked(csv, tmp_path) is csv
    begin_sweep(csv, tmp_path, {})
    publish(csv, tmp_path, result_of(tmp_path, "completed"))
    assert not list(tmp_path.iterdir())


def test_the_environments_store_is_used_where_none_is_named(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    found = asked_for(asked(tmp_path).logger)
    assert found is not None
    assert found[1]["tracking_uri"] == "http://localhost:5000"
    assert registry_of(None) == "http://localhost:5000"
    assert registry_of("sqlite:///a.db") == f"sqlite:///{tmp_path / 'a.db'}"
    assert absolute("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_parameters_have_the_names_of_keys() -> None:
    values = {"data": {"split": None, "url_prefixes": {"https://a": "b"}}, "seed": 3, "nothing": {}}
    assert dict(flat(values)) == {
        "data.split": None,
        "data.url_prefixes": {"https://a": "b"},
        "seed": 3,
        "nothing": {},
    }


@without_mlflow
def test_without_mlflow_the_command_is_told_before_there_is_a_folder(run: Path, tmp_path: Path) -> None:
    answer = r"pip install 'lightning-automl-vision\[mlflow\]'"
    with pytest.raises(ConfigError, match=rf"^logger=mlflow: mlflow is not installed\. .*{answer}"):
        train(**TINY, data={"training": "photos"}, training=SHORT, logger="mlflow", output_dir="run")
    with pytest.raises(ConfigError, match=rf"^format=mlflow: mlflow.* not installed\. .*{answer}"):
        packed(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"precision": 16}, r"^precision: format=mlflow has no use for it"),
        ({"parity": {"images": 3}}, r"^parity\.images: format=mlflow has no use for it"),
        ({"triton": {"name": "a"}}, r"^triton\.name: format=mlflow has no use for it"),
        ({"mlflow": {"tracking_uri": "a"}}, r"^mlflow\.tracking_uri=a: nothing goes there\. Add mlflow\.register=NAME"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(keys: Any, answer: str, run: Path, tmp_path: Path) -> None:
    job = {"name": "export", "format": "mlflow", "output": str(tmp_path / "out"), **keys}
    with pytest.raises(ConfigError, match=answer):
        verb.run(settings(checkpoint=str(run), job=job))
    assert not (tmp_path / "out").exists()


def lav(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_automl_vision", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@needs_mlflow
@pytest.mark.slow
def test_the_command_registers_and_a_sweep_is_tracked(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", per_class=4)
    words = ["model=timm", "model.architecture=test_vit3", "model.pretrained=false", "trainer.accelerator=cpu"]
    words += [f"training.{name}={value}" for name, value in SHORT.items()]
    process = lav(
        *(
            "-m",
            "data.training=photos",
            *words,
            "training.learning_rate=0.01,0.02",
            "logger=mlflow",
            "output_dir=sweep",
        ),
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    above, best = TrackedRun.of(tmp_path / "sweep"), TrackedRun.of(tmp_path / "sweep" / "best")
    assert above is not None
    assert best is not None
    assert above.client.get_run(above.run_id).data.tags[BEST_CHILD] == best.run_id
    process = lav("export", "sweep/best", "format=mlflow", "output=out", "mlflow.register=blobs", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert f"models:/blobs/1 in sqlite:///{tmp_path}/mlflow.db" in process.stdout


@needs_mlflow
@pytest.mark.slow
def test_a_sweep_that_is_interrupted_is_killed_until_it_goes_on(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", per_class=8)
    words = ["model=timm", "model.architecture=test_vit3", "model.pretrained=false", "trainer.accelerator=cpu"]
    words += [f"training.{name}={value}" for name, value in {**SHORT, "number_of_epochs": 8}.items()]
    words += ["-m", "data.training=photos", "training.learning_rate=0.01,0.02", "logger=mlflow", "output_dir=sweep"]
    command = [sys.executable, "-m", "lightning_automl_vision", *words]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not list((tmp_path / "sweep").glob("trial_*/metrics.jsonl")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert running.returncode == Interrupted.exit_code, said
    own = TrackedRun.of(tmp_path / "sweep")
    assert own is not None

    def states() -> set[str]:
        return {run.info.status for run in own.client.search_runs([own.experiment_id])}

    assert own.client.get_run(own.run_id).info.status == "KILLED"
    assert "RUNNING" not in states()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert own.client.get_run(own.run_id).info.status == "FINISHED"
    assert "RUNNING" not in states()


@needs_mlflow
@pytest.mark.slow
def test_mlflow_serves_it(run: Path, photos: Path, tmp_path: Path) -> None:
    folder = packed(run, tmp_path / "out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        rows = [[base64.encodebytes(content).decode()] for content in contents(photos)]
        body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
        answered = asked_until_it_answers(f"http://127.0.0.1:{port}/invocations", body, server)
        assert answered["predictions"] == predicted(run, photos, tmp_path / "predicted")
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def asked_until_it_answers(url: str, body: bytes, server: subprocess.Popen[bytes]) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    until = time.monotonic() + 300
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


@needs_mlflow
@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="the extra export is not installed")
def test_an_exported_network_is_packed_with_its_runtime(run: Path, photos: Path, tmp_path: Path) -> None:
    job = {"name": "export", "format": "onnx", "output": str(tmp_path / "onnx"), "parity": {"images": 0}}
    verb.run(settings(checkpoint=str(run), job=job, quiet=True))
    folder = packed(tmp_path / "onnx", tmp_path / "out")
    assert "onnxruntime" in (folder / "requirements.txt").read_text()
    answers = loaded(folder).predict(frame(contents(photos))).to_dict("records")
    assert answers == predicted(tmp_path / "onnx", photos, tmp_path / "predicted")
