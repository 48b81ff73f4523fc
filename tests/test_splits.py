"""What is held out is seeded, keeps the class shares when asked to, and never divides a group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import MULTICLASS, MULTILABEL, config, hear, pictures, write_labels, write_lines

from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.data.splits import folds, split, units_by_class
from lightning_automl_vision.errors import DataError

LABELS = st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=2, max_size=60)


def arrays(labels: list[list[int]]) -> list[Any]:
    return [np.array(label, dtype=np.int64) for label in labels]


@pytest.mark.parametrize(
    ("grouped", "at_random", "by_class", "parts"),
    [
        (
            False,
            [0, 5, 8, 10, 13, 18],
            [1, 5, 6, 12, 14, 16],
            [[0, 2, 4, 6, 7, 14, 15], [1, 3, 8, 10, 11, 12, 18], [5, 9, 13, 16, 17, 19]],
        ),
        (
            True,
            [0, 1, 6, 9, 11, 14, 19],
            [0, 3, 4, 12, 13, 18],
            [[3, 5, 8, 10, 13, 15, 18], [0, 4, 9, 12, 14, 16, 19], [1, 2, 6, 7, 11, 17]],
        ),
    ],
)
def test_a_seed_holds_out_the_same_images_in_every_version(
    grouped: bool, at_random: list[int], by_class: list[int], parts: list[list[int]]
) -> None:
    labels = arrays([[place % 3] * (place % 4) + [3] * (place % 5 == 0) for place in range(20)])
    groups = [None if place % 4 == 0 else "abcde"[place % 5] for place in range(20)] if grouped else None
    assert split(labels, 0.3, seed=4, groups=groups)[1] == at_random
    assert split(labels, 0.3, seed=4, stratified=True, groups=groups)[1] == by_class
    assert folds(labels, 3, seed=4, groups=groups) == parts


@given(LABELS, st.floats(0.05, 0.95), st.integers(0, 9), st.booleans(), st.lists(st.integers(0, 6), min_size=60))
@settings(max_examples=150, deadline=None)
def test_every_image_is_on_one_side_and_groups_are_whole(
    labels: list[list[int]], share: float, seed: int, stratified: bool, numbers: list[int]
) -> None:
    groups = [str(number) for number in numbers[: len(labels)]]
    if len(set(groups)) < 2:
        groups[0] = "alone"
    options: Any = {"seed": seed, "stratified": stratified, "groups": groups}
    training, validation = split(arrays(labels), share, **options)
    assert sorted(training + validation) == list(range(len(labels)))
    assert training
    assert validation
    assert not {groups[index] for index in training} & {groups[index] for index in validation}
    assert (training, validation) == split(arrays(labels), share, **options)


@given(LABELS, st.integers(2, 8), st.integers(0, 9), st.lists(st.integers(0, 30), min_size=60))
@settings(max_examples=150, deadline=None)
def test_every_image_is_in_one_part_none_is_empty_and_groups_are_whole(
    labels: list[list[int]], number: int, seed: int, numbers: list[int]
) -> None:
    groups = [str(group) for group in numbers[: len(labels)]]
    if len({*groups}) < number:
        with pytest.raises(DataError, match=f"data.folds={number}: there are only {len({*groups})} groups"):
            folds(arrays(labels), number, seed=seed, groups=groups)
        return
    parts = folds(arrays(labels), number, seed=seed, groups=groups)
    assert sorted(index for part in parts for index in part) == list(range(len(labels)))
    assert all(parts)
    assert all(part == sorted(part) for part in parts)
    assert sum(len({groups[index] for index in part}) for part in parts) == len({*groups})
    assert parts == folds(arrays(labels), number, seed=seed, groups=groups)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(2, 10), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_parts_have_each_class_and_all_images_in_equal_numbers(sizes: list[int], number: int, seed: int) -> None:
    labels = arrays([[name] for name, size in enumerate(sizes) for _ in range(size)])
    if len(labels) < number:
        return
    parts = folds(labels, number, seed=seed)
    held = [Counter(int(labels[index][0]) for index in part) for part in parts]
    for name, size in enumerate(sizes):
        assert {count[name] for count in held} <= {size // number, -(-size // number)}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_of_several_labels_an_image_have_each_label_in_about_equal_numbers() -> None:
    random = np.random.default_rng(0)
    labels = [np.flatnonzero(random.random(6) < 0.25) for _ in range(400)]
    everywhere = units_by_class(labels)
    for part in folds(labels, 5, seed=0):
        held = units_by_class([labels[index] for index in part])
        assert all(abs(held[name] / everywhere[name] - 0.2) < 0.03 for name in everywhere)
        assert abs(len(part) - 80) <= 6


def test_another_seed_makes_other_parts() -> None:
    labels = arrays([[0]] * 50)
    assert folds(labels, 5, seed=0) != folds(labels, 5, seed=1)


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_random_split_has_the_nearest_size(count: int, share: float, seed: int) -> None:
    _, validation = split(arrays([[0]] * count), share, seed=seed)
    assert abs(len(validation) - min(max(share * count, 1), count - 1)) <= 0.5 + 1e-9


def test_another_seed_holds_out_other_images() -> None:
    labels = arrays([[0]] * 50)
    assert split(labels, 0.2, seed=0) != split(labels, 0.2, seed=1)


@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.floats(0.1, 0.5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_stratified_split_keeps_the_share_of_each_class(sizes: list[int], share: float, seed: int) -> None:
    labels = arrays([[name] for name, size in enumerate(sizes) for _ in range(size)])
    _, validation = split(labels, share, seed=seed, stratified=True)
    held = Counter(int(labels[index][0]) for index in validation)
    assert all(abs(held[name] - share * size) <= 1 for name, size in enumerate(sizes))


def test_stratified_split_keeps_rare_classes_in_training() -> None:
    labels = arrays([[0]] * 40 + [[1]] * 2)
    for seed in range(20):
        training, _ = split(labels, 0.3, seed=seed, stratified=True)
        assert {40, 41} & set(training)


def test_stratified_split_of_several_labels_an_image() -> None:
    random = np.random.default_rng(0)
    labels = [np.flatnonzero(random.random(6) < 0.25) for _ in range(400)]
    _, validation = split(labels, 0.2, seed=0, stratified=True)
    everywhere, held = (Counter(int(n) for i in part for n in labels[i]) for part in (range(400), validation))
    assert all(abs(held[name] / everywhere[name] - 0.2) < 0.03 for name in everywhere)
    assert abs(len(validation) - 80) <= 8


def test_stratified_groups_come_near_the_class_shares() -> None:
    random = np.random.default_rng(0)
    groups = [str(number) for number in random.integers(0, 80, 600)]
    labels = arrays([[int(name)] for name in random.integers(0, 3, 600)])
    _, validation = split(labels, 0.2, seed=0, stratified=True, groups=groups)
    held = Counter(int(labels[index][0]) for index in validation)
    assert all(0.15 < held[name] / 200 < 0.25 for name in range(3))


def test_images_without_a_group_stand_alone() -> None:
    training, validation = split(arrays([[0]] * 10), 0.5, seed=0, groups=[None] * 10)
    assert len(training) == len(validation) == 5


@pytest.mark.parametrize(("count", "groups", "text"), [(1, None, "one image"), (3, ["a"] * 3, r"one group \(3 images")])
def test_nothing_to_split(count: int, groups: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        split(arrays([[0]] * count), 0.2, seed=0, groups=groups)


def test_large_set_is_split_in_a_moment() -> None:
    """An algorithm that is quadratic in the images would take minutes here, and the runner would stop it."""
    labels = arrays([[index % 100] for index in range(30_000)])
    _, validation = split(labels, 0.2, seed=0, stratified=True)
    assert len(validation) == 6000


def test_data_are_split_when_there_is_no_validation_set(tmp_path: Path) -> None:
    training = str(write_labels(tmp_path / "set", ["cat", "dog"] * 10))
    first, second, other = (
        load_data(config(tmp_path, training=training, split="stratified"), MULTICLASS, seed=seed) for seed in (1, 1, 2)
    )
    assert len(first.training) == len(first.training.headers) == 16
    assert Counter(int(sample.target.labels[0]) for sample in first.validation.samples) == {0: 2, 1: 2}
    held = [[sample.line for sample in splits.validation.samples] for splits in (first, second, other)]
    assert held[0] == held[1] != held[2]
    assert first.test is None


def test_sets_that_are_given_are_not_split(tmp_path: Path) -> None:
    paths = {
        role: str(write_labels(tmp_path / role, [["b", "a"], ["a"]])) for role in ("training", "validation", "test")
    }
    splits = load_data(config(tmp_path, **paths), MULTILABEL, seed=0)
    assert splits.test is not None
    assert [len(part) for part in (splits.training, splits.validation, splits.test)] == [2, 2, 2]
    assert splits.classes == splits.validation.classes == splits.test.classes == ("a", "b")


def test_groups_stay_together_from_file_to_split(tmp_path: Path) -> None:
    names = pictures(tmp_path / "set", 20)
    lines = [{"image_url": name, "label": "ab"[i % 2], "scene": i // 4} for i, name in enumerate(names)]
    path = write_lines(tmp_path / "set" / "train.jsonl", lines)
    splits = load_data(config(tmp_path, training=str(path), group_by="scene"), MULTICLASS, seed=0)
    assert len({sample.group for sample in splits.validation.samples}) == 1
    assert len(splits.validation) == 4
    assert not {s.group for s in splits.training.samples} & {s.group for s in splits.validation.samples}


def test_class_that_is_held_out_completely_is_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(caplog, monkeypatch)
    training = str(write_labels(tmp_path / "set", ["cat"] * 10 + ["dog"]))
    for seed in range(20):
        caplog.clear()
        splits = load_data(config(tmp_path, training=training), MULTICLASS, seed=seed)
        alone = all(int(sample.target.labels[0]) == 0 for sample in splits.training.samples)
        assert ("all images of dog were held out" in caplog.text) == alone
