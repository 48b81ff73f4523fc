"""Anchors of yolov5 are kept where they suit the objects, and fitted to them where they do not."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import recorded, rounded, shares
from PIL import Image

from lav_yolov5.anchor_chart import listed
from lav_yolov5.anchor_fitting import coverage, fitted_anchors
from lav_yolov5.anchors import choose_anchors, draw_anchors

ANCHORS = np.array(
    [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ],
    dtype=float,
)


def test_small_anchors_are_listed_with_tenths_of_a_pixel():
    assert listed(np.array([[2.04, 9.94], [9.96, 30.5], [373, 326]])) == "2.0 x 9.9, 10 x 30, 373 x 326"


def recorded_sizes():
    return rounded(np.exp(np.log(8) + shares("aawh", 400) * np.log(60))).reshape(200, 2)


def random(seed=0):
    return np.random.default_rng(seed)


def some_sizes(count, *, middle=60.0, seed=0):
    return middle * np.exp(random(seed).normal(0, 0.5, (count, 2)))


def choose(sizes, current=ANCHORS, seed=0):
    return choose_anchors(sizes, current, threshold=4.0, image_size=640, generator=random(seed))


@pytest.mark.parametrize(("name", "divisor"), [("default", 1), ("small", 4)])
def test_coverage_is_the_recorded_one(name, divisor):
    case = recorded()["autoanchor"][name]
    found = coverage(recorded_sizes(), ANCHORS / divisor, 4.0)
    assert (found.recall, found.per_target, found.fitness) == pytest.approx(
        (case["bpr"], case["aat"], case["fitness"]), rel=1e-6
    )


def test_coverage_of_recorded_anchors_is_the_recorded_one():
    case = recorded()["autoanchor"]
    found, expected = coverage(recorded_sizes(), np.array(case["evolved_seed0"]), 4.0), case["evolved_metric"]
    assert (found.recall, found.per_target, found.fitness) == pytest.approx(
        (expected["bpr"], expected["aat"], expected["fitness"]), rel=1e-6
    )


def test_fitted_anchors_are_about_as_fit_as_recorded_ones():
    recorded_fitness = recorded()["autoanchor"]["evolved_metric"]["fitness"]
    fitness = [
        coverage(recorded_sizes(), choose(recorded_sizes(), seed=seed).anchors, 4.0).fitness for seed in range(4)
    ]
    assert min(fitness) > recorded_fitness - 0.02
    assert max(fitness) > recorded_fitness - 0.002


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(1, 600), st.floats(1, 600)), min_size=1, max_size=30), st.floats(1.5, 8))
def test_coverage_is_what_comparing_every_pair_gives(sizes, threshold):
    table, flat = np.array(sizes), ANCHORS.reshape(-1, 2)
    ratios = table[:, None] / flat
    agreement = np.minimum(ratios, 1 / ratios).min(axis=2)
    if np.abs(agreement - 1 / threshold).min() < 1e-12:
        return
    best = agreement.max(axis=1)
    found = coverage(table, ANCHORS, threshold)
    assert found.recall == pytest.approx((best > 1 / threshold).mean())
    assert found.per_target == pytest.approx((agreement > 1 / threshold).sum(axis=1).mean())
    assert found.fitness == pytest.approx(np.where(best > 1 / threshold, best, 0).mean())


def test_anchors_that_reach_the_objects_are_kept():
    choice = choose(some_sizes(200))
    assert not choice.adopted
    assert choice.before.recall > 0.98
    assert choice.anchors is ANCHORS


def test_anchors_that_miss_objects_are_replaced():
    sizes = some_sizes(300, middle=5.0)
    choice = choose(sizes)
    assert choice.adopted
    assert choice.after.recall > 0.99 > choice.before.recall
    assert choice.after == coverage(sizes, choice.anchors, 4.0)
    assert choice.anchors.shape == ANCHORS.shape
    assert (np.diff(choice.anchors.reshape(-1, 2).prod(axis=1)) >= 0).all()


def test_anchors_no_others_are_better_than_are_kept():
    # Nothing can reach what is smaller than the smallest anchor by more than the factor.
    sizes = np.full((50, 2), 0.1)
    choice = choose(sizes)
    assert not choice.adopted
    assert choice.anchors is ANCHORS
    assert (choice.before.recall, choice.after.recall) == (0, 0)


@pytest.mark.parametrize("sizes", [[(7.0, 9.0)], [(300.0, 2.5)] * 40, [(4.0, float(side)) for side in range(4, 30)]])
def test_few_or_equal_objects_are_reached_as_well(sizes):
    fitted = fitted_anchors(np.array(sizes), image_size=640, threshold=4.0, generator=random())
    assert fitted.shape == (9, 2)
    assert np.isfinite(fitted).all()
    assert (fitted >= 2).all()


def test_more_generations_are_no_worse():
    sizes = recorded_sizes()
    fitness = [
        coverage(
            sizes,
            fitted_anchors(sizes, image_size=640, threshold=4.0, generator=random(), generations=generations),
            4.0,
        ).fitness
        for generations in (0, 50, 400)
    ]
    assert fitness[0] < fitness[1] < fitness[2]


def test_same_seed_gives_the_same_anchors():
    sizes = recorded_sizes()
    assert np.array_equal(choose(sizes).anchors, choose(sizes).anchors)


def test_many_objects_take_seconds_at_most():
    sizes = some_sizes(100_000, middle=4.0)
    start = time.perf_counter()
    choice = choose(sizes)
    assert choice.adopted
    assert time.perf_counter() - start < 10


def drawn(choice, sizes, folder):
    with Image.open(draw_anchors(choice, sizes, ANCHORS, folder / "chart" / "anchors.png")) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_picture_shows_objects_and_anchors_and_what_was_before(tmp_path):
    sizes = some_sizes(300, middle=5.0)
    choice = choose(sizes)
    new = drawn(choice, sizes, tmp_path)
    kept = drawn(replace(choice, anchors=ANCHORS, adopted=False), sizes, tmp_path)
    assert new.shape == kept.shape == (720, 960, 3)
    assert (new != kept).any(axis=2).mean() > 0.02


def test_objects_out_of_reach_are_red(tmp_path):
    sizes = some_sizes(300, middle=5.0)
    choice = choose(sizes)
    near, lost = drawn(choice, sizes, tmp_path), drawn(replace(choice, anchors=ANCHORS, adopted=False), sizes, tmp_path)
    red = [
        ((picture[..., 0] > 100) & (picture[..., 1:].max(axis=2) < 0.6 * picture[..., 0])).sum()
        for picture in (near, lost)
    ]
    assert red[1] > max(5 * red[0], 200)


@pytest.mark.parametrize("sizes", [[(30.0, 30.0)], [(0.0, 12.0), (5000.0, 3.0)]])
def test_any_objects_can_be_drawn(sizes, tmp_path):
    sizes = np.array(sizes)
    assert drawn(choose(sizes), sizes, tmp_path).std() > 0
