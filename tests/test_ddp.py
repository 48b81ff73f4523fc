"""Several processes train one model: as one would on all of their images, and judge it as one does."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pair import in_two
from pictures import write_folders, write_multilabel, write_objects

from lightning_automl_vision.api import settings
from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.data.sampling import EpochSampler
from lightning_automl_vision.data.shares import Share
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.run import RunFolder
from lightning_automl_vision.training.devices import check_trainer
from lightning_automl_vision.training.gathering import agreed, average, each, gathered, is_first, share, told, total
from lightning_automl_vision.training.local_ranks import LocalRank, LocalRanks, Place
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.session import TrainingSession, checked_transform

LABELS, BOXES, MASKS = "image_classification", "image_object_detection", "image_instance_segmentation"
PROGRAM = ("-m", "lightning_automl_vision")
SEED = 5
DETECTOR = {
    "pretrained": False,
    "min_size": 64,
    "max_size": 96,
    "box_samples_per_image": 16,
    "proposals_per_image": 30,
    "box_detections_per_image": 10,
}
PICTURES = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 32}
ASKED = {
    "classes": (LABELS, {"name": "resnet18", "pretrained": False}, PICTURES),
    "several classes": (f"{LABELS}_multilabel", {"name": "mobilenetv2", "pretrained": False}, PICTURES),
    "boxes": (BOXES, {"name": "fasterrcnn_resnet18_fpn", **DETECTOR}, {"layers_to_freeze": 1}),
    "sums": (BOXES, {"name": "yolov5", "model_size": "nano", "image_size": 64, "pretrained": False}, {}),
    "masks": (MASKS, {"name": "maskrcnn_resnet18_fpn", **DETECTOR}, {}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        LABELS: write_folders(folder / "photos", per_class=7),
        f"{LABELS}_multilabel": write_multilabel(folder / "several", 21),
        BOXES: write_objects(folder / "boxes", 21, side=64),
        MASKS: write_objects(folder / "masks", 21, side=64, polygons=True),
    }


def asked_for(kind, sources, folder, **more):
    task, model, training = ASKED[kind]
    usual = {
        "number_of_epochs": 1,
        "training_batch_size": 2,
        "validation_batch_size": 2,
        "number_of_workers": 0,
        "random_seed": SEED,
        "learning_rate_scheduler": "step",
        "learning_rate": 0.01,
        "nominal_batch_size": None,
        "ema_decay": 0.0,
        "gradient_clip": None,
    }
    return (
        settings(
            task=task,
            model=model,
            data={"training": str(sources[task]), "validation_data_size": 0.35, "cache": str(folder / "cache")},
            augment="none" if task.startswith(LABELS) else None,
            training={**usual, **training, **more},
            trainer={"accelerator": "cpu", "devices": 2, "max_steps": 1},
            output_dir=str(folder / "run"),
            quiet=True,
        )
        if task.startswith(LABELS)
        else settings(
            task=task,
            model=model,
            data={"training": str(sources[task]), "validation_data_size": 0.35, "cache": str(folder / "cache")},
            training={**usual, **training, **more},
            trainer={"accelerator": "cpu", "devices": 2, "max_steps": 1},
            output_dir=str(folder / "run"),
            quiet=True,
        )
    )


def prepared(asked):
    data = load_data(asked.data, asked.task.name, seed=SEED)
    return TrainingSession.prepare(asked, model_spec(asked.model.name), data, checked_transform(asked), SEED)


def part(images, count):
    return replace(images, samples=images.samples[:count], headers=images.headers[:count])


def trained(asked, folder):
    """One step and an evaluation, and what the model is worth on an odd number of images and on a single one."""
    Path(folder).mkdir(exist_ok=True)
    session = prepared(asked)
    fitted = session.fit(RunFolder(folder))
    validation = session.data.validation
    scores = [session.score(validation), session.score(part(validation, 1))]
    state = {name: value.numpy() for name, value in session.task.model.state_dict().items()}
    return fitted.best_metrics, scores, state


def step_of_one(asked):
    """The mean of what two halves of the batch ask for."""
    session = prepared(asked)
    task, model = session.task, session.task.model
    task.train()
    optimizer = make_optimizer(model, asked.training)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(weight) for weight in weights]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    for rank in range(2):
        model.load_state_dict(buffers, strict=False)
        loader = session._loader(session.data.training, session.transform, 2, shuffle=True, share=Share(rank, 2))
        batch = next(iter(loader))
        torch.manual_seed(SEED + rank)
        losses = sum(model.losses(batch).values())
        for gradient, own in zip(gradients, torch.autograd.grad(losses, weights, allow_unused=True), strict=True):
            factor = 2 * len(batch) if model.summed_over_images else 1  # the sum over all images, not the mean of two
            gradient += 0 if own is None else own * factor / 2
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimizer.step()
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


@pytest.mark.parametrize("kind", ASKED)
def test_two_processes_step_and_judge_as_one(kind, sources, tmp_path):
    asked = asked_for(kind, sources, tmp_path)
    (metrics, scores, state), (others, told_scores, _) = in_two(trained, asked, tmp_path / "run", folder=tmp_path)
    assert metrics == pytest.approx(others, nan_ok=True, abs=0)
    assert [dict(score) for score in scores] == [pytest.approx(score, nan_ok=True, abs=0) for score in told_scores]
    for name, value in step_of_one(asked).items():
        np.testing.assert_allclose(state[name], value, rtol=0, atol=1e-6, err_msg=name)
    alone = prepared(asked)
    alone.task.model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    validation = alone.data.validation
    assert len(validation) % 2
    assert alone.score(validation) == pytest.approx(scores[0], nan_ok=True, abs=0, rel=0)
    assert alone.score(part(validation, 1)) == pytest.approx(scores[1], nan_ok=True, abs=0, rel=0)


@pytest.mark.parametrize("count", [1, 6, 7, 21])
def test_processes_share_an_epoch_as_one_would_go_through_it(count):
    whole = [*EpochSampler(count, shuffle=True, seed=3)]
    parts = [EpochSampler(count, shuffle=True, seed=3, share=Share(rank, 2)) for rank in range(2)]
    assert {len([*part]) for part in parts} == {len(parts[0])} == {-(-count // 2)}
    mixed = [draw for pair in zip(*parts, strict=True) for draw in pair]
    assert mixed[:count] == whole
    assert [draw.repeat for draw in mixed[count:]] == [1] * (len(mixed) - count)


@pytest.mark.parametrize("count", [1, 4, 7, 9, 21])
def test_what_is_judged_is_dealt_in_whole_batches_and_comes_once(count):
    parts = [[*EpochSampler(count, shuffle=False, seed=3, share=Share(rank, 3), batch_size=4)] for rank in range(3)]
    for rank, part_of_it in enumerate(parts):
        sampler = EpochSampler(count, shuffle=False, seed=3, share=Share(rank, 3), batch_size=4)
        assert len(sampler) == len(part_of_it)
        assert all(draw.image // 4 % 3 == rank for draw in part_of_it)
    assert sorted(draw.image for drawn in parts for draw in drawn) == [*range(count)]


def test_windows_of_an_image_stay_with_one_process():
    images, sizes = [4, 0, 2, 1, 3, 4], [5, 1, 1, 9, 2, 5]
    parts = [Share(rank, 2).of_images(images, sizes) for rank in range(2)]
    assert sorted(place for mine in parts for place in mine) == [*range(6)]
    assert not {images[place] for place in parts[0]} & {images[place] for place in parts[1]}


def said():
    rank = share().rank
    found = {index: np.full(3 << 20, index, np.float64) for index in range(rank, 5, 2)}  # more than a part each
    whole = gathered(found)
    return {
        "agreed": agreed(rank == 1, False),
        "told": told(f"by {rank}"),
        "each": each(rank),
        "average": average({"loss": 2.0 + rank} if rank else {}, 3.0),
        "total": total({"dropped": 1 + rank}),
        "gathered": [*sorted(whole)],
        "values": all((value == index).all() for index, value in whole.items()),
        "first": is_first(),
    }


def test_processes_agree_and_the_first_has_all_that_was_found(tmp_path):
    first, second = in_two(said, folder=tmp_path)
    same = {"agreed": (True, False), "told": "by 0", "each": [0, 1], "average": {"loss": 3.0}, "total": {"dropped": 3}}
    assert first == {**same, "gathered": [0, 1, 2, 3, 4], "values": True, "first": True}
    assert second == {**same, "gathered": [1, 3], "values": True, "first": False}


def started(code, folder, number=1):
    console = folder / f"process_{number + 1}.log"
    place = Place(rank=number, size=3, local_rank=number, local_size=3, node_rank=0, address="127.0.0.1", port=1)
    with console.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=output, stderr=subprocess.STDOUT)
    return LocalRank(place, process, console)


def rank_that(words, code, folder, number=1):
    rank = started(f"import sys; print({words!r}); sys.exit({code})", folder, number)
    rank.process.wait(60)
    return rank


def test_the_error_of_the_process_that_failed_is_told_not_of_those_that_lost_it(tmp_path):
    lost = rank_that("RuntimeError: Connection closed by peer", 1, tmp_path)
    faulty = rank_that("Error: the disk is full\nmore", 6, tmp_path, number=2)
    fault = LocalRanks((lost, faulty)).fault()
    assert str(fault) == "the disk is full (process 3 of 3)."
    assert fault.exit_code == 6


def test_the_console_of_a_process_stays_where_it_failed(tmp_path):
    killed = started("import os; os.kill(os.getpid(), 9)", tmp_path, number=1)
    faulty = started("import sys; sys.exit('Error: the disk is full')", tmp_path, number=2)
    done = started("print('done')", tmp_path, number=3)
    for rank in (killed, faulty, done):
        rank.process.wait(60)
    others = started("import time; time.sleep(60)", tmp_path, number=4)
    LocalRanks((killed, faulty, done, others)).end(0.0)
    left = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert sorted(left) == ["process_2.log", "process_3.log"]
    assert left["process_2.log"].startswith("A process was killed by SIGKILL, most likely by a system that had no mem")
    assert left["process_3.log"] == "Error: the disk is full\n"


def test_processes_that_there_cannot_be_are_refused():
    asked = settings(trainer={"accelerator": "cpu", "devices": 2, "num_nodes": 2}).trainer
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT, NODE_RANK are not set"):
        check_trainer(asked)
    with pytest.raises(ConfigError, match="sync_batchnorm=true: torch does that on GPUs alone"):
        check_trainer(settings(trainer={"accelerator": "cpu", "sync_batchnorm": True}).trainer)


def command(photos, folder, *words, start=PROGRAM, **environment):
    asked = (
        "model=resnet18",
        "model.pretrained=false",
        f"data.training={photos}",
        *(f"training.{name}={value}" for name, value in PICTURES.items()),
        "training.training_batch_size=4",
        "training.random_seed=3",
        "training.early_stopping=false",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "output_dir=run",
    )
    return subprocess.Popen(
        [sys.executable, *start, *asked, *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def second_process(of, folder, seconds=300.0):
    """Of a training that has had its first evaluation, and could be gone on with."""
    until = time.monotonic() + seconds
    while not (folder / "run" / "checkpoints" / "last.ckpt").exists():
        assert time.monotonic() < until, "no evaluation"
        assert of.poll() is None, of.stdout.read()
        time.sleep(0.1)
    children = Path(f"/proc/{of.pid}/task/{of.pid}/children").read_text().split()
    return next(int(child) for child in children if b"lightning_automl_vision" in _words(child))


def _words(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def gone(pid, seconds=20.0):
    until = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    return not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_that_dies_takes_the_training_with_it(sources, tmp_path):
    run = command(sources[LABELS], tmp_path, "training.number_of_epochs=5000")
    os.kill(second_process(run, tmp_path), signal.SIGKILL)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 6
    assert "Error: A process was killed by SIGKILL, most likely by a system that had no memory left. Repeat" in said
    assert "(process 2 of 2)." in said
    assert "process_2.log" not in said
    assert (tmp_path / "run" / "process_2.log").read_text().startswith("A process was killed by SIGKILL")
    assert "2 processes train together: batches of" in (tmp_path / "run" / "run.log").read_text()
    assert '"status": "failed"' in (tmp_path / "run" / "result.json").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_of_a_training_whose_first_process_is_killed(sources, tmp_path):
    run = command(sources[LABELS], tmp_path, "training.number_of_epochs=5000")
    second = second_process(run, tmp_path)
    run.kill()
    run.communicate(timeout=60)
    assert gone(second)
    again = command(sources[LABELS], tmp_path, "training.number_of_epochs=5000", "trainer.devices=3")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 2
    assert "cannot go on from there with trainer.devices=3: it had 2" in said


@pytest.mark.slow
def test_two_machines_meet_as_the_launcher_says(sources, tmp_path):
    """Started by torchrun at two addresses of this one; the second writes nothing."""
    launcher = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1")
    port = "--master-port=29577"
    runs = [
        command(
            sources[LABELS],
            tmp_path,
            "trainer.devices=1",
            "trainer.num_nodes=2",
            "training.number_of_epochs=2",
            start=(*launcher, port, f"--node-rank={node}", f"--local-addr=127.0.0.{node + 1}", *PROGRAM),
        )
        for node in range(2)
    ]
    said = [run.communicate(timeout=400)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert "status    completed" in said[0]
    assert "completed" not in said[1]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_trial_of_two_processes_comes_out_as_it_does_alone(sources, tmp_path):
    words = ("training.number_of_epochs=2", "training.learning_rate=0.01")
    alone = command(sources[LABELS], tmp_path, *words, "output_dir=alone")
    said, _ = alone.communicate(timeout=600)
    assert alone.returncode == 0, said
    sweep = command(sources[LABELS], tmp_path, "-m", words[0], f"{words[1]},0.02", "output_dir=sweep")
    said, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, said

    def metrics(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    trials = [metrics(path.parent) for path in (tmp_path / "sweep").glob("trial_*/metrics.jsonl")]
    assert len(trials) == 2
    assert metrics(tmp_path / "alone") in trials
