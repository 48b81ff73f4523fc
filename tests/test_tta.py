"""Test-time augmentation: what is found in every view lies where it lies, and each object is answered once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_automl_vision.data.resizing import CenterCrop, Letterbox, LongSide, Resizing, ShortSide
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.model_folder import ModelCard
from lightning_automl_vision.predictor import Predictor
from lightning_automl_vision.samples import Pixels, ScoredBoxes, ScoredLabels, ScoredMasks
from lightning_automl_vision.tiling import GridTiler
from lightning_automl_vision.tiling_plan import Tiling
from lightning_automl_vision.views import PLAIN, View, told_cost, views_of

DETECTION = "image_object_detection"
LEFT, RIGHT = (10, 20, 50, 60), (100, 40, 150, 90)


def picture(*boxes: tuple[int, int, int, int]) -> Pixels:
    pixels = np.zeros((120, 160, 3), np.uint8)
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = 255
    return pixels


def found(pixels: Pixels, *, only_left: bool, masks: bool = False) -> ScoredBoxes:
    """A detector for one bright rectangle in each half, perhaps blind in the right one."""
    height, width = pixels.shape[:2]
    corners = []
    for start, end in [(0, width // 2), (width // 2, width)][: 1 if only_left else 2]:
        bright = pixels[:, start:end, 0] > 127
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        if rows.size:
            corners.append([columns[0] + start, rows[0], columns[-1] + 1 + start, rows[-1] + 1])
    fields: dict[str, Any] = {
        "labels": np.zeros(len(corners), np.int64),
        "boxes": np.array(corners, np.float64).reshape(-1, 4),
        "scores": np.linspace(0.9, 0.8, len(corners), dtype=np.float32),
        "width": width,
        "height": height,
    }
    if not masks:
        return ScoredBoxes(**fields)
    shapes = np.zeros((len(corners), 28, 28), np.float32)
    shapes[:, :, :14] = 1  # the left half of each box, of whatever way the picture is turned
    return ScoredMasks(**fields, shapes=shapes)


def predictor(
    views: Any, *, only_left: bool = False, masks: bool = False, tiling: Tiling | None = None, resizing: Resizing
) -> Predictor:
    card = ModelCard(task=DETECTION, name="bright", parameters={}, labels=["bright"], settings={})
    return Predictor(
        card=card,
        resizing=resizing,
        network=lambda pictures: [found(pixels, only_left=only_left, masks=masks) for pixels in pictures],
        views=views_of(views),
        tiling=tiling or Tiling(),
    )


@pytest.mark.parametrize(
    ("asked", "views"),
    [
        (None, (PLAIN,)),
        ("flip", (PLAIN, View(flip=True))),
        (["flip", "scale 0.8"], (PLAIN, View(flip=True), View(scale=0.8))),
        (
            ["flip scale 1.2", "scale_1.2", "flip"],
            (PLAIN, View(flip=True, scale=1.2), View(scale=1.2), View(flip=True)),
        ),
        (["scale 1", "flip", "flip"], (PLAIN, View(flip=True))),
    ],
)
def test_views_are_read_each_once_and_the_picture_as_it_is_comes_first(asked: Any, views: tuple[View, ...]) -> None:
    assert views_of(asked) == views


@pytest.mark.parametrize("asked", ["spin", "flip flip", 3, ["scale"], "scale 0.8 x", "", True, "scale 1 scale 2"])
def test_what_is_no_view_is_refused(asked: Any) -> None:
    with pytest.raises(ConfigError, match=r"^tta=.*: views are flip, scale and a number"):
        views_of(asked)


@pytest.mark.parametrize("asked", ["scale 0.1", "scale 9", "scale 1.2.3"])
def test_a_scale_is_a_number_within_reason(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"scale must be a number in \[0.25, 4\]"):
        views_of(asked)


@pytest.mark.parametrize("resizing", [ShortSide(120, 400), LongSide(160), Letterbox(200)])
@pytest.mark.parametrize("asked", ["flip", ["flip", "scale 0.5", "flip scale 2"]])
def test_an_object_seen_in_every_view_is_answered_once_and_where_it_is(resizing: Resizing, asked: Any) -> None:
    (answer,) = predictor(asked, resizing=resizing).predict([picture(LEFT, RIGHT)])
    assert answer.names == ["bright", "bright"]
    np.testing.assert_allclose(sorted(answer.boxes.tolist()), [LEFT, RIGHT], atol=1.5)
    assert (answer.width, answer.height) == (160, 120)


def test_a_model_that_is_blind_on_one_side_sees_all_with_flip() -> None:
    resizing = ShortSide(120, 400)
    (blind,) = predictor(None, only_left=True, resizing=resizing).predict([picture(LEFT, RIGHT)])
    np.testing.assert_array_equal(blind.boxes, [LEFT])
    (seeing,) = predictor("flip", only_left=True, resizing=resizing).predict([picture(LEFT, RIGHT)])
    assert sorted(map(tuple, seeing.boxes.tolist())) == [LEFT, RIGHT]


def test_a_mask_found_in_a_mirrored_picture_is_mirrored_back() -> None:
    (answer,) = predictor("flip", only_left=True, masks=True, resizing=ShortSide(120, 400)).predict(
        [picture(LEFT, RIGHT)]
    )
    by_place = dict(zip(map(tuple, answer.boxes.tolist()), answer.shapes, strict=True))
    assert by_place[LEFT][:, :14].all()
    assert not by_place[LEFT][:, 14:].any()
    assert by_place[RIGHT][:, 14:].all()
    assert not by_place[RIGHT][:, :14].any()


def test_objects_that_a_model_keeps_apart_stay_apart() -> None:
    """Their overlap is less than the model's own bound, and more than that of tiles."""
    boxes = np.array([[10, 10, 60, 60], [10, 32, 60, 82]], np.float64)
    answer = ScoredBoxes(
        labels=np.zeros(2, np.int64), boxes=boxes, scores=np.array([0.9, 0.8], np.float32), width=160, height=120
    )
    mirrored = View(flip=True).undone(answer)
    answers = iter([[answer], [mirrored]])
    asked = predictor("flip", resizing=ShortSide(120, 400))
    (merged,) = Predictor(
        card=asked.card, resizing=asked.resizing, views=asked.views, network=lambda _: next(answers)
    ).predict([picture()])
    np.testing.assert_array_equal(merged.boxes, boxes)


