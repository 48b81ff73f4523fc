"""Merging the answers of several windows: each method against its definition, box by box, and what all promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_automl_vision.merging import (
    METHODS,
    Merge,
    Merged,
    StreamingMerge,
    greedy_merging,
    growing,
    ios_nms,
    islands,
    joined,
    nms,
    overlaps,
    soft_nms,
    suppression,
    sweeping,
    weighted_fusion,
)

SIDE = 24
IDEMPOTENT = ["nms", "ios_nms", "greedy_merging", "weighted_fusion"]
IOS = ["ios_nms", "greedy_merging"]
LARGEST = st.sampled_from([0, 5, 8, math.inf])
THRESHOLDS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])


@st.composite
def answers(draw, most=14):
    """Boxes on a coarse grid, some of them without area, with few scores and classes, so that ties are common."""
    count = draw(st.integers(0, most))
    corner, side = st.integers(0, SIDE - 10), st.sampled_from([0, 2, 4, 5, 6, 10])
    rows = [[draw(corner), draw(corner), draw(side), draw(side)] for _ in range(count)]
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.9])) for _ in range(count)], dtype=np.float32)
    labels = np.array([draw(st.sampled_from([0, 1])) for _ in range(count)], dtype=np.int64)
    return boxes, scores, labels


def scattered(count, *, width=200, height=150, largest=40, classes=3, seed=0, scores=None):
    """Boxes of uneven sides; scores are all different unless there are only so many."""
    random = np.random.default_rng(seed)
    corners = random.random((count, 2)) * [width - largest, height - largest]
    boxes = np.hstack([corners, corners + random.random((count, 2)) * (largest - 4) + 4])
    levels = random.permutation(count) if scores is None else random.integers(0, scores, count)
    return boxes, ((levels + 1) / (levels.max(initial=0) + 2)).astype(np.float32), random.integers(0, classes, count)


def rows(merged: Merged) -> list[tuple[float, ...]]:
    return [
        (*box, score, label)
        for box, score, label in zip(merged.boxes.tolist(), merged.scores.tolist(), merged.labels.tolist(), strict=True)
    ]


def sources(merged: Merged) -> list[list[int]]:
    return [source.tolist() for source in merged.sources]


def assert_same(one: Merged, other: Merged) -> None:
    for field in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert sources(one) == sources(other)


# The definitions, box by box.


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(one, other, kind):
    wide, tall = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    common = max(wide, 0) * max(tall, 0)
    if not common:
        return 0.0
    return common / (area(one) + area(other) - common if kind == "iou" else min(area(one), area(other)))


def place(box, score, label):
    """What sorts boxes best first."""
    return (-score, -area(box), *box, label)


def listed(boxes, scores, labels):
    """(box, score, label, sources), best first."""
    given_ = zip(boxes.tolist(), scores.tolist(), labels.tolist(), itertools.count(), strict=False)
    return sorted(
        ((box, score, label, [index]) for box, score, label, index in given_), key=lambda one: place(*one[:3])
    )


def meet(one, other, class_agnostic):
    return class_agnostic or one[2] == other[2]


def defined_nms(answer, threshold, class_agnostic, kind):
    kept = []
    for one in listed(*answer):
        if not any(meet(one, other, class_agnostic) and overlap(one[0], other[0], kind) > threshold for other in kept):
            kept.append(one)
    return kept


def fits(one, other, largest):
    union = [*map(min, one[:2], other[:2]), *map(max, one[2:], other[2:])]
    return all(
        union[axis + 2] - union[axis] <= max(largest, one[axis + 2] - one[axis], other[axis + 2] - other[axis])
        for axis in (0, 1)
    )


def defined_greedy(answer, threshold, class_agnostic, kind, largest=math.inf):
    boxes, changed = listed(*answer), True
    while changed:
        changed, grown = False, []
        while boxes:
            (box, score, label, members), *rest = boxes
            boxes = []
            for other in rest:
                found = overlap(box, other[0], kind) if meet((box, score, label), other, class_agnostic) else 0
                if found > threshold and fits(box, other[0], largest):
                    box = [*map(min, box[:2], other[0][:2]), *map(max, box[2:], other[0][2:])]
                    members, changed = members + other[3], True
                else:
                    boxes.append(other)
            grown.append((box, score, label, members))
        boxes = sorted(grown, key=lambda one: place(*one[:3]))
    return boxes


def defined_soft_nms(answer, threshold, class_agnostic, floor):
    left, taken = listed(*answer), []
    while left:
        left.sort(key=lambda one: place(*one[:3]))
        best = left.pop(0)
        if best[1] <= floor:
            break
        taken.append(best)
        for index, one in enumerate(left):
            found = overlap(best[0], one[0], "iou")
            if meet(best, one, class_agnostic) and found > threshold:
                left[index] = (one[0], one[1] * (1 - found), *one[2:])
    return taken


def as_rows(defined):
    return [(*box, float(np.float32(score)), label) for box, score, label, _ in defined]


@pytest.mark.parametrize(("merge", "kind"), [(nms, "iou"), (ios_nms, "ios")])
@given(answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans())
def test_suppression_is_what_its_definition_says(merge, kind, answer, threshold, class_agnostic):
    merged = merge(*answer, threshold=threshold, class_agnostic=class_agnostic)
    assert rows(merged) == as_rows(defined_nms(answer, threshold, class_agnostic, kind))
    assert all(len(source) == 1 for source in merged.sources)
    for row, (index,) in zip(rows(merged), merged.sources, strict=True):
        assert row == (*answer[0][index], answer[1][index], answer[2][index])


@pytest.mark.parametrize("kind", ["ios", "iou"])
@given(answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans(), largest=LARGEST)
def test_greedy_merging_is_what_its_definition_says(kind, answer, threshold, class_agnostic, largest):
    settings = {"threshold": threshold, "class_agnostic": class_agnostic, "largest": largest}
    merged = greedy_merging(*answer, **settings, overlap=kind)
    defined = defined_greedy(answer, kind=kind, **settings)
    # Of equal scores the class may be that of either box where classes do not matter.
    assert [row[:5] for row in rows(merged)] == [row[:5] for row in as_rows(defined)]
    assert sorted(map(sorted, sources(merged))) == sorted(sorted(members) for *_, members in defined)
    for box, score, label, members in zip(merged.boxes, merged.scores, merged.labels, merged.sources, strict=True):
        assert box.tolist() == [*answer[0][members, :2].min(axis=0), *answer[0][members, 2:].max(axis=0)]
        assert (score, label) == (answer[1][members[0]], answer[2][members[0]])


@given(answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans(), floor=st.sampled_from([0.0, 0.2]))
def test_soft_nms_is_what_its_definition_says(answer, threshold, class_agnostic, floor):
    merged = soft_nms(*answer, threshold=threshold, class_agnostic=class_agnostic, floor=floor)
    expected = np.array(as_rows(defined_soft_nms(answer, threshold, class_agnostic, floor))).reshape(-1, 6)
    found = np.array(rows(merged)).reshape(-1, 6)
    assert found.shape == expected.shape
    # Scores that differ in a last digit only may change places.
    np.testing.assert_allclose(sorted(found[:, 4].tolist()), sorted(expected[:, 4].tolist()), rtol=1e-6)
    assert sorted(found[:, [0, 1, 2, 3, 5]].tolist()) == sorted(expected[:, [0, 1, 2, 3, 5]].tolist())


def test_soft_nms_lowers_the_scores_of_what_overlaps():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [50, 50, 60, 60]], dtype=float)
    merged = soft_nms(boxes, np.array([0.9, 0.8, 0.5, 0.3]), np.zeros(4, np.int64), threshold=0.6)
    assert sources(merged) == [[0], [2], [3], [1]]
    # The second overlaps the first by 0.8 and then the third by 0.625; first and third by 0.5 only.
    np.testing.assert_allclose(merged.scores, [0.9, 0.5, 0.3, 0.8 * 0.2 * 0.375], rtol=1e-6)


def defined_fusion(answer, threshold, class_agnostic):
    """(box, score, label, sources), in no order; a box is kept with the sum of its weights and of its corners."""
    boxes = [(box, score, label, index, max(score, 1e-30)) for box, score, label, index in listed(*answer)]
    boxes = [([w * side for side in box], w, score, label, index, box, box) for box, score, label, index, w in boxes]

    def mean(one):
        sides = zip(one[0], one[5], one[6], strict=True)
        return [min(max(side / one[1], low), high) for side, low, high in sides]

    def value(one):
        return float(np.float32(one[2] / len(one[4])))

    changed = True
    while changed:
        changed, fused = False, []
        for one in sorted(boxes, key=lambda one: place(mean(one), value(one), one[3])):
            found = [
                overlap(mean(other), mean(one), "iou")
                if meet(value_label(other), value_label(one), class_agnostic)
                else 0
                for other in fused
            ]
            most = int(np.argmax(found)) if found else 0
            if found and found[most] > threshold:
                other, changed = fused[most], True
                fused[most] = (
                    [a + b for a, b in zip(other[0], one[0], strict=True)],
                    other[1] + one[1],
                    other[2] + one[2],
                    other[3],
                    other[4] + one[4],
                    [*map(min, other[5], one[5])],
                    [*map(max, other[6], one[6])],
                )
            else:
                fused.append(one)
        boxes = fused
    return [(mean(one), value(one), one[3], one[4]) for one in boxes]


def value_label(one):
    return (None, None, one[3])


@given(answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans())
def test_weighted_fusion_is_what_its_definition_says(answer, threshold, class_agnostic):
    merged = weighted_fusion(*answer, threshold=threshold, class_agnostic=class_agnostic)
    defined = defined_fusion(answer, threshold, class_agnostic)
    assert sorted(map(sorted, sources(merged))) == sorted(sorted(members) for *_, members in defined)
    by_source = {min(members): (box, score) for box, score, _, members in defined}
    for box, score, members in zip(merged.boxes, merged.scores, sources(merged), strict=True):
        expected = by_source[min(members)]
        np.testing.assert_allclose(box, expected[0], rtol=1e-9)
        assert score == pytest.approx(expected[1], rel=1e-6)


def test_a_fused_box_is_the_mean_weighted_by_scores():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10]], dtype=float)
    merged = weighted_fusion(boxes, np.array([0.75, 0.25]), np.zeros(2, np.int64), threshold=0.5)
    np.testing.assert_allclose(merged.boxes, [[0.5, 0, 10.5, 10]])
    assert merged.scores.tolist() == [0.5]
    assert sources(merged) == [[0, 1]]


def test_a_place_that_a_window_missed_is_less_sure():
    boxes, labels = np.array([[1, 1, 9, 9], [1, 1, 9, 9], [41, 1, 49, 9]], dtype=float), np.zeros(3, np.int64)
    scores = np.array([0.8, 0.4, 0.6])
    windows = np.array([[0, 0, 60, 20], [0, 0, 20, 20], [0, 0, 8, 20], [30, 0, 60, 20]])
    merged = weighted_fusion(boxes, scores, labels, threshold=0.5, windows=windows)
    # Three windows show the first place up to a pixel, two answered; two show the second, one answered.
    np.testing.assert_allclose(merged.scores, [1.2 / 3, 0.6 / 2], rtol=1e-6)


# What every method promises.


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data(), answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans())
def test_results_do_not_depend_on_the_order_of_the_inputs(method, data, answer, threshold, class_agnostic):
    order = np.array(data.draw(st.permutations(range(len(answer[1])))), dtype=np.int64)
    merge = Merge(method=method, threshold=threshold, class_agnostic=class_agnostic)
    some, other = merge(*answer), merge(*(part[order] for part in answer))
    assert rows(some) == rows(other)
    values = [[(*answer[0][i], answer[1][i], answer[2][i]) for i in source] for source in some.sources]
    again = [[(*answer[0][i], answer[1][i], answer[2][i]) for i in order[source]] for source in other.sources]
    assert values == again


@pytest.mark.parametrize("method", IDEMPOTENT)
@given(answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans())
def test_merging_what_was_merged_changes_nothing(method, answer, threshold, class_agnostic):
    merge = Merge(method=method, threshold=threshold, class_agnostic=class_agnostic)
    merged = merge(*answer)
    again = merge(merged.boxes, merged.scores, merged.labels)
    assert rows(again) == rows(merged)
    assert sources(again) == [[index] for index in range(len(merged))]


@given(answer=answers(), threshold=THRESHOLDS)
def test_soft_nms_again_moves_no_box_and_raises_no_score(answer, threshold):
    merged = soft_nms(*answer, threshold=threshold)
    again = soft_nms(merged.boxes, merged.scores, merged.labels, threshold=threshold)
    for index, score in zip(sources(again), again.scores, strict=True):
        assert score <= merged.scores[index[0]]
    assert {tuple(row[:4]) for row in rows(again)} <= {tuple(row[:4]) for row in rows(merged)}


@pytest.mark.parametrize("method", METHODS)
@given(answer=answers(), threshold=THRESHOLDS, class_agnostic=st.booleans())
def test_results_stay_within_their_inputs(method, answer, threshold, class_agnostic):
    merged = Merge(method=method, threshold=threshold, class_agnostic=class_agnostic)(*answer)
    named = [index for source in sources(merged) for index in source]
    assert len(named) == len(set(named))
    assert (np.diff(merged.scores) <= 0).all()
    for box, score, label, members in zip(merged.boxes, merged.scores, merged.labels, merged.sources, strict=True):
        inputs = answer[0][members]
        assert (inputs[:, :2].min(axis=0) <= box[:2]).all()
        assert (box[2:] <= inputs[:, 2:].max(axis=0)).all()
        assert score <= answer[1][members].max() == answer[1][members[0]]
        assert label == answer[2][members[0]]
        assert class_agnostic or (answer[2][members] == label).all()


@pytest.mark.parametrize("method", ["greedy_merging", "weighted_fusion"])
@given(answer=answers(), threshold=THRESHOLDS)
def test_merging_names_every_input_once(method, answer, threshold):
    merged = Merge(method=method, threshold=threshold)(*answer)
    assert sorted(index for source in sources(merged) for index in source) == list(range(len(answer[1])))


@pytest.mark.parametrize("method", IDEMPOTENT)
@given(answer=answers(), threshold=THRESHOLDS)
def test_no_two_results_of_a_class_overlap_beyond_the_threshold(method, answer, threshold):
    merge = Merge(method=method, threshold=threshold)
    for one, other in itertools.combinations(rows(merge(*answer)), 2):
        assert one[5] != other[5] or overlap(one[:4], other[:4], merge.overlap) <= threshold


WHOLE, HALVES = [10, 10, 50, 30], ([10, 10, 32, 30], [28, 10, 50, 30])


@pytest.mark.parametrize("scores", list(itertools.permutations([0.9, 0.8, 0.7])))
def test_a_whole_object_takes_in_its_halves(scores):
    merged = greedy_merging(np.array([WHOLE, *HALVES]), np.array(scores), np.zeros(3, np.int64), threshold=0.5)
    assert merged.boxes.tolist() == [WHOLE]
    assert merged.scores.tolist() == [np.float32(0.9)]
    assert sorted(sources(merged)[0]) == [0, 1, 2]
    assert sources(merged)[0][0] == scores.index(0.9)


@pytest.mark.parametrize("method", IOS)
@pytest.mark.parametrize("scores", [[0.9, 0.8, 0.7], [0.8, 0.8, 0.8]])
def test_a_whole_object_that_scores_best_beats_its_halves(method, scores):
    merge = Merge(method=method, threshold=0.5)
    merged = merge(np.array([*HALVES, WHOLE]), np.array(scores[::-1]), np.zeros(3, np.int64))
    assert merged.boxes.tolist() == [WHOLE]


def test_with_ios_nms_a_half_that_scores_better_beats_the_whole():
    merged = ios_nms(np.array([WHOLE, *HALVES]), np.array([0.8, 0.9, 0.7]), np.zeros(3, np.int64), threshold=0.5)
    assert sources(merged) == [[1], [2]]


@pytest.mark.parametrize("method", METHODS)
def test_equal_boxes_collapse_to_one(method):
    merged = Merge(method=method, threshold=0.5)(np.array([WHOLE] * 5), np.full(5, 0.5), np.zeros(5, np.int64))
    assert merged.boxes.tolist() == [WHOLE]
    assert merged.scores.tolist() == [0.5]
    assert sources(merged)[0][0] == 0


@pytest.mark.parametrize("method", METHODS)
def test_classes_meet_only_where_they_do_not_matter(method):
    boxes, scores, labels = np.array([WHOLE, WHOLE]), np.array([0.5, 0.9]), np.array([3, -7000])
    apart, together = (Merge(method=method, threshold=0.5, class_agnostic=either) for either in (False, True))
    assert apart(boxes, scores, labels).labels.tolist() == [-7000, 3]
    assert together(boxes, scores, labels).labels.tolist() == [-7000]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_becomes_nothing(method):
    merged = Merge(method=method, threshold=0.5)(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    assert (merged.boxes.shape, merged.boxes.dtype, merged.scores.dtype, merged.labels.dtype, merged.sources) == (
        (0, 4),
        np.float64,
        np.float32,
        np.int64,
        (),
    )


@pytest.mark.parametrize("method", METHODS)
def test_one_box_stays_as_it_is(method):
    merged = Merge(method=method, threshold=0.0)(np.array([[1, 2.1, 3, 4]]), np.array([0.3]), np.array([6]))
    assert rows(merged) == [(1, 2.1, 3, 4, np.float32(0.3), 6)]


@pytest.mark.parametrize("method", METHODS)
def test_boxes_without_area_overlap_nothing(method):
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [3, 0, 3, 10]], dtype=float)
    merged = Merge(method=method, threshold=0.0)(boxes, np.array([0.9, 0.9, 0.8, 0.7]), np.zeros(4, np.int64))
    assert sources(merged) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("box", "score"),
    [
        ([0, 0, math.nan, 1], 0.5),
        ([0, 0, math.inf, 1], 0.5),
        ([5, 0, 4, 1], 0.5),
        ([0, 0, 1, 1], math.nan),
        ([0, 0, 1, 1], -0.1),
    ],
)
def test_what_is_no_scored_box_is_refused(method, box, score):
    with pytest.raises(ValueError, match="box 1 is"):
        Merge(method=method)(np.array([[0, 0, 1, 1], box]), np.array([0.5, score]), np.zeros(2, np.int64))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 1.5"):
        Merge(threshold=1.5)
    with pytest.raises(ValueError, match=r"no merge method 'nmm'; there are nms, soft_nms"):
        Merge(method="nmm")
    with pytest.raises(ValueError, match=r"largest is a setting of greedy_merging, got largest=5 for nms"):
        Merge(method="nms", largest=5)
    with pytest.raises(ValueError, match="1 boxes need as many scores"):
        nms(np.zeros((1, 4)), np.zeros(2), np.zeros(1, np.int64), threshold=0.5)


def test_a_merge_states_what_its_threshold_is_compared_with():
    assert {name: Merge(method=name).overlap for name in METHODS} == {
        "nms": "iou",
        "soft_nms": "iou",
        "weighted_fusion": "iou",
        "ios_nms": "ios",
        "greedy_merging": "ios",
    }


# Many boxes.


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(("count", "side"), [(300, 200), (2500, 200), (2500, 2000)])
def test_nms_equals_torchvision(threshold, count, side):
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    boxes, scores, labels = scattered(count, width=side, height=side, seed=count)
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores).double(), torch.from_numpy(labels)
    merged = nms(boxes, scores, labels, threshold=threshold)
    assert [source[0] for source in merged.sources] == ops.batched_nms(*tensors, threshold).tolist()
    merged = nms(boxes, scores, labels, threshold=threshold, class_agnostic=True)
    assert [source[0] for source in merged.sources] == ops.nms(*tensors[:2], threshold).tolist()


@pytest.mark.parametrize("crowd", [{}, {"width": 60, "height": 60}, {"scores": 4}, {"largest": 150, "width": 2000}])
@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_crowds_are_merged_by_definition_too(crowd, threshold):
    answer = scattered(250, seed=3, **crowd)
    for merge, kind in ((nms, "iou"), (ios_nms, "ios")):
        expected = as_rows(defined_nms(answer, threshold, False, kind))
        assert rows(merge(*answer, threshold=threshold)) == expected
    for kind in ("iou", "ios"):
        merged = greedy_merging(*answer, threshold=threshold, overlap=kind)
        defined = defined_greedy(answer, threshold, False, kind)
        assert rows(merged) == as_rows(defined)
        assert sorted(map(sorted, sources(merged))) == sorted(sorted(members) for *_, members in defined)


@given(
    answer=answers(),
    threshold=THRESHOLDS,
    rounds=st.integers(0, 2),
    crowded=st.integers(0, 2),
    dense=st.sampled_from([0, 2, 128]),
    patience=st.sampled_from([0, 0.5, 99]),
    near=st.sampled_from([0, 1, 16]),
    sampled=st.sampled_from([1, 8]),
    ahead=st.sampled_from([0, 2, 99]),
    largest=LARGEST,
    overlap=st.sampled_from(["ios", "iou"]),
)
def test_shortcuts_change_no_result(
    answer, threshold, rounds, crowded, dense, patience, near, sampled, ahead, largest, overlap
):
    def both():
        grown = greedy_merging(*answer, threshold=threshold, largest=largest, overlap=overlap)
        return nms(*answer, threshold=threshold), grown

    with pytest.MonkeyPatch.context() as patch:
        expected = both()
        patch.setattr(suppression, "_ROUNDS", rounds)
        patch.setattr(suppression, "_CROWDED", crowded)
        patch.setattr(growing, "_LARGE", crowded)
        patch.setattr(growing, "_PATIENCE", patience)
        patch.setattr(islands, "_FIRST_LIMIT", near)
        patch.setattr(sweeping, "_DENSE", dense)
        patch.setattr(overlaps, "_SAMPLED", sampled)
        patch.setattr(overlaps, "_AHEAD", ahead)
        found = both()
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("dense", [0, 128])
@pytest.mark.parametrize(("overlap", "largest"), [("ios", math.inf), ("iou", math.inf), ("ios", 60)])
def test_crowds_grow_by_definition_whether_swept_or_not(overlap, largest, dense, monkeypatch):
    monkeypatch.setattr(growing, "_LARGE", 20)
    monkeypatch.setattr(growing, "_PATIENCE", 0)
    monkeypatch.setattr(sweeping, "_DENSE", dense)
    answer = scattered(400, width=400, height=300, seed=7)
    merged = greedy_merging(*answer, threshold=0.3, overlap=overlap, largest=largest)
    assert rows(merged) == as_rows(defined_greedy(answer, 0.3, False, overlap, largest))


def test_a_long_chain_of_suppression_is_followed_to_its_end():
    lefts = np.arange(3000.0)
    boxes = np.stack([lefts, np.zeros(3000), lefts + 1.9, np.ones(3000)], axis=1)
    merged = nms(boxes, np.linspace(1, 0.1, 3000), np.zeros(3000, np.int64), threshold=0.2)
    assert sources(merged) == [[index] for index in range(0, 3000, 2)]


# Windows that arrive one after the other.


@st.composite
def looks(draw):
    """Windows and what each answered; windows may overlap, repeat and leave gaps."""
    windows, found = [[0, 0, SIDE, SIDE]] if draw(st.booleans()) else [], []
    for _ in range(draw(st.integers(1, 5))):
        left, top = draw(st.integers(0, SIDE - 4)), draw(st.integers(0, SIDE - 4))
        windows.append([left, top, draw(st.integers(left + 2, SIDE)), draw(st.integers(top + 2, SIDE))])
    for window in windows:
        boxes, scores, labels = draw(answers(most=6))
        found.append((boxes.clip(window[:2] * 2, window[2:] * 2), scores, labels))
    return windows, found


def streamed(windows, found, merge, order=None, *, often=True):
    stream, parts = StreamingMerge(windows, merge), []
    for window in range(len(windows)) if order is None else order:
        stream.add(window, *found[window])
        if often:
            parts.append(stream.finished())
    return joined([*parts, stream.close()]), parts


@pytest.mark.parametrize("method", METHODS)
@given(
    look=looks(),
    threshold=THRESHOLDS,
    class_agnostic=st.booleans(),
    largest=LARGEST,
    often=st.booleans(),
    data=st.data(),
)
def test_a_stream_of_windows_gives_the_same_as_all_at_once(
    method, look, threshold, class_agnostic, largest, often, data
):
    windows, found = look
    largest = largest if method == "greedy_merging" else math.inf
    merge = Merge(method=method, threshold=threshold, class_agnostic=class_agnostic, largest=largest)
    order = data.draw(st.permutations(range(len(windows))))
    merged, _ = streamed(windows, found, merge, order, often=often)
    answer = (np.concatenate([found[window][part] for window in order]) for part in range(3))
    assert_same(merged, merge(*answer))


def tiles(nx, ny, size, overlap):
    step = size - overlap
    grid = [[x * step, y * step, x * step + size, y * step + size] for y in range(ny) for x in range(nx)]
    return [[0, 0, (nx - 1) * step + size, (ny - 1) * step + size], *grid]


def seen(windows, each, *, largest=40, classes=3, seed=0):
    """About so many boxes in each window."""
    random, found = np.random.default_rng(seed), []
    for left, top, right, bottom in windows:
        corners = random.random((each, 2)) * [right - left - largest, bottom - top - largest] + [left, top]
        boxes = np.hstack([corners, corners + random.random((each, 2)) * (largest - 8) + 8])
        found.append((boxes, random.random(each).astype(np.float32), random.integers(0, classes, each)))
    return found


@pytest.mark.parametrize(("method", "largest"), [("greedy_merging", 40), *((name, math.inf) for name in METHODS)])
@pytest.mark.parametrize("each", [6, 20])
def test_a_stream_of_tiles_gives_the_same_as_all_at_once(method, largest, each):
    windows = tiles(7, 7, 200, 50)
    found, merge = seen(windows, each), Merge(method=method, threshold=0.3, largest=largest)
    merged, parts = streamed(windows, found, merge)
    assert_same(merged, merge(*(np.concatenate([answer[part] for answer in found]) for part in range(3))))
    waits = method == "weighted_fusion" or (method, largest) == ("greedy_merging", math.inf)
    assert (sum(map(len, parts[:-10])) > 0) == (not waits)


def test_a_chain_of_suppression_waits_for_its_beginning():
    # In the second window a better box may come that suppresses the second box, and then the first one stays.
    boxes, labels = np.array([[0, 0, 10, 10], [4, 0, 14, 10]], dtype=float), np.zeros(2, np.int64)
    stream = StreamingMerge([[0, 0, 14, 10], [12, 0, 30, 10]], Merge(threshold=0.25))
    stream.add(0, boxes, np.array([0.5, 0.8]), labels)
    assert len(stream.finished()) == 0
    assert stream.held.tolist() == [0, 1]
    stream.add(1, np.empty((0, 4)), np.empty(0), labels[:0])
    assert sources(stream.finished()) == [[1]]
    assert stream.held.tolist() == []


def test_a_box_that_is_certainly_suppressed_waits_for_nothing():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10]], dtype=float)
    stream = StreamingMerge([[0, 0, 14, 10], [10, 0, 30, 10]], Merge(threshold=0.25))
    stream.add(0, boxes, np.array([0.8, 0.5]), np.zeros(2, np.int64))
    assert sources(stream.finished()) == [[0]]
    assert stream.held.tolist() == []


@pytest.mark.parametrize("method", METHODS)
def test_close_gives_out_the_rest(method):
    stream = StreamingMerge([[0, 0, 50, 50], [0, 0, 50, 50]], Merge(method=method, threshold=0.5))
    stream.add(1, np.array([WHOLE, WHOLE]), np.array([0.5, 0.5]), np.zeros(2, np.int64))
    assert len(stream.finished()) == 0
    assert stream.close().boxes.tolist() == [WHOLE]
    assert len(stream.close()) == len(stream.held) == 0


def test_a_window_is_added_once_and_holds_its_boxes():
    stream = StreamingMerge([[0, 0, 10, 10], [5, 0, 15, 10]], Merge())
    nothing = np.empty((0, 4)), np.empty(0), np.empty(0, np.int64)
    stream.add(0, *nothing)
    for window in (0, 2, -1):
        with pytest.raises(ValueError, match=f"window {window} is none of the 1 still to come"):
            stream.add(window, *nothing)
    with pytest.raises(ValueError, match=r"box \[1.0, 0.0, 9.0, 9.0\] reaches beyond its window"):
        stream.add(1, np.array([[1, 0, 9, 9]]), np.ones(1), np.zeros(1, np.int64))
    stream.add(1, np.array([[5 - 1e-9, 0, 9, 9]]), np.ones(1), np.zeros(1, np.int64))
    assert stream.close().boxes.tolist() == [[5, 0, 9, 9]]


def test_a_huge_image_is_merged_in_little_memory():
    windows = tiles(26, 26, 1024, 264)
    assert windows[0] == [0, 0, 20024, 20024]
    merge, found = Merge(method="nms", threshold=0.5), seen(windows, 591, classes=10)
    stream, held, parts = StreamingMerge(windows, merge), 0, []
    for window, answer in enumerate(found):
        stream.add(window, *answer)
        held = max(held, len(stream.held))
        parts.append(stream.finished())
    assert held < 0.03 * 400_000 < 591 * len(windows)
    merged = joined([*parts, stream.close()])
    assert_same(merged, merge(*(np.concatenate([answer[part] for answer in found]) for part in range(3))))


def test_a_huge_image_is_merged_greedily_in_little_memory():
    windows = tiles(26, 26, 1024, 264)
    merge, found = Merge(method="greedy_merging", threshold=0.5, largest=200), seen(windows, 148, classes=10)
    stream, held, parts = StreamingMerge(windows, merge), 0, []
    for window, answer in enumerate(found):
        stream.add(window, *answer)
        held = max(held, len(stream.held))
        if window % 26 == 0:
            parts.append(stream.finished())
    assert held < 0.25 * 100_000 < 148 * len(windows)
    merged = joined([*parts, stream.close()])
    assert_same(merged, merge(*(np.concatenate([answer[part] for answer in found]) for part in range(3))))
