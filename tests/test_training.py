"""Training a tiny network on tensors: what every hyperparameter does."""

import json
import math
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_automl_vision.errors import ConfigError, TrainingError, WeightsError
from lightning_automl_vision.models import Batch, Classifier, Targets
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig, TrainingConfig
from lightning_automl_vision.tasks.classification import MulticlassTask, MultilabelTask
from lightning_automl_vision.training.class_weights import class_weights, configure_loss
from lightning_automl_vision.training.fit import fit
from lightning_automl_vision.training.freezing import freeze
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.schedules import stepped, warmup_cosine
from lightning_automl_vision.training.start_weights import load_start_weights

CLASSES = ("blue", "green", "red")


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def classifier(*, multilabel=False, seed=0):
    torch.manual_seed(seed)
    return Classifier(network(), multilabel=multilabel, freezable=(("network.0.", "network.1."), ("network.4.",)))


def batches(count=4, size=4, *, seed=0, multilabel=False):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        labels = torch.randint(0, 3, (size,), generator=generator)
        images = torch.randint(0, 60, (size, 3, 8, 8), generator=generator, dtype=torch.uint8)
        images[torch.arange(size), labels] += 150
        truth = nn.functional.one_hot(labels, 3).float() if multilabel else labels
        keys = [f"{number}-{index}" for index in range(size)]
        made.append(Batch(images=images, targets=Targets(labels=truth), keys=keys))
    return made


def loader(made):
    return DataLoader(made, batch_size=None)


def config(**values):
    defaults = {
        "number_of_epochs": 3,
        "training_batch_size": 4,
        "validation_batch_size": 4,
        "learning_rate": 0.05,
        "training_crop_size": 8,
        "validation_crop_size": 8,
        "validation_resize_size": 8,
        "warmup_cosine_lr_warmup_epochs": 0,
        "nominal_batch_size": None,
        "decay_norms_and_biases": True,
        "ema_decay": 0.0,
        "gradient_clip": None,
    }
    return TrainingConfig(**{**defaults, **values})


def train(folder, training=None, *, model=None, data=None, validation=None, trainer=None, minutes=10, task=None):
    training = training or config()
    task = task or MulticlassTask(model or classifier(), training, CLASSES)
    result = fit(
        task,
        loader(data if data is not None else batches()),
        loader(validation if validation is not None else batches(2, seed=1)),
        training=training,
        trainer=trainer or TrainerConfig(accelerator="cpu"),
        limits=LimitsConfig(timeout_minutes=minutes),
        folder=folder,
        quiet=True,
    )
    return task, result


