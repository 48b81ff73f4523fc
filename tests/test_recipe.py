"""Warm-up, fading rates, nominal batch sizes, the average of weights: pure functions, and a training by them."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from parity import recorded
from test_training import CLASSES, batches, config, train
from torch import nn

from lightning_automl_vision.models import Classifier
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training.averaging import AveragedWeights, decay_at
from lightning_automl_vision.training.optimizers import make_optimizer, scaled_decay
from lightning_automl_vision.training.schedules import FADES, WarmUp, accumulated_batches

SCHEDULES = recorded()["schedules"]
RECIPE = {"learning_rate_scheduler": "linear", "learning_rate": 0.01, "momentum": 0.937}


@pytest.mark.parametrize(("case", "final"), [("lf_lrf0.01_epochs300", 0.01), ("lf_lrf0.1_epochs300", 0.1)])
def test_rates_fade_as_recorded(case, final):
    for name, values in SCHEDULES[case].items():
        for epoch, value in values.items():
            assert FADES[name](int(epoch) / 300, final) == pytest.approx(value, abs=1e-12), (name, epoch)


def test_the_warm_up_is_as_recorded():
    entry = SCHEDULES["warmup"]
    training = config(
        **RECIPE, number_of_epochs=entry["epochs"], training_batch_size=entry["batch_size"], nominal_batch_size=64
    )
    warm_up = WarmUp.of(training, entry["batches_per_epoch"])
    assert warm_up.batches == entry["nw"]
    for row in entry["rows"]:
        pace = warm_up.at(row["ni"], row["epoch"])
        assert pace.bias_rate == pytest.approx(row["lr_bias"], abs=1e-12)
        assert pace.rate == pytest.approx(row["lr_other"], abs=1e-12)
        assert pace.momentum == pytest.approx(row["momentum"], abs=1e-12)
        assert pace.accumulated == row["accumulate"]


@pytest.mark.parametrize(("size", "entry"), SCHEDULES["weight_decay_scaling"].items())
def test_weight_decay_follows_the_number_of_images_that_a_step_has(size, entry):
    training = config(training_batch_size=int(size), nominal_batch_size=64, weight_decay=5e-4)
    assert accumulated_batches(64, int(size)) == entry["accumulate"]
    assert scaled_decay(training) == pytest.approx(entry["weight_decay"], rel=1e-12)


def test_the_decay_of_the_average_rises_as_recorded():
    for update, decay in SCHEDULES["ema_decay"].items():
        assert decay_at(int(update), 0.9999, 2000) == pytest.approx(decay, abs=1e-12)


def test_integers_and_floats_of_a_network_are_averaged_alike_in_shape():
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3)), multilabel=False)
    average = AveragedWeights(model, 0.9999, 2000)
    with torch.no_grad():
        model.network[1].bias.add_(1.0)
    before = average.model.network[1].bias.clone()
    average.update(model)
    decay = decay_at(1, 0.9999, 2000)
    torch.testing.assert_close(average.model.network[1].bias, decay * before + (1 - decay) * model.network[1].bias)


def test_norms_and_biases_are_spared_from_decay_where_that_is_asked_for():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
    groups = {
        group["name"]: group
        for group in make_optimizer(model, config(weight_decay=0.1, decay_norms_and_biases=False)).param_groups
    }
    assert {name: len(group["params"]) for name, group in groups.items()} == {"weights": 1, "norms": 2, "biases": 3}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {"weights": 0.1, "norms": 0, "biases": 0}
    everywhere = make_optimizer(model, config(weight_decay=0.1)).param_groups
    assert {group["weight_decay"] for group in everywhere} == {0.1}


def test_a_parameter_that_two_modules_share_is_trained_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    optimizer = make_optimizer(nn.Sequential(first, second), config())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3


@dataclass
class Seen:
    batch: int
    step: int
    rates: dict
    momentum: float


def test_a_training_goes_through_the_warm_up_batch_by_batch(tmp_path):
    """4 images of a nominal 16: from one batch a step to four."""
    training = config(**RECIPE, number_of_epochs=30, nominal_batch_size=16, warmup_epochs=1)
    seen = []

    class Watched(MulticlassTask):
        def training_step(self, batch, index):
            groups = self.trainer.optimizers[0].param_groups
            seen.append(Seen(len(seen), self.global_step, {g["name"]: g["lr"] for g in groups}, groups[0]["momentum"]))
            return super().training_step(batch, index)

    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, CLASSES_COUNT)), multilabel=False)
    train(tmp_path, training, task=Watched(model, training, CLASSES), data=batches(8))
    warm_up = WarmUp.of(training, 8)
    assert warm_up.batches == 100
    for now in seen:
        pace = warm_up.at(now.batch, now.batch // 8)
        assert now.rates == {"weights": pytest.approx(pace.rate), "biases": pytest.approx(pace.bias_rate)}
        assert now.momentum == pytest.approx(pace.momentum)
    steps = [later.step - now.step for now, later in pairwise(seen)]
    assert steps[:8] == [1] * 8, "each batch is a step at first"
    assert seen[-1].step - seen[-9].step == 2, "and of the eight batches of an epoch each four at last"


CLASSES_COUNT = len(CLASSES)


class Summing(Classifier):
    summed_over_images = True


def test_a_model_that_sums_over_images_steps_by_the_sum_of_what_was_accumulated(tmp_path):
    plain = {"number_of_epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.001}
    data = batches(4)

    def model(kind):
        torch.manual_seed(0)
        return kind(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, CLASSES_COUNT)), multilabel=False)

    def trained(kind, name, **values):
        training = config(**plain, **values)
        task, _ = train(tmp_path / name, training, task=MulticlassTask(model(kind), training, CLASSES), data=data)
        return task.model

    images = sum(len(batch) for batch in data)
    summed = trained(Summing, "a", gradient_accumulation_step=4)
    mean = trained(Classifier, "b", gradient_accumulation_step=4)
    start = model(Classifier)
    for name, value in start.state_dict().items():
        step = mean.state_dict()[name] - value
        torch.testing.assert_close(summed.state_dict()[name] - value, step * images, rtol=1e-4, atol=1e-6)
