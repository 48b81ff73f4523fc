"""Annotated pictures: readable at any size and on any background, and nothing is drawn where nothing was found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_automl_vision.data.inputs import Picture
from lightning_automl_vision.drawing.colours import PALETTE, colour_of, text_colour_on
from lightning_automl_vision.drawing.files import write_annotated, write_picture
from lightning_automl_vision.drawing.grid import WIDEST, grid, truth_and_prediction
from lightning_automl_vision.drawing.lettering import font_for, font_size, one_line, plain_letters, shortened
from lightning_automl_vision.drawing.objects import annotated
from lightning_automl_vision.drawing.tags import Tag, write_tags
from lightning_automl_vision.samples import Boxes, Masks, ScoredBoxes, ScoredLabels, ScoredMasks

GRAY = 90


def plain(width, height, value=GRAY):
    return np.full((height, width, 3), value, np.uint8)


def found(boxes, width, height, labels=None, classes=("cat", "dog")):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels)
    scores = np.linspace(0.9, 0.4, len(boxes)).astype(np.float32)
    return ScoredBoxes(labels=labels, boxes=boxes, scores=scores, width=width, height=height, classes=tuple(classes))


def with_masks(prediction):
    """Every object fills the middle of its box."""
    shapes = np.zeros((len(prediction), 28, 28), np.float32)
    shapes[:, 5:23, 5:23] = 1
    fields = ("labels", "boxes", "scores", "width", "height", "classes")
    return ScoredMasks(**{name: getattr(prediction, name) for name in fields}, shapes=shapes)


def true_boxes(boxes, labels):
    return Boxes(labels=np.array(labels), boxes=np.array(boxes, np.float64), crowd=np.zeros(len(labels), np.bool_))


def where(pixels, colour):
    return (pixels == np.array(colour)).all(axis=2)


def luminance(colour):
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("index", range(60))
def test_text_is_readable_on_the_colour_of_every_class(index):
    colour = colour_of(index)
    light, dark = sorted((luminance(colour), luminance(text_colour_on(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert 0.2 < luminance(colour) < 0.75


def test_text_on_a_dark_background_is_white():
    assert text_colour_on((20, 20, 60)) == (255, 255, 255)


def test_colours_differ():
    first = np.array([colour_of(index) for index in range(PALETTE)])
    apart = np.abs(first[:, None].astype(int) - first[None]).sum(axis=2) + np.eye(PALETTE, dtype=int) * 999
    assert PALETTE >= 20
    assert apart.min() >= 30
    assert len({colour_of(index) for index in range(200)}) == 200


@pytest.mark.parametrize("objects", [found([], 300, 200), with_masks(found([], 300, 200))])
def test_nothing_found_changes_nothing(objects):
    pixels = plain(300, 200)
    drawn = annotated(pixels, objects)
    np.testing.assert_array_equal(drawn, pixels)
    assert drawn is not pixels


def test_the_given_picture_stays_as_it_is():
    pixels = plain(300, 200)
    annotated(pixels, with_masks(found([[20, 50, 120, 150]], 300, 200)))
    assert (pixels == GRAY).all()


@pytest.mark.parametrize(("width", "thinnest", "thickest"), [(300, 1, 2), (1000, 2, 3), (4000, 7, 14)])
def test_lines_lie_around_the_object_and_grow_with_the_picture(width, thinnest, thickest):
    height = width * 3 // 4
    left, top, right, bottom = (round(share * width) for share in (0.3, 0.3, 0.6, 0.6))
    drawn = annotated(plain(width, height), found([[left, top, right, bottom]], width, height))
    column = drawn[(top + bottom) // 2]
    line = np.flatnonzero((column == colour_of(0)).all(axis=1))
    assert thinnest <= (line < width / 2).sum() == (line > width / 2).sum() <= thickest
    assert left - 1 in line
    assert right in line
    edge = thickest
    assert (drawn[top + edge : bottom - edge, left + edge : right - edge] == GRAY).all()


def test_a_line_at_the_border_is_within_the_picture():
    drawn = annotated(plain(300, 200), found([[0, 0, 300, 200]], 300, 200))
    for line in (drawn[:, 0], drawn[:, -1], drawn[0, 100:], drawn[-1]):
        assert where(line[None], colour_of(0)).mean() > 0.9


def test_an_object_of_two_pixels_is_not_hidden():
    drawn = annotated(plain(600, 400), found([[300, 200, 302, 202]], 600, 400))
    assert (drawn[200:202, 300:302] == GRAY).all()
    assert where(drawn[195:206, 295:306], colour_of(0)).any()


def test_a_mask_is_tinted_and_its_surroundings_are_not():
    drawn = annotated(plain(400, 300), with_masks(found([[100, 100, 300, 250]], 400, 300)))
    assert 0 < np.abs(drawn[170:180, 195:205].astype(int) - GRAY).max() < 255
    assert (drawn[260:, :] == GRAY).all()
    assert where(drawn, colour_of(0)).any()


def test_a_true_mask_is_drawn_from_its_polygons_with_its_hole():
    outer = np.array([[50.0, 50], [250, 50], [250, 250], [50, 250]])
    inner = outer * 0.5 + 75
    masks = Masks(
        labels=np.array([1]),
        boxes=np.array([[50.0, 50, 250, 250]]),
        crowd=np.array([False]),
        polygons=((outer, inner),),
    )
    drawn = annotated(plain(300, 300), masks, ("cat", "dog"))
    assert (drawn[140:160, 140:160] == GRAY).all()
    assert (drawn[140:160, 70:80] != GRAY).any()
    assert where(drawn, colour_of(1)).any()


def test_objects_of_the_only_class_are_told_apart_by_colour():
    boxes = [[20, 40, 100, 120], [120, 40, 200, 120]]
    drawn = annotated(plain(300, 200), with_masks(found(boxes, 300, 200, classes=("cell",))))
    assert where(drawn, colour_of(0)).any()
    assert where(drawn, colour_of(1)).any()


def test_an_object_whose_mask_is_empty_is_shown_by_its_box():
    objects = with_masks(found([[100, 100, 200, 200]], 300, 300))
    objects.shapes[:] = 0
    assert where(annotated(plain(300, 300), objects)[150:151], colour_of(0)).sum() >= 2


def test_crowds_and_classes_are_named():
    truth = Boxes(labels=np.array([0]), boxes=np.array([[100.0, 100, 200, 200]]), crowd=np.array([True]))
    alone = Boxes(labels=truth.labels, boxes=truth.boxes, crowd=np.array([False]))
    wide, narrow = (where(annotated(plain(300, 300), one, ("cat",)), colour_of(0)).sum() for one in (truth, alone))
    assert wide > narrow + 100


def extents(pixels, colour):
    rows, columns = np.nonzero(where(pixels, colour))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_tags_stay_in_the_picture_and_hide_little_of_each_other(seed, count):
    random = np.random.default_rng(seed)
    corners = random.uniform(-20, 380, (count, 2))
    boxes = np.hstack([corners, corners + random.uniform(5, 60, (count, 2))])
    tags = [Tag(f"name {i}", colour_of(i), box, float(box[0])) for i, box in enumerate(boxes)]
    drawn = write_tags(plain(400, 300), tags)
    assert drawn.shape == (300, 400, 3)
    shown = [tag for tag in tags if where(drawn, tag.colour).any()]
    assert tags[0] in shown
    for tag in shown:
        left, top, right, bottom = extents(drawn, tag.colour)
        own = (drawn[top:bottom, left:right] == np.array(tag.colour)).all(axis=2).sum()
        assert own >= 0.3 * (right - left) * (bottom - top)


def test_a_tag_moves_when_its_place_is_taken():
    boxes = [np.array([100.0, 100, 160, 160])] * 2
    tags = [Tag("first", colour_of(0), boxes[0], 100.0), Tag("second", colour_of(1), boxes[1], 100.0)]
    drawn = write_tags(plain(400, 300), tags)
    first, second = extents(drawn, colour_of(0)), extents(drawn, colour_of(1))
    assert first[3] <= 101
    assert second[0] >= first[2] or second[1] >= first[3]


def test_a_crowd_of_tags_leaves_most_of_the_picture_visible():
    random = np.random.default_rng(0)
    corners = random.uniform(0, 270, (200, 2))
    boxes = np.hstack([corners, corners + 25])
    tags = [Tag("something", (255, 0, 255), box, float(box[0])) for box in boxes]
    assert (write_tags(plain(300, 300), tags) == GRAY).all(axis=2).mean() > 0.6


@given(st.text(max_size=80), st.integers(20, 400), st.integers(20, 400))
@settings(max_examples=60, deadline=None)
def test_any_class_name_can_be_drawn_at_any_size(name, width, height):
    objects = found([[2, 2, width - 3, height - 3]], width, height, classes=(name,))
    assert annotated(plain(width, height), objects).shape[2] == 3
    scored = ScoredLabels(scores=np.array([0.7, 0.3], np.float32), labels=(name, "other"))
    assert len(annotated(plain(width, height), scored)) > height


def test_names_are_one_short_line():
    assert one_line("a\n\tb\x00", 0) == "a b"
    assert len(one_line("x" * 100, 0)) <= 32
    assert plain_letters("Fußgänger am Café 電") == "Fussganger am Cafe ?"


def test_a_name_that_no_font_has_is_told_by_its_number():
    nowhere = "\U0001f408\U00013000"  # an emoji and a hieroglyph
    assert one_line(nowhere, 6) == "class 7"
    assert one_line(f"{nowhere} cat", 6) == "cat, class 7"
    assert one_line("what? yes", 6) == "what? yes"


def test_a_tag_wider_than_the_picture_loses_its_score_first():
    assert shortened("dog 0.40", 10, 30) == "dog"
    assert shortened("hippopotamus 0.40", 10, 40).startswith("hippo")
    box = np.array([5.0, 300, 30, 340])
    drawn = write_tags(plain(40, 1000), [Tag("dog 0.40", colour_of(1), box, 5.0)])
    left, _, right, _ = extents(drawn, colour_of(1))
    assert 0 <= left < right < 40


@pytest.mark.parametrize(("width", "height"), [(4000, 40), (40, 4000), (300, 20), (20, 300)])
def test_sheets_of_long_pictures_have_room_for_names(width, height):
    box = np.array([[0.4 * width, 0.4 * height, 0.5 * width, 0.5 * height]])
    prediction = found(box, width, height)
    sheet = truth_and_prediction(plain(width, height), true_boxes(box, [1]), prediction, ("cat", "dog"))
    assert max(sheet.shape[:2]) <= WIDEST + 100
    assert min(sheet.shape[:2]) >= 90
    for colour in (colour_of(0), colour_of(1)):
        left, top, right, bottom = extents(sheet, colour)
        assert right - left >= 20
        assert bottom - top >= 10


def test_a_caption_is_never_cut():
    nothing = true_boxes(np.zeros((0, 4)), [])
    many = found(np.tile([1.0, 1, 3, 300], (1234, 1)), 20, 320)
    sheet = truth_and_prediction(plain(20, 320), nothing, many)
    widths = [font_for(text, 15).getlength(text) for text in ("truth (0)", "prediction (1234 found)")]
    assert sheet.shape[1] >= 160 + widths[1]


def test_names_of_classes_get_room_below_a_narrow_picture():
    scored = ScoredLabels(scores=np.array([0.7, 0.3], np.float32), labels=("a name of thirty-two letters, ok", "b"))
    assert 220 < annotated(plain(40, 400), scored).shape[1] <= 320
    assert annotated(plain(400, 40), scored).shape[1] == 400


def test_letters_grow_with_the_picture():
    assert font_size(300, 225) == 10
    assert 14 <= font_size(1000, 750) <= 20
    assert 80 <= font_size(6000, 4000) <= 110


def test_small_pictures_are_magnified():
    drawn = annotated(plain(40, 30), found([[10, 10, 30, 25]], 40, 30))
    assert drawn.shape == (120, 160, 3)
    assert where(drawn[:, 35:45], colour_of(0)).any()


def test_a_classifiers_best_classes_stand_below_the_picture():
    scored = ScoredLabels(scores=np.array([0.1, 0.6, 0.02, 0.28], np.float32), labels=("a", "b", "c", "d"))
    drawn = annotated(plain(400, 300), scored)
    assert (drawn[:300] == GRAY).all()
    bars = [where(drawn[300:], colour_of(index)).any(axis=0).sum() for index in range(4)]
    assert bars[1] > bars[3] > bars[0] > 0
    assert bars[2] == 0
    assert bars[1] / bars[3] == pytest.approx(0.6 / 0.28, rel=0.1)


def test_truth_and_prediction_stand_side_by_side_at_the_same_scale():
    pixels = plain(2000, 1000)
    sheet = truth_and_prediction(
        pixels, true_boxes([[400, 400, 800, 800]], [1]), found([[1200, 200, 1600, 600]], 2000, 1000), ("cat", "dog")
    )
    assert sheet.shape[1] <= WIDEST
    left, right = sheet[:, : sheet.shape[1] // 2], sheet[:, sheet.shape[1] // 2 :]
    assert where(left, colour_of(1)).any()
    assert not where(left, colour_of(0)).any()
    assert where(right, colour_of(0)).any()
    assert not where(right, colour_of(1)).any()
    columns = np.flatnonzero(where(left[250:280], colour_of(1)).any(axis=0)) / left.shape[1]
    assert columns.min() == pytest.approx(0.2, abs=0.01)
    assert columns.max() == pytest.approx(0.4, abs=0.01)


def test_masks_are_shown_in_a_sheet_too():
    objects = with_masks(found([[100, 100, 300, 250]], 400, 300))
    sheet = truth_and_prediction(plain(400, 300), true_boxes(np.zeros((0, 4)), []), objects)
    assert where(sheet, colour_of(0)).any()


@given(st.lists(st.tuples(st.integers(30, 2500), st.integers(30, 2500)), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_sheet_of_any_pictures_is_no_wider_than_a_screen(sizes):
    nothing = true_boxes(np.zeros((0, 4)), [])
    rows = [
        truth_and_prediction(plain(min(width, 300), min(height, 300)), nothing, found([], width, height))
        for width, height in sizes
    ]
    sheet = grid(rows)
    assert sheet.shape[1] <= WIDEST
    assert sheet.dtype == np.uint8


def test_narrow_rows_share_a_line():
    row = truth_and_prediction(plain(256, 256), true_boxes(np.zeros((0, 4)), []), found([], 256, 256))
    assert len(grid([row] * 4)) < 3 * len(row)


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("a.jpg", "a.jpg"),
        ("http://host/a.JPEG?b=c.png", "a.jpg"),
        ("http://host/a?b=c.jpg", "a.png"),
        ("a.gif", "a.png"),
    ],
)
def test_a_jpeg_is_drawn_as_jpeg_whatever_its_address_says(name, drawn, tmp_path):
    file = write_picture(tmp_path / "stored.jpg", plain(40, 30))
    picture = Picture(name, str(file), "a")
    assert write_annotated(tmp_path, picture, found([], 40, 30), 10_000) == tmp_path / drawn
