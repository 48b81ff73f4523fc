"""The bootstrap over images: what is known of means and of paired differences comes out."""

import numpy as np
import pytest

from lightning_automl_vision.metrics.resampling import Interval, interval, resampled


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(5, 2, 400)
    samples = resampled(lambda drawn: (float(values[drawn].mean()),), 400, samples=4000)
    low, high = interval(samples[:, 0])
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_a_paired_difference_is_surer_than_what_it_is_the_difference_of():
    random = np.random.default_rng(2)
    first = random.normal(0, 1, 100)
    second = first + random.normal(0.2, 0.1, 100)
    samples = resampled(lambda drawn: (float(first[drawn].mean()), float(second[drawn].mean())), 100)
    gain, alone = interval(samples[:, 1] - samples[:, 0]), interval(samples[:, 1])
    assert gain.low > 0 > alone.low
    assert gain.high - gain.low < 0.2 * (alone.high - alone.low)


def test_the_seed_decides_and_what_is_undefined_is_left_out():
    def figures(drawn):
        return (np.nan if drawn[0] == 0 else float(drawn.mean()),)

    first, second = (resampled(figures, 7, samples=200, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isnan(first).any()
    assert str(interval(np.array([0.0, 1.0, np.nan]))) == "0.025 to 0.975"
    assert Interval(0.1, 0.25) == (0.1, 0.25)