def test_views_and_tiles_go_together() -> None:
    tiling = Tiling(tiler=GridTiler(grid=(2, 1)))
    only = predictor(None, only_left=True, tiling=tiling, resizing=LongSide(160))
    both = predictor(["flip", "scale 1.5"], only_left=True, tiling=tiling, resizing=LongSide(160))
    seen = [
        [box for box in asked.predict([picture(RIGHT)])[0].boxes.tolist() if np.allclose(box, RIGHT, atol=1.5)]
        for asked in (only, both)
    ]
    assert [len(boxes) for boxes in seen] == [0, 1]


def scores_of(pictures: Any) -> list[ScoredLabels]:
    shares = [float((pixels[:, : pixels.shape[1] // 2] > 127).mean()) for pixels in pictures]
    return [ScoredLabels(scores=np.array([1 - share, share], np.float32)) for share in shares]


def classifier(views: Any, resizing: Resizing) -> Predictor:
    card = ModelCard(
        task="image_classification",
        name="bright",
        parameters={},
        image_size=120,
        labels=["dark", "bright"],
        settings={},
    )
    return Predictor(card=card, resizing=resizing, network=scores_of, views=views_of(views))


def test_scores_of_classes_are_the_mean_of_all_views() -> None:
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[:, :30] = 255
    (plain,) = classifier(None, CenterCrop(120, 120)).predict([pixels])
    (answer,) = classifier("flip", CenterCrop(120, 120)).predict([pixels])
    np.testing.assert_allclose(plain.scores, [0.5, 0.5])
    np.testing.assert_allclose(answer.scores, [0.75, 0.25])
    assert answer.labels == ("dark", "bright")
    assert answer.scores.dtype == np.float32


def test_a_scale_brings_what_a_crop_shows_nearer_and_never_leaves_it_unfilled() -> None:
    near = classifier("scale 1.5", CenterCrop(160, 120))
    assert near.resizings == (CenterCrop(160, 120), CenterCrop(240, 120))
    assert classifier("scale 0.8", CenterCrop(160, 120)).resizings[1] == CenterCrop(128, 120)
    with pytest.raises(ConfigError, match=r"tta=scale 0.7: bright takes squares of 120.* Use scale 0.75 or more"):
        classifier("scale 0.7", CenterCrop(160, 120)).resizings  # noqa: B018


def test_a_picture_that_must_fit_a_square_as_a_whole_has_one_scale() -> None:
    with pytest.raises(ConfigError, match=r"tta=scale 1.2: bright takes squares of one size.*Use tta=flip"):
        classifier("scale 1.2", Letterbox(120)).resizings  # noqa: B018
    assert classifier("flip", Letterbox(120)).resizings == (Letterbox(120), Letterbox(120))


def test_a_jpeg_is_decoded_large_enough_for_the_largest_view(tmp_path: Any) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((800, 1000, 3), np.uint8))
    plain = predictor(None, resizing=ShortSide(200, 400)).picture(tmp_path / "a.jpg")
    large = predictor("scale 2", resizing=ShortSide(200, 400)).picture(tmp_path / "a.jpg")
    assert plain[0].shape[:2] == (200, 250)
    assert large[0].shape[:2] == (400, 500)
    assert plain[1] == large[1] == (1000, 800)


def test_the_cost_is_told() -> None:
    views = views_of(["flip", "scale 0.5"])
    assert told_cost(views, fixed=False).endswith("shown 3 times (as it is, flip, scale 0.5), 2.2 times the work")
    assert told_cost(views, fixed=True).endswith("3.0 times the work")