def evaluations(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Schedules and optimisers


def test_warmup_rises_straight_and_the_cosine_ends_where_it_should():
    values = [warmup_cosine(step, warmup=10, total=110, cycles=0.45) for step in range(111)]
    assert values[0] == 0
    assert values[5] == 0.5
    assert values[10] == 1
    assert values[60] == pytest.approx(0.5 * (1 + math.cos(2 * math.pi * 0.45 * 0.5)))
    assert values[110] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert values[10:] == sorted(values[10:], reverse=True)


def test_warmup_longer_than_the_training_only_rises():
    assert [warmup_cosine(step, warmup=8, total=4, cycles=0.45) for step in range(4)] == [0, 0.125, 0.25, 0.375]


def test_step_multiplies_after_every_so_many_epochs():
    values = [stepped(step, steps_per_epoch=3, epochs=2, gamma=0.5) for step in range(0, 18, 3)]
    assert values == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_learning_rate_of_a_training_follows_its_schedule(tmp_path):
    training = config(learning_rate_scheduler="step", step_lr_step_size=1, step_lr_gamma=0.1, learning_rate=0.1)
    train(tmp_path, training)
    assert [line["learning_rate"] for line in evaluations(tmp_path)] == pytest.approx([0.01, 0.001, 0.0001])


def test_warmup_counts_optimiser_steps_when_gradients_are_accumulated(tmp_path):
    training = config(warmup_cosine_lr_warmup_epochs=2, gradient_accumulation_step=2, learning_rate=0.1)
    train(tmp_path, training)
    rates = [line["learning_rate"] for line in evaluations(tmp_path)]
    assert rates[:2] == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(
    ("values", "kind", "options"),
    [
        ({"optimizer": "sgd", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ({"optimizer": "sgd", "nesterov": False}, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ({"optimizer": "sgd", "momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        ({"optimizer": "adam", "beta1": 0.8, "ams_gradient": True}, torch.optim.Adam, {"amsgrad": True}),
        ({"optimizer": "adamw", "beta2": 0.9}, torch.optim.AdamW, {"betas": (0.9, 0.9), "amsgrad": False}),
    ],
)
def test_every_option_reaches_the_optimiser(values, kind, options):
    optimizer = make_optimizer(network(), config(weight_decay=0.01, **values))
    assert type(optimizer) is kind
    assert optimizer.defaults["weight_decay"] == 0.01
    assert {name: optimizer.defaults[name] for name in options} == options


def test_accumulated_gradients_equal_those_of_the_large_batch(tmp_path):
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "number_of_epochs": 1}
    small, large = batches(4, 4), batches(2, 8)
    pictures = torch.cat([batch.images for batch in small])
    truth = torch.cat([batch.targets.labels for batch in small])
    large = [
        Batch(images=pictures[start : start + 8], targets=Targets(labels=truth[start : start + 8]), keys=[""] * 8)
        for start in (0, 8)
    ]

    def without_batch_norm():
        torch.manual_seed(0)
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), multilabel=False)

    accumulated, _ = train(
        tmp_path / "a", config(gradient_accumulation_step=2, **plain), model=without_batch_norm(), data=small
    )
    at_once, _ = train(tmp_path / "b", config(**plain), model=without_batch_norm(), data=large)
    for mine, other in zip(accumulated.model.parameters(), at_once.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


# Frozen layers, weights, averages


def test_frozen_layers_and_their_batch_norms_stay_as_they_are(tmp_path):
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model, 1)
    task, _ = train(tmp_path, model=model)
    after = task.model.state_dict()
    frozen = [name for name in before if name.startswith(("network.0.", "network.1."))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["network.4.weight"], after["network.4.weight"])


def test_more_frozen_groups_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"layers_to_freeze=3: the model has 2 layer groups"):
        freeze(classifier(), 3)


def test_the_average_of_weights_follows_its_formula_and_is_validated_and_kept(tmp_path):
    training = config(ema_decay=0.5, ema_ramp_steps=3, number_of_epochs=1)
    seen = []

    class Watched(MulticlassTask):
        def optimizer_step(self, *arguments, **options):
            super().optimizer_step(*arguments, **options)
            seen.append({name: value.clone() for name, value in self.model.state_dict().items()})

    model = classifier()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    task, _ = train(tmp_path, training, task=Watched(model, training, CLASSES), data=batches(4))
    for update, weights in enumerate(seen, start=1):
        decay = 0.5 * (1 - math.exp(-update / 3))
        expected = {name: decay * mean + (1 - decay) * weights[name] for name, mean in expected.items()}
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert len(seen) == 4
    for name in ("network.4.weight", "network.1.running_mean", "network.1.running_var"):
        torch.testing.assert_close(best[name], expected[name])
        assert torch.equal(task.model.state_dict()[name], best[name])
        assert not torch.equal(best[name], seen[-1][name])
    assert best["network.1.num_batches_tracked"] == 4


def test_class_weights_are_inverse_frequencies_with_a_mean_of_one():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights([np.array([label]) for label in labels], 3)
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights == pytest.approx(balanced / balanced.mean())
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize(("choice", "power"), [(1, 0.5), (2, 1.0)])
def test_weighted_loss_weighs_classes_or_their_roots(choice, power):
    model = classifier()
    labels = [np.array([label]) for label in [0, 0, 0, 0, 1, 1, 2]]
    configure_loss(model, config(weighted_loss=choice), labels, 3)
    torch.testing.assert_close(model.loss.class_weights, torch.tensor(class_weights(labels, 3) ** power).float())


def test_label_smoothing_of_many_labels_moves_them_towards_a_half():
    model = classifier(multilabel=True)
    configure_loss(model, config(label_smoothing=0.2), [], 3)
    loss = model.loss(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    expected = nn.functional.binary_cross_entropy_with_logits(torch.tensor([[2.0]]), torch.tensor([[0.9]]))
    assert float(loss) == pytest.approx(float(expected))


def test_a_local_file_fills_what_fits_and_leaves_the_head(tmp_path):
    source = classifier(seed=5)
    other_head = {**source.network.state_dict(), "4.weight": torch.zeros(9, 36), "4.bias": torch.zeros(9)}
    torch.save({"state_dict": {f"module.{name}": value for name, value in other_head.items()}}, tmp_path / "w.pt")
    model = classifier()
    head = model.network[4].weight.clone()
    load_start_weights(model, str(tmp_path / "w.pt"))
    assert torch.equal(model.network[0].weight, source.network[0].weight)
    assert torch.equal(model.network[4].weight, head)


class Whole:
    """Stands for a model that somebody pickled."""


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (Whole(), "it holds Python objects beside them"),
        ({"elsewhere": torch.zeros(3, 3)}, "none of its 1 tensors fits"),
        ([1, 2], "holds no tensors by name"),
    ],
)
def test_a_file_of_another_kind_is_refused(content, answer, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=answer):
        load_start_weights(classifier(), str(tmp_path / "w.pt"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_start_weights(classifier(), str(tmp_path / "w.safetensors"))


# Evaluations and endings


def test_each_evaluation_is_a_line_with_losses_and_every_metric(tmp_path):
    _, result = train(tmp_path)
    lines = evaluations(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert {"loss", "loss_classification", "accuracy", "AUC_macro", "log_loss"} <= set(lines[0])
    assert result.status == "completed"
    assert result.epochs == 3


def test_the_last_epoch_is_evaluated_whatever_the_frequency(tmp_path):
    train(tmp_path, config(number_of_epochs=5, evaluation_frequency=2))
    assert [line["epoch"] for line in evaluations(tmp_path)] == [2, 4, 5]


def test_metrics_count_every_image_of_a_short_last_batch(tmp_path):
    validation = [*batches(1, 4, seed=1), *batches(1, 1, seed=2)]
    task, _ = train(tmp_path, validation=validation)
    assert len(task.scores) == 5


def scripted(values):
    """A task whose accuracy is what the test says, evaluation after evaluation."""
    remaining = iter(values)

    class Scripted(MulticlassTask):
        def compute(self):
            return {**super().compute(), "accuracy": next(remaining)}

    return Scripted


def test_training_stops_after_so_many_evaluations_without_a_better_one(tmp_path):
    values = [0.5, 0.6, 0.6, 0.6, 0.6, 0.9]
    training = config(number_of_epochs=6, early_stopping_patience=3, early_stopping_delay=0)
    _, result = train(tmp_path, training, task=scripted(values)(classifier(), training, CLASSES))
    assert result.status == "stopped_early"
    assert result.epochs == 5
    assert (result.best_epoch, result.best_metrics["accuracy"]) == (2, 0.6)


def test_evaluations_within_the_delay_are_not_tracked(tmp_path):
    values = [0.6, 0.5, 0.5, 0.3, 0.3, 0.3, 0.9]
    training = config(number_of_epochs=7, early_stopping_patience=2, early_stopping_delay=3)
    _, result = train(tmp_path, training, task=scripted(values)(classifier(), training, CLASSES))
    # The fourth is what the fifth and the sixth do not beat; the best of all is still the first.
    assert (result.epochs, result.status) == (6, "stopped_early")
    assert result.best_epoch == 1


def test_without_early_stopping_all_epochs_are_trained(tmp_path):
    training = config(number_of_epochs=4, early_stopping=False, early_stopping_patience=1, early_stopping_delay=0)
    _, result = train(tmp_path, training, task=scripted([0.5] * 4)(classifier(), training, CLASSES))
    assert (result.status, result.epochs) == ("completed", 4)


def test_the_first_of_equal_epochs_is_best_and_its_weights_are_kept(tmp_path):
    values = [0.5, 0.7, 0.7]
    training = config()
    task, result = train(tmp_path, training, task=scripted(values)(classifier(), training, CLASSES))
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert result.best_epoch == best["epoch"] == 2
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in task.model.state_dict().items())
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2
    assert not list((tmp_path / "checkpoints").glob("*.part"))


def test_checkpoints_are_kept_as_often_as_asked(tmp_path):
    train(tmp_path, config(number_of_epochs=4, checkpoint_frequency=2))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "previous.ckpt", "epoch_0002.ckpt", "epoch_0004.ckpt"}


def test_a_step_limit_ends_in_the_middle_of_an_epoch_and_evaluates(tmp_path):
    _, result = train(tmp_path, trainer=TrainerConfig(accelerator="cpu", max_steps=6))
    assert [line["step"] for line in evaluations(tmp_path)] == [4, 6]
    assert (result.status, result.epochs) == ("completed", 2)


def test_the_time_limit_ends_training_evaluates_and_keeps_the_best(tmp_path):
    _, result = train(tmp_path, config(number_of_epochs=500, early_stopping=False), minutes=1 / 60)
    assert result.status == "timeout"
    assert result.best_epoch is not None
    assert result.seconds < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_the_best_so_far(number, tmp_path):
    def interrupt():
        while not (tmp_path / "checkpoints" / "best.ckpt").exists():
            time.sleep(0.01)
        signal.raise_signal(number)

    threading.Thread(target=interrupt, daemon=True).start()
    _, result = train(tmp_path, config(number_of_epochs=100_000, early_stopping=False))
    assert result.status == "interrupted"
    assert result.best_epoch is not None


def test_a_loss_that_is_not_finite_stops_with_the_way_out(tmp_path):
    class Exploding(MulticlassTask):
        def optimizer_step(self, *arguments, **options):
            super().optimizer_step(*arguments, **options)
            with torch.no_grad():
                self.model.network[4].weight.fill_(float("inf"))

    training = config(learning_rate=1.0, optimizer="sgd", weight_decay=1.0)
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, by step 2, .*Lower training.learning_rate=1"):
        train(tmp_path, training, task=Exploding(classifier(), training, CLASSES))


def test_a_single_picture_left_for_batch_norms_is_explained(tmp_path):
    model = Classifier(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 3)), multilabel=False
    )
    with pytest.raises(TrainingError, match=r"one picture of 8 pixels.*Change training.training_batch_size=4"):
        train(tmp_path, model=model, data=[*batches(1), *batches(1, 1)])


def test_same_seed_same_digits(tmp_path):
    first, _ = train(tmp_path / "a")
    again, _ = train(tmp_path / "b")
    assert evaluations(tmp_path / "a")[-1]["log_loss"] == evaluations(tmp_path / "b")[-1]["log_loss"]
    assert torch.equal(first.model.network[4].weight, again.model.network[4].weight)


def test_several_labels_an_image_are_learnt(tmp_path):
    training = config(number_of_epochs=20, early_stopping=False)
    task = MultilabelTask(classifier(multilabel=True), training, CLASSES)
    data = batches(6, multilabel=True)
    _, result = train(tmp_path, training, task=task, data=data, validation=batches(2, seed=1, multilabel=True))
    assert result.best_metrics["iou"] > 0.9


@pytest.mark.parametrize(
    ("trainer", "answer"),
    [
        (TrainerConfig(num_nodes=2), "nobody has told this process where the others are"),
        (TrainerConfig(accelerator="cpu", sync_batchnorm=True), "torch does that on GPUs alone"),
    ],
)
def test_what_the_trainer_cannot_do_is_refused(trainer, answer, tmp_path):
    with pytest.raises(ConfigError, match=answer):
        train(tmp_path, trainer=trainer)
