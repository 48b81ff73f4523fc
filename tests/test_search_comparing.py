"""Paired statistics of trials: known laws come out, luck is not taken for a gain, and a real gain is seen."""

import math
import time
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.metrics.resampling import Interval, interval
from lightning_automl_vision.search.comparing import (
    Race,
    interval_of,
    leader_of,
    p_value,
    proven_gain,
    resample,
    ties,
)
from lightning_automl_vision.search.per_image import ImageObjects, ImageValues


def trial(values):
    values = np.asarray(values, dtype=np.float64)
    return ImageValues(metric="accuracy", names=tuple(map(str, range(len(values)))), values=values)


def classifiers(random, images, accuracies, alike=0.7):
    """Right or wrong answers of models that find the same images hard, the more so the more they are ``alike``."""
    hard = random.normal(size=images)
    own = random.normal(size=(len(accuracies), images))
    skill = math.sqrt(alike) * hard + math.sqrt(1 - alike) * own
    bounds = np.array([NormalDist().inv_cdf(accuracy) for accuracy in accuracies])
    return [trial(right) for right in skill < bounds[:, None]]


def ahead(wins, losses=0, images=1000):
    """Two trials, of which the second alone is right on so many images, and the first alone on so many others."""
    first, second = np.zeros(images), np.zeros(images)
    first[:losses], second[losses : losses + wins] = 1, 1
    return resample([trial(first), trial(second)], samples=4000)


def test_the_interval_of_a_trial_is_that_of_its_standard_error():
    (one,) = resample([trial(np.arange(500) < 400)], samples=4000)
    low, high = interval_of(one)
    error = math.sqrt(0.8 * 0.2 / 500)
    assert one.value == 0.8
    assert (low, high) == (pytest.approx(0.8 - 1.96 * error, abs=0.003), pytest.approx(0.8 + 1.96 * error, abs=0.003))


def test_a_p_value_is_near_that_of_the_exact_test_of_discordant_images():
    """Of images where the two differ each is a coin thrown."""
    for wins, losses in ((5, 0), (9, 3), (30, 18), (60, 40)):
        differing = wins + losses
        exact = sum(math.comb(differing, count) for count in range(wins, differing + 1)) / 2**differing
        trials = ahead(wins, losses)
        assert p_value(*trials) == pytest.approx(exact, abs=0.02), (wins, losses)


def test_a_trial_beside_itself_or_a_better_one_has_no_small_p_value():
    worse, better = ahead(40)
    assert p_value(better, better) == 1
    assert p_value(better, worse) > 0.99
    assert p_value(worse, better) < 0.001


def test_all_at_once_or_one_by_one_comes_to_the_same_and_the_seed_decides():
    trials = classifiers(np.random.default_rng(1), 200, [0.7, 0.8, 0.9])
    together, alone = resample(trials, samples=50), [resample([one], samples=50)[0] for one in trials]
    for first, second in zip(together, alone, strict=True):
        np.testing.assert_allclose(first.draws, second.draws, atol=1e-12)
    assert not np.allclose(together[0].draws, resample(trials, samples=50, seed=1)[0].draws)


def test_trials_of_other_images_are_refused():
    first = trial(np.zeros(10))
    other = replace(first, names=(*first.names[:9], "new"))
    message = r"first and number 3 of 3\): their images are not the same: 2 are in one of them only, such as 9\."
    with pytest.raises(DataError, match=message):
        resample([first, first, other])
    one, two = resample([first]), resample([other])
    for compare in (
        lambda: p_value(one[0], two[0]),
        lambda: ties([*one, *two]),
        lambda: proven_gain(one, two[0]),
        lambda: Race.of(one, two[0]),
    ):
        with pytest.raises(DataError, match="their images are not the same"):
            compare()


def test_the_best_of_thirty_equal_trials_is_seldom_called_better_than_the_default():
    """In 5.1 % of 3000 sweeps; asked of the leader alone, as if it had not been picked, it would be in 36 %."""
    random, sweeps = np.random.default_rng(11), 300
    wrong = naive = 0
    for sweep in range(sweeps):
        default, *candidates = resample(classifiers(random, 200, [0.8] * 31), samples=500, seed=sweep)
        verdict = proven_gain(candidates, default)
        wrong += verdict.proven
        naive += p_value(default, candidates[verdict.best]) <= 0.05
        assert (verdict.at_least > 0) == verdict.proven
    noise = 2 * math.sqrt(0.05 * 0.95 / sweeps)
    assert wrong / sweeps <= 0.05 + noise
    assert naive / sweeps > 0.25


@pytest.mark.parametrize("others", [[0.8] * 29, [0.8] * 14 + [0.4] * 15])
def test_a_gain_of_three_points_on_a_thousand_images_is_mostly_found(others):
    """Models that disagree on seven images in a hundred; hopeless ones beside them do no harm."""
    random, sweeps = np.random.default_rng(6), 30
    found = 0
    for sweep in range(sweeps):
        trials = classifiers(random, 1000, [0.8, *others, 0.83], alike=0.95)
        default, *candidates = resample(trials, samples=400, seed=sweep)
        verdict = proven_gain(candidates, default)
        found += verdict.proven and verdict.best == 29
    assert found / sweeps > 0.6


