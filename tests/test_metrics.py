"""The classification metrics against scikit-learn, and what happens where those are undefined."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from lightning_automl_vision.metrics.classification import classification_metrics
from lightning_automl_vision.metrics.curves import (
    Rankings,
    classification_report,
    confusion_matrix,
    precision_recall_curve,
    roc_curve,
    share_of_row,
)

AVERAGES = ("macro", "micro", "weighted")
AVERAGED = ("AUC", "average_precision_score", "f1_score", "precision_score", "recall_score")
SINGLE = ("balanced_accuracy", "norm_macro_recall", "matthews_correlation", "weighted_accuracy")


def names_of(number):
    return [f"class {index}" for index in range(number)]


def coarse_scores(draw, shape):
    """Few distinct values, so that ties abound, in either precision."""
    levels = draw(st.integers(2, 30))
    flat = draw(st.lists(st.integers(0, levels), min_size=math.prod(shape), max_size=math.prod(shape)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return (np.array(flat, dtype=np.float64).reshape(shape) / levels).astype(dtype)


@st.composite
def multiclass(draw):
    images, classes = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    scores = coarse_scores(draw, (images, classes)) + np.float32(1e-3)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    return scores / scores.sum(axis=1, keepdims=True), np.array(labels)


@st.composite
def multilabel(draw):
    images, classes = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    labels = draw(st.lists(st.integers(0, 1), min_size=images * classes, max_size=images * classes))
    return coarse_scores(draw, (images, classes)), np.array(labels).reshape(images, classes)


def quietly(function, *arguments, **options):
    """scikit-learn's answer without its warnings about what is undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def mean_over(values, weights=None):
    return float(np.average(values, weights=weights)) if len(values) else math.nan


def ranking_metrics(scores, truth):
    """AUC and average precision from scikit-learn's binary answers for the classes that have one."""
    found = {}
    for name, function, measurable in (
        ("AUC", oracle.roc_auc_score, lambda column: 0 < column.sum() < len(column)),
        ("average_precision_score", oracle.average_precision_score, lambda column: column.sum() > 0),
    ):
        columns = [index for index in range(truth.shape[1]) if measurable(truth[:, index])]
        values = [function(truth[:, index], scores[:, index]) for index in columns]
        flat = truth.ravel()
        found[f"{name}_macro"] = mean_over(values)
        found[f"{name}_weighted"] = mean_over(values, truth[:, columns].sum(axis=0) if values else None)
        found[f"{name}_micro"] = function(flat, scores.ravel()) if measurable(flat) else math.nan
    return found


def decision_metrics(truth, predicted):
    """Precision and F1 as scikit-learn defines them by default; recall over the classes that are true somewhere."""
    present = np.flatnonzero((truth | predicted).any(axis=0))
    found = {}
    for average in AVERAGES:
        defined = truth.any() if average == "weighted" else len(present) > 0
        for name, function in (("precision_score", oracle.precision_score), ("f1_score", oracle.f1_score)):
            value = quietly(function, truth, predicted, average=average, labels=present) if defined else math.nan
            found[f"{name}_{average}"] = value
        recall = quietly(oracle.recall_score, truth, predicted, average=average, zero_division=np.nan)
        found[f"recall_score_{average}"] = recall if truth.any() else math.nan
    return found


