"""Metrics of several processes are those of one, whatever a sampler gave to two of them; the first computes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.judging import Judged, Verdicts
from lightning_automl_vision.samples import Boxes, Place, Sample, ScoredBoxes

IMAGES = 41
VERDICTS = Verdicts(classes=("cat", "dog"), metric_type="coco_voc", iou_threshold=0.5, box_score_threshold=0.0)


def judged():
    random = np.random.default_rng(0)
    samples = []
    for number in range(IMAGES):
        corners = random.uniform(0, 0.6, (3, 2))
        boxes = np.hstack([corners, corners + random.uniform(0.1, 0.4, (3, 2))])
        target = Boxes(labels=random.integers(0, 2, 3), boxes=boxes, crowd=np.zeros(3, np.bool_))
        samples.append(Sample(image=f"{number}.jpg", target=target))
    headers = [ImageHeader(width=100, height=80)] * IMAGES
    images = LabelledImages(samples=samples, classes=("cat", "dog"), source="it", headers=headers)
    return Judged.of(images, with_masks=False)


def found_in(number, truth):
    random = np.random.default_rng(100 + number)
    boxes = truth.boxes + random.normal(0, 4, truth.boxes.shape)
    scores = np.sort(random.random(3).astype(np.float32))[::-1]
    return ScoredBoxes(labels=truth.labels, boxes=boxes, scores=scores, width=100, height=80)


def metrics_of(indices, gather=lambda found: found):
    whole = judged()
    for number in indices:
        whole.add(number, found_in(number, whole.truth[number]), Place(0, 0, 100, 80))
    return VERDICTS.metrics(whole.with_found(gather(whole.found)))


def test_two_processes_judge_as_one_does(tmp_path):
    """41 images for two: the first is given to both."""
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}
    store = tmp_path / "store"
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(store), str(tmp_path / f"{rank}.json")],
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    alone = metrics_of(range(IMAGES))
    assert 0 < alone["mean_average_precision"] < 1
    assert (tmp_path / "0.json").read_text() == json.dumps(alone)
    assert (tmp_path / "1.json").read_text() != json.dumps(alone), "only the first holds what all have found"


def main(rank, store, output):
    from torch import distributed

    from lightning_automl_vision.training.gathering import gathered

    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    padded = [*range(IMAGES), 0]
    Path(output).write_text(json.dumps(metrics_of(padded[rank::2], gathered)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