def test_more_candidates_ask_for_more_evidence():
    random = np.random.default_rng(8)
    trials = resample(classifiers(random, 1000, [0.8] * 40, alike=0.9), samples=1000)
    worse, better = ahead(40, 20)
    alone = proven_gain([replace(better, draws=better.draws[:1000])], replace(worse, draws=worse.draws[:1000]))
    crowd = [replace(one, value=one.value - trials[0].value, draws=one.draws - trials[0].draws) for one in trials[1:]]
    many = proven_gain([replace(better, draws=better.draws[:1000]), *crowd], replace(worse, draws=worse.draws[:1000]))
    assert alone.p_value < 0.02
    assert many.p_value > 3 * alone.p_value
    assert many.at_least < alone.at_least


def test_a_verdict_says_what_was_found():
    random = np.random.default_rng(2)
    default, *candidates = resample(classifiers(random, 1000, [0.7, 0.7, 0.8, 0.75]))
    verdict = proven_gain(candidates, default)
    assert (verdict.proven, verdict.best, verdict.candidates) == (True, 1, 3)
    assert verdict.gain == pytest.approx(candidates[1].value - default.value)
    assert 0.03 < verdict.at_least < verdict.gain
    assert str(verdict) == (
        f"a proven gain over the default: {verdict.value:.3f} against {default.value:.3f},"
        f" at least {verdict.at_least:+.3f} (p = {verdict.p_value:.3f}, which allows for its having been picked from 3)"
    )
    verdict = proven_gain([default, default], default)
    assert not verdict.proven
    assert str(verdict) == (
        f"no proven gain over the default: {default.value:.3f} against {default.value:.3f}"
        " (p = 1.000, which allows for its having been picked from 2)"
    )


def test_trials_without_a_metric_neither_win_nor_tie_nor_count():
    random = np.random.default_rng(2)
    default, better, *rest = resample([*classifiers(random, 500, [0.7, 0.8]), trial(np.full(500, np.nan))])
    broken = rest[0]
    assert proven_gain([broken, better], default) == replace(proven_gain([better], default), best=1)
    nothing = proven_gain([broken], default)
    assert (nothing.proven, nothing.best) == (False, None)
    assert str(nothing) == f"no proven gain over the default, {default.value:.3f}: nothing else has a metric"
    with pytest.raises(ValueError, match="the default has no metric"):
        proven_gain([better], broken)
    with pytest.raises(ValueError, match="without a metric cannot be raced"):
        Race.of([better, broken], default)
    assert ties([broken, better, default]) == [False, True, False]
    assert ties([broken]) == [False]
    assert ties([]) == []
    assert leader_of([broken]) is None
    assert math.isnan(p_value(broken, better))
    assert all(map(math.isnan, interval_of(broken)))


def test_equal_trials_tie_and_worse_ones_do_not():
    random = np.random.default_rng(3)
    trials = resample(classifiers(random, 1000, [0.8, 0.8, 0.8, 0.8, 0.6, 0.7], alike=0.9))
    assert ties(trials) == [True] * 4 + [False] * 2


def test_the_truly_best_trial_nearly_always_ties_or_leads_however_many_are_equal():
    """Asked of each beside the leader alone, it would be told apart far more often."""
    random, sweeps = np.random.default_rng(4), 150
    apart = naive = 0
    for sweep in range(sweeps):
        trials = resample(classifiers(random, 200, [0.8] * 15), samples=300, seed=sweep)
        apart += not ties(trials)[0]
        naive += p_value(trials[0], trials[leader_of(trials)]) <= 0.05
    assert apart / sweeps <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)
    assert naive / sweeps > 0.15


def test_draws_in_which_nothing_is_true_are_left_out():
    """Only one image has an object: in a third of all draws it is not there."""
    truths = np.zeros((20, 1), np.int32)
    truths[0] = 1
    common = {"metric": "mAP", "names": tuple(map(str, range(20))), "truths": truths, "recalls": np.empty(0)}
    labels, right = np.zeros(1, np.int32), np.array([True])
    good = ImageObjects(images=np.zeros(1, np.int32), labels=labels, right=right, **common)
    poor = replace(good, images=labels[:0], labels=labels[:0], right=right[:0])
    first, second = resample([poor, good])
    assert 0.2 < np.isnan(second.draws).mean() < 0.5
    assert interval_of(second) == interval(np.ones(3)) == Interval(1, 1)
    assert p_value(second, first) == 1
    assert proven_gain([second], first).candidates == 1


def test_a_sweep_of_fifty_trials_and_five_thousand_images_takes_seconds():
    trials = classifiers(np.random.default_rng(0), 5000, [0.8] * 50)
    begin = time.process_time()
    drawn = resample(trials)
    ties(drawn)
    proven_gain(drawn[1:], drawn[0])
    assert time.process_time() - begin < 8  # 0.8 s where nothing else runs
