"""From samples to batches: order, balance, worker processes, and errors that leave them."""

from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_images import picture
from test_urls import serving

from lightning_automl_vision.augment import build_training_transform
from lightning_automl_vision.data.batching import class_targets, indicator_targets
from lightning_automl_vision.data.module import make_loader, number_of_workers
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.data.sampling import EpochSampler, balanced_order, groups_by_rarest_label, order_by_shape
from lightning_automl_vision.errors import ConfigError, DataError, VisionError
from lightning_automl_vision.samples import Labels, Sample
from lightning_automl_vision.settings import AugmentConfig, TrainingConfig

RESIZING = CenterCrop(resize=36, size=32)


def sample(image, *labels):
    return Sample(image=str(image), target=Labels(labels=np.array(labels, dtype=np.int64)))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """20 pictures of different brightness; every fifth is of class 1."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(20):
        cv2.imwrite(str(folder / f"{number}.png"), picture(50, 40) // 2 + 6 * number)
    return [sample(folder / f"{number}.png", int(number % 5 == 0)) for number in range(20)]


def loader(samples, **options):
    keys = {"num_classes": 2, "truth": class_targets, "transform": RESIZING, "batch_size": 6, "seed": 3, "workers": 0}
    return make_loader(samples, **{**keys, **options})


def training_transform():
    training = TrainingConfig(training_crop_size=32, validation_crop_size=32, validation_resize_size=36)
    return build_training_transform(AugmentConfig(), training)


def epoch(batches, number=0):
    """Names, labels and pictures of one epoch."""
    batches.sampler.set_epoch(number)
    found = list(batches)
    return (
        [key for batch in found for key in batch.keys],
        torch.cat([batch.targets.labels for batch in found]).tolist(),
        torch.cat([batch.images for batch in found]),
    )


def test_batches_hold_every_image_in_order_and_the_last_is_short(samples):
    batches = loader(samples)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2] == [len(batch.images) for batch in batches]
    assert len(batches) == 4
    keys, labels, images = epoch(batches)
    assert keys == [item.image for item in samples]
    assert labels == [int(number % 5 == 0) for number in range(20)]
    assert images.dtype == torch.uint8
    assert images.shape == (20, 3, 32, 32)
    expected = RESIZING(cv2.imread(samples[3].image, cv2.IMREAD_COLOR_RGB))
    assert (images[3].permute(1, 2, 0).numpy() == expected).all()


def test_an_evaluation_may_go_by_the_shapes_of_images(samples):
    order = order_by_shape([(40, 30) if number % 2 else (30, 40) for number in range(20)])
    keys, *_ = epoch(loader(samples, order=order))
    assert keys == [item.image for item in (*samples[1::2], *samples[::2])]


def test_several_labels_become_ones_and_none_only_zeros(samples):
    several = [sample(samples[0].image, 0, 2), sample(samples[1].image), sample(samples[2].image, 1)]
    (batch,) = loader(several, num_classes=3, truth=partial(indicator_targets, num_classes=3))
    assert batch.targets.labels.dtype == torch.float32
    assert batch.targets.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(("workers", "start_method"), [(1, "fork"), (3, "fork"), (2, "spawn")])
def test_results_do_not_depend_on_worker_processes(samples, workers, start_method):
    options = {"transform": training_transform(), "shuffle": True, "balanced": False}
    alone = loader(samples, **options)
    helped = loader(samples, **options, workers=workers, start_method=start_method)
    for number in (0, 1, 0):
        expected, found = epoch(alone, number), epoch(helped, number)
        assert found[:2] == expected[:2]
        assert torch.equal(found[2], expected[2])


def test_forked_workers_do_not_wait_for_the_threads_of_this_process(samples):
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 0)
        assert len(epoch(loader(samples, workers=2, start_method="fork"))[0]) == 20
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


def test_each_epoch_has_its_own_order_and_pictures(samples):
    batches = loader(samples, transform=training_transform(), shuffle=True)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert sorted(first[0]) == sorted(second[0]) == sorted(item.image for item in samples)
    assert first[0] != second[0]
    where = {key: position for position, key in enumerate(second[0])}
    assert not any(torch.equal(first[2][i], second[2][where[key]]) for i, key in enumerate(first[0]))


def test_another_seed_gives_another_order(samples):
    assert epoch(loader(samples, shuffle=True))[0] != epoch(loader(samples, shuffle=True, seed=4))[0]


def test_loading_leaves_the_global_generator_alone(samples):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    epoch(loader(samples, shuffle=True, transform=training_transform()))
    assert torch.equal(torch.get_rng_state(), state)


def test_balanced_classes_come_equally_often_and_repeats_look_different(samples):
    batches = loader(samples, transform=training_transform(), balanced=True)
    keys, labels, images = epoch(batches)
    assert Counter(labels) == {0: 10, 1: 10}
    (repeated, times), *_ = Counter(keys).most_common(1)
    assert times >= 2
    copies = [images[i].numpy().tobytes() for i, key in enumerate(keys) if key == repeated]
    assert len(set(copies)) == times


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(0, 200),
    st.integers(0, 2**32 - 1),
)
def test_balance_is_exact_between_groups_and_within_them(sizes, size, seed):
    ends = np.cumsum(sizes)
    groups = [np.arange(end - length, end) for end, length in zip(ends, sizes, strict=True)]
    order = balanced_order(groups, size, np.random.default_rng(seed))
    assert len(order) == size
    per_group = [np.isin(order, group).sum() for group in groups]
    assert max(per_group) - min(per_group) <= 1
    for group in groups:
        per_image = [(order == member).sum() for member in group]
        assert max(per_image) - min(per_image) <= 1


def test_an_image_of_several_labels_counts_for_its_rarest():
    several = [sample("a", 0, 1), sample("b", 0), sample("c", 0, 2, 1), sample("d"), sample("e", 1)]
    groups = groups_by_rarest_label(several, 4)
    assert [group.tolist() for group in groups] == [[1], [0, 4], [2], [3]] or [group.tolist() for group in groups] == [
        [0, 1],
        [4],
        [2],
        [3],
    ]


def test_every_image_is_drawn_once_when_nothing_is_balanced():
    sampler = EpochSampler(100, shuffle=True, seed=1)
    sampler.set_epoch(5)
    draws = list(sampler)
    assert sorted(draw.image for draw in draws) == list(range(100))
    assert {(draw.epoch, draw.repeat) for draw in draws} == {(5, 0)}


NO_IMAGE = "is not an image in a known format (JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, JPEG 2000)"


def error_of(batches):
    """The error without its traceback, which would keep the loader and its processes."""
    with pytest.raises(VisionError) as caught:
        list(batches)
    kind, message = caught.type, str(caught.value)
    del caught
    return kind, message


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_leaves_a_worker_as_it_was(samples, tmp_path, workers):
    faulty = tmp_path / "faulty.jpg"
    faulty.write_bytes(b"nonsense")
    batches = loader([*samples[:8], sample(faulty, 0), *samples[8:]], workers=workers)
    assert error_of(batches) == (DataError, f"{faulty}: {NO_IMAGE}.")
    faulty.write_bytes((faulty.parent / samples[0].image).read_bytes())
    assert len(epoch(batches)[0]) == 21


def test_a_transform_that_fails_leaves_a_worker_as_one_line(samples, tmp_path):
    file = tmp_path / "pipeline.yaml"
    file.write_text("- RandomCrop: {height: 500, width: 500}")
    transform = build_training_transform(AugmentConfig(file=str(file)), TrainingConfig(training_crop_size=32))
    kind, message = error_of(loader(samples, transform=transform, workers=1))
    assert kind is ConfigError
    assert "fails on a picture of 50 x 40 pixels" in message
    assert "\n" not in message


def test_workers_read_over_http(samples, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    with serving(tmp_path) as address:
        remote = [sample(f"{address}/a.png", 0)] * 4
        assert epoch(loader(remote, workers=0))[2].shape == epoch(loader(remote, workers=2))[2].shape


def test_pictures_over_the_limit_are_refused(samples):
    with pytest.raises(
        DataError, match=r"0\.png: has 50 x 40 = 2000 pixels, more than data\.maximum_image_pixels=1999"
    ):
        list(loader(samples, maximum_pixels=1999))


def test_processes_are_started_where_they_pay():
    assert number_of_workers(None, 20) == 0
    assert 0 <= number_of_workers(None, 100_000) <= 8
    assert number_of_workers(5, 20) == 5
    assert number_of_workers(0, 100_000) == 0


def test_a_batch_can_be_pickled_and_moved(samples):
    batch = next(iter(loader(samples)))
    moved = batch.to(torch.float64)
    assert moved.images.dtype == torch.float64
    assert moved.keys == batch.keys


def test_a_single_picture_left_over_is_left_out_of_a_shuffled_order_only():
    samples = [Sample(image=f"{number}.png", target=Labels(labels=np.array([0]))) for number in range(9)]
    options = {"num_classes": 2, "truth": class_targets, "transform": CenterCrop(36, 32), "seed": 0, "workers": 0}
    assert len(make_loader(samples, batch_size=4, shuffle=True, **options)) == 2
    assert len(make_loader(samples, batch_size=4, **options)) == 3
    assert len(make_loader(samples, batch_size=5, shuffle=True, **options)) == 2