def assert_same(ours, expected):
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@settings(deadline=None, max_examples=80)
@given(multiclass())
def test_multiclass_metrics_equal_those_of_scikit_learn(case):
    scores, labels = case
    classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    truth, chosen = np.eye(classes, dtype=int)[labels], np.eye(classes, dtype=int)[predicted]
    ours = classification_metrics(scores, labels, multilabel=False, classes=names_of(classes))
    sizes = np.bincount(labels, minlength=classes)
    several = len(set(labels)) > 1
    expected = {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "balanced_accuracy": quietly(oracle.balanced_accuracy_score, labels, predicted),
        "norm_macro_recall": quietly(oracle.balanced_accuracy_score, labels, predicted, adjusted=True)
        if several
        else math.nan,
        "matthews_correlation": quietly(oracle.matthews_corrcoef, labels, predicted) if several else math.nan,
        "weighted_accuracy": oracle.accuracy_score(labels, predicted, sample_weight=sizes[labels]),
        **ranking_metrics(scores, truth),
        **decision_metrics(truth, chosen),
    }
    assert_same(ours, expected)
    log_loss = oracle.log_loss(labels, scores, labels=range(classes))
    assert ours["log_loss"] == pytest.approx(log_loss, abs=1e-6)
    binary = {name for name in ours if name.endswith("_binary")}
    assert binary == ({f"{name}_binary" for name in AVERAGED} if classes == 2 else set())
    assert set(ours) - binary == {"log_loss", *expected}
    if classes == 2:
        assert_same(ours, binary_metrics(scores, labels, predicted))


def binary_metrics(scores, labels, predicted):
    seen, present = (labels | predicted).any(), labels.any()
    ranking = ranking_metrics(scores[:, 1:], labels[:, None])
    return {
        "AUC_binary": ranking["AUC_macro"],
        "average_precision_score_binary": ranking["average_precision_score_macro"],
        "precision_score_binary": quietly(oracle.precision_score, labels, predicted) if seen else math.nan,
        "f1_score_binary": quietly(oracle.f1_score, labels, predicted) if seen else math.nan,
        "recall_score_binary": oracle.recall_score(labels, predicted) if present else math.nan,
    }


@settings(deadline=None, max_examples=80)
@given(multilabel())
def test_multilabel_metrics_equal_those_of_scikit_learn(case):
    scores, truth = case
    predicted = (scores >= 0.5).astype(int)
    ours = classification_metrics(scores, truth, multilabel=True, classes=names_of(scores.shape[1]))
    present = np.flatnonzero((truth | predicted).any(axis=0))
    samples = quietly(oracle.jaccard_score, truth, predicted, average="samples", zero_division=1)

    def jaccard(average):
        return quietly(oracle.jaccard_score, truth, predicted, average=average, labels=present)

    expected = {
        "accuracy": oracle.accuracy_score(truth, predicted),
        "iou": samples,
        "iou_samples": samples,
        "iou_macro": jaccard("macro") if len(present) else math.nan,
        "iou_micro": jaccard("micro") if len(present) else math.nan,
        "iou_weighted": jaccard("weighted") if truth.any() else math.nan,
        **ranking_metrics(scores, truth),
        **decision_metrics(truth, predicted),
    }
    assert_same(ours, expected)
    assert set(ours) == {"log_loss", *expected}


@settings(deadline=None, max_examples=50)
@given(multilabel())
def test_multilabel_log_loss_is_the_mean_over_labels(case):
    scores, truth = case
    inside = np.clip(scores.astype(np.float64), 0.05, 0.95)
    losses = [
        oracle.log_loss(column, np.stack([1 - score, score], axis=1), labels=[0, 1])
        for column, score in zip(truth.T, inside.T, strict=True)
    ]
    ours = classification_metrics(inside, truth, multilabel=True, classes=names_of(scores.shape[1]))
    assert ours["log_loss"] == pytest.approx(np.mean(losses), abs=1e-12)


