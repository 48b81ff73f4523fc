"""What the advisor says of tiling, beside what looking at every window in turn says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.resizing import Letterbox, LongSide, Resizing, ShortSide
from lightning_automl_vision.drawing.tile_chart import chart_of
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.samples import Boxes, Sample
from lightning_automl_vision.tile_advice import (
    MOST_COST,
    NO_TILING,
    TOLERANCE,
    Advice,
    Effect,
    Layout,
    Survey,
    advice_table,
    advise,
    candidate_grids,
    chosen,
    layout_of,
    pareto_set,
    visibility,
)
from lightning_automl_vision.tiling import GridTiler, tiled_target

RESIZINGS = [LongSide(320), ShortSide(200, 500), Letterbox(256)]


def scattered(seed: int = 0, images: int = 12, objects: int = 80, side: float = 30) -> Layout:
    """Objects of about ``side`` pixels in images of several sizes, of which the last ones hold none."""
    random = np.random.default_rng(seed)
    sizes = random.choice([[1200, 700], [700, 1200], [640, 480], [40, 30]], images)
    owners = np.sort(random.integers(0, images - 2, objects))
    lengths = np.minimum(random.lognormal(math.log(side), 0.6, (objects, 2)), 0.8 * sizes[owners])
    corners = random.uniform(0, 1, (objects, 2)) * (sizes[owners] - lengths)
    return Layout(sizes=sizes, boxes=np.hstack([corners, corners + lengths]), images=owners)


def effect(**values: object) -> Effect:
    plain = {
        "grid": (3, 2),
        "overlap_ratio": 0.25,
        "score": 0.5,
        "cost": 7.0,
        "sizes": (1.0,) * 5,
        "below": (0.0,) * 3,
        "cut": 0.0,
        "whole_in_no_tile": 0.0,
        "empty_tiles": 0.0,
    }
    return Effect(**{**plain, **values})  # type: ignore[arg-type]


def contains(window: Window, box: np.ndarray) -> bool:
    left, top, right, bottom = window
    return bool(left <= box[0] and top <= box[1] and box[2] <= right and box[3] <= bottom)


def scale(resizing: Resizing, window: Window) -> float:
    place = resizing.place(int(window.width), int(window.height))
    return math.sqrt(place.width * place.height / window.area)


def pixels(resizing: Resizing, window: Window) -> float:
    place = resizing.place(int(window.width), int(window.height))
    return 256.0**2 if isinstance(resizing, Letterbox) else place.width * place.height


@pytest.mark.parametrize("resizing", RESIZINGS, ids=lambda resizing: resizing.name)
@pytest.mark.parametrize(("grid", "overlap"), [((3, 2), 0.25), ((4, 5), 0.1), ((2, 1), 0.4), (NO_TILING, 0.0)])
def test_every_number_is_what_windows_one_by_one_give(
    resizing: Resizing, grid: tuple[int, int], overlap: float
) -> None:
    layout = scattered()
    sizes, scores, cut, nowhere, used, tiles_there, costs = [], [], [], [], 0, 0, []
    for image, (width, height) in enumerate(layout.sizes.tolist()):
        boxes = layout.boxes[layout.images == image]
        windows = GridTiler(grid, overlap).windows(width, height)
        tiles = windows[1:] or windows
        costs.append(sum(pixels(resizing, window) for window in windows) / pixels(resizing, windows[0]))
        tiles_there += len(tiles)
        nothing = np.zeros(len(boxes))
        objects = Boxes(labels=nothing.astype(np.int64), boxes=boxes, crowd=nothing.astype(np.bool_))
        used += sum(len(tiled_target(objects, tile).labels) > 0 for tile in tiles)
        for box in boxes:
            native = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            best = max(scale(resizing, window) for window in windows if contains(window, box))
            sizes.append(native * best)
            scores.append(min(max(math.log2(native * min(best, 2) / 8) / 2, 0), 1))
            shown = [tile for tile in tiles if Window(*box).overlap(tile)]
            cut.append(any(not contains(tile, box) for tile in shown))
            nowhere.append(not any(contains(tile, box) for tile in shown))
    found = Survey(layout, resizing).effect(grid, overlap)
    assert found.score == pytest.approx(np.mean(scores), abs=6e-4)
    assert found.cost == pytest.approx(np.mean(costs))
    assert found.sizes == pytest.approx(np.quantile(sizes, (0.05, 0.25, 0.5, 0.75, 0.95)))
    assert found.below == pytest.approx([np.mean(np.array(sizes) < limit) for limit in (8, 16, 32)])
    assert found.cut == pytest.approx(np.mean(cut))
    assert found.whole_in_no_tile == pytest.approx(np.mean(nowhere))
    assert found.empty_tiles == pytest.approx(1 - used / tiles_there)
    if grid != NO_TILING:
        assert found.cut > 0
        assert found.empty_tiles > 0


def test_an_object_is_seen_better_the_larger_it_is() -> None:
    assert visibility(np.array([0.0, 4, 8, 16, 32, 500])).tolist() == [0, 0, 0, 0.5, 1, 1]


def test_enlarging_shows_nothing_new() -> None:
    """Objects of 6 pixels in pictures that are enlarged as they are: tiles enlarge them further, in vain."""
    layout = scattered(side=6)
    layout = replace(layout, sizes=np.full_like(layout.sizes, 1200))
    advice = advise(Survey(layout, LongSide(2400)))
    tiled = next(effect for effect in advice.candidates if effect.grid == (2, 2))
    assert tiled.sizes[2] > 1.2 * advice.plain.sizes[2]
    assert len({effect.score for effect in advice.candidates}) == 1
    assert advice.recommended is advice.plain
    assert "by nothing" in advice.reason


def test_the_cheapest_that_is_nearly_as_good_as_the_best_is_recommended() -> None:
    advice = advise(Survey(scattered(side=30), LongSide(320)))
    best = max(effect.score for effect in advice.candidates if effect.cost <= MOST_COST)
    good = [effect for effect in advice.candidates if effect.score >= best - TOLERANCE]
    assert advice.recommended.cost == min(effect.cost for effect in good)
    assert advice.recommended in advice.pareto
    assert advice.recommended.is_tiling
    assert advice.recommended.score > advice.plain.score + TOLERANCE


def candidates(*pairs: tuple[float, float]) -> Advice:
    """Of scores and costs, the first without tiling."""
    grids = [NO_TILING, *((2, number) for number in range(2, len(pairs) + 1))]
    return chosen(tuple(effect(grid=g, score=s, cost=c) for g, (s, c) in zip(grids, pairs, strict=True)))


def test_a_gain_of_a_fiftieth_is_worth_nothing_and_more_is() -> None:
    assert not candidates((0.50, 1), (0.52, 5), (0.51, 3)).recommended.is_tiling
    assert candidates((0.50, 1), (0.521, 5), (0.51, 3)).recommended.cost == 3
    assert candidates((0.50, 1), (0.8, 5), (0.75, 3)).recommended.cost == 5


def test_what_costs_too_much_is_told_and_not_recommended() -> None:
    advice = candidates((0.2, 1), (0.4, 10), (0.9, 60))
    assert advice.recommended.cost == 10
    assert advice.reason.endswith("takes 10.0 times the pixels; 2x3 0.25 would reach 0.900 for 60 times the pixels")
    assert "which is not worth its cost; 2x3 0.25 would" in candidates((0.2, 1), (0.2, 10), (0.9, 60)).reason


def test_the_pareto_set_holds_what_none_beats() -> None:
    pairs = [(0.2, 1), (0.2, 2), (0.5, 3), (0.4, 3), (0.4, 4), (0.6, 5), (0.6, 5)]
    effects = [effect(score=score, cost=cost) for score, cost in pairs]
    found = pareto_set(effects)
    assert [(one.score, one.cost) for one in found] == [(0.2, 1), (0.5, 3), (0.6, 5)]
    for one in effects:
        beaten = any(
            other.cost <= one.cost and other.score >= one.score and (other.cost, other.score) != (one.cost, one.score)
            for other in effects
        )
        assert beaten == (one not in found)


def test_candidates_grow_with_how_small_objects_are() -> None:
    assert candidate_grids(3) == [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (2, 3), (3, 3)]
    assert {(5, 3), (3, 5), (4, 3)} <= set(candidate_grids(5))
    assert (12, 8) in candidate_grids(12)
    assert (12, 12) not in candidate_grids(12)
    few, many = (advise(Survey(scattered(side=side), LongSide(100))).candidates for side in (200, 15))
    assert max(effect.grid for effect in few) == (5, 5)
    assert max(effect.grid for effect in many)[0] > 6


def test_crowds_and_images_without_objects() -> None:
    """A crowd is no object; an image without objects is there to be computed on."""
    boxes = np.array([[0.1, 0.1, 0.2, 0.3], [0.0, 0.0, 1.0, 1.0]])
    some = Boxes(labels=np.zeros(2, np.int64), boxes=boxes, crowd=np.array([False, True]))
    none = some.chosen(np.array([], np.int64))
    headers = [ImageHeader(200, 100), ImageHeader(100, 100), ImageHeader(50, 10)]
    samples = [Sample(image=f"{number}.jpg", target=target) for number, target in enumerate((none, some, none))]
    images = LabelledImages(samples=samples, classes=("a",), source="train.jsonl", headers=headers)
    layout = layout_of(images)
    assert layout.boxes == pytest.approx(np.array([[10, 10, 20, 30]]))
    assert layout.images.tolist() == [1]
    assert Survey(layout, LongSide(100)).effect(NO_TILING, 0.0).empty_tiles == pytest.approx(2 / 3)
    crowded = replace(images, samples=samples[:1], headers=headers[:1])
    with pytest.raises(DataError, match=r"train\.jsonl: no object is labelled"):
        layout_of(crowded)


def test_what_is_written_names_the_keys() -> None:
    tiled, plain = effect(grid=(5, 3)), effect(grid=NO_TILING)
    assert tiled.keys == "tiler=grid tiler.grid_size=5x3 tiler.overlap_ratio=0.25"
    assert plain.keys == "tiler=none"
    assert tiled.as_dict()["grid_size"] == "5x3"
    assert tiled.as_dict()["sizes"].keys() == {"0.05", "0.25", "0.50", "0.75", "0.95"}
    assert plain.as_dict()["grid_size"] is None


def test_the_table_marks_what_is_recommended() -> None:
    advice = advise(Survey(scattered(side=30), LongSide(320)))
    marked = [line for line in advice_table(advice).splitlines() if line.startswith(">")]
    assert len(marked) == 1
    assert marked[0].split()[1:3] == advice.recommended.name.split()


@pytest.mark.parametrize("resizing", [LongSide(320), LongSide(40), LongSide(2000)], ids=["tiled", "far", "plain"])
def test_a_chart_marks_what_is_recommended(resizing: Resizing) -> None:
    """In a colour that nothing else has, in both plots if there is tiling; the same each time."""
    survey = Survey(scattered(side=30), resizing)
    advice = advise(survey)
    best = advice.recommended
    sizes = survey.sizes(NO_TILING, 0.0), survey.sizes(best.grid, best.overlap_ratio)
    chart = chart_of(advice, *sizes, heading="Recommended", lines=["Because.", "Of data."])
    assert chart.shape == (700, 1400, 3)
    marked = (chart == (252, 181, 44)).all(axis=2)
    assert marked[:, :880].any()
    assert marked[:, 940:].any() == best.is_tiling
    assert (chart_of(advice, *sizes, heading="Recommended", lines=["Because.", "Of data."]) == chart).all()
    assert (chart_of(advice, *sizes, heading="Other", lines=[]) != chart).any()


def test_one_object_is_enough_for_advice_and_a_chart() -> None:
    layout = Layout(sizes=np.array([[900, 600]]), boxes=np.array([[10.0, 10, 30, 30]]), images=np.array([0]))
    survey = Survey(layout, LongSide(300))
    advice = advise(survey)
    sizes = survey.sizes(NO_TILING, 0.0)
    assert chart_of(advice, sizes, sizes, heading="", lines=[]).any()
    assert (advice.plain.score, advice.recommended.score) == (0.0, 0.967)