def test_a_class_absent_from_the_truth_is_left_out_of_recall_and_ranking():
    scores = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.2, 0.1, 0.7]], dtype=np.float32)
    ours = classification_metrics(scores, np.array([0, 1, 1]), multilabel=False, classes="abc")
    assert ours["recall_score_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert ours["AUC_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert ours["precision_score_macro"] == pytest.approx((1 + 1 + 0) / 3)


def test_one_image_has_no_ranking_but_an_accuracy():
    ours = classification_metrics(np.array([[0.1, 0.7, 0.2]]), np.array([1]), multilabel=False, classes="abc")
    assert ours["accuracy"] == 1
    assert math.isnan(ours["AUC_macro"])
    assert math.isnan(ours["matthews_correlation"])


def test_no_image_at_all_measures_nothing():
    ours = classification_metrics(np.zeros((0, 3)), np.zeros(0, dtype=int), multilabel=False, classes="abc")
    assert all(math.isnan(value) for value in ours.values())
    assert set(ours) >= {"accuracy", "log_loss", *SINGLE}


def test_an_image_without_labels_that_is_given_none_agrees_fully():
    ours = classification_metrics(
        np.array([[0.1, 0.2], [0.9, 0.2]]), np.array([[0, 0], [0, 1]]), multilabel=True, classes="ab"
    )
    assert ours["iou"] == 0.5
    assert ours["iou_macro"] == 0


def test_scores_of_a_diverged_model_give_no_numbers():
    scores = np.array([[0.5, 0.5], [math.nan, math.nan]], dtype=np.float32)
    ours = classification_metrics(scores, np.array([0, 1]), multilabel=False, classes="ab")
    assert all(math.isnan(value) for value in ours.values())


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [((2, 2), [0, 1], "scores must be N x 3"), ((2, 3), [0, 3], r"in \[0, 3\)"), ((2, 3), [0], "labels must be N")],
)
def test_input_that_does_not_fit_together_is_refused(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.ones(shape), np.array(labels), multilabel=False, classes="abc")


@settings(deadline=None, max_examples=50)
@given(multiclass())
def test_curves_and_confusion_matrix_equal_those_of_scikit_learn(case):
    scores, labels = case
    names = names_of(scores.shape[1])
    matrix = confusion_matrix(scores, labels, multilabel=False, classes=names)
    expected = quietly(oracle.confusion_matrix, labels, scores.argmax(axis=1), labels=range(len(names)))
    assert (matrix == expected).all()
    sums = share_of_row(matrix).sum(axis=1)
    assert sums == pytest.approx(np.where(matrix.sum(axis=1) > 0, 1.0, math.nan), nan_ok=True)
    rankings = Rankings.of(scores, labels, multilabel=False, classes=names)
    for index, name in enumerate(names):
        truth = labels == index
        roc, pr = roc_curve(rankings.classes[name]), precision_recall_curve(rankings.classes[name])
        assert (roc is None) == (truth.all() or not truth.any())
        assert (pr is None) == (not truth.any())
        if roc is not None:
            x, y, thresholds = oracle.roc_curve(truth, scores[:, index], drop_intermediate=False)
            assert (roc.x, roc.y, roc.thresholds) == (pytest.approx(x), pytest.approx(y), pytest.approx(thresholds))
        if pr is not None:
            precision, recall, _ = oracle.precision_recall_curve(truth, scores[:, index])
            assert (pr.x[::-1], pr.y[::-1]) == (pytest.approx(recall), pytest.approx(precision))


@settings(deadline=None, max_examples=30)
@given(multilabel())
def test_multilabel_confusion_is_one_table_for_each_class(case):
    scores, truth = case
    names = names_of(scores.shape[1])
    expected = oracle.multilabel_confusion_matrix(truth, (scores >= 0.5).astype(int))
    assert (confusion_matrix(scores, truth, multilabel=True, classes=names) == expected).all()


@settings(deadline=None, max_examples=30)
@given(multiclass())
def test_the_report_averages_to_the_metrics(case):
    scores, labels = case
    names = names_of(scores.shape[1])
    report = classification_report(scores, labels, multilabel=False, classes=names)
    metrics = classification_metrics(scores, labels, multilabel=False, classes=names)
    assert [row.support for row in report.classes.values()] == np.bincount(labels, minlength=len(names)).tolist()
    for average in AVERAGES:
        row = report.averages[average]
        values = (row.auc, row.average_precision, row.f1, row.precision, row.recall)
        expected = [metrics[f"{name}_{average}"] for name in AVERAGED]
        assert list(values) == pytest.approx(expected, abs=1e-15, nan_ok=True)
