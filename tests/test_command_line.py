"""What a person types wrong is answered in one line that names the way out."""

import subprocess
import sys

import pytest
from commands import lav
from pictures import write_folders

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.errors import ConfigError


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("training.lerning_rate=1", "Did you mean 'training.learning_rate'?"),
        ("training.lr_scheduler=step", "it is called training.learning_rate_scheduler"),
        ("training.crop_size=64", "it is called training.training_crop_size and training.validation_crop_size"),
        ("learning_rate=0.1", "it is called training.learning_rate"),
        ("training.model_name=resnet18", "write model=NAME"),
        ("training.learning_rate=abc", "training.learning_rate=abc: Value 'abc' of type 'str' could not be"),
        ("training.learning_rate=3", "training.learning_rate=3.0: must be in [0, 1]"),
        ("training.learning_rate=nan", "must be in [0, 1]"),
        ("training.number_of_epochs=0", "must be at least 1"),
        ("training.optimizer=lion", "must be one of sgd, adam, adamw"),
        ("data.validation_data_size=1", "must be in (0, 1)"),
        ("+training.foo=1", "There is no key 'training.foo'"),
        ("+foo=1", "There is no key 'foo'"),
        ("model=resnet81", "No model 'resnet81'. Did you mean 'resnet18'?"),
        ("task=image_clasification", "Did you mean 'image_classification'?"),
        ("experiment=quickstart", "write +experiment=NAME"),
        ("+experiment=quickstrat", "Did you mean 'quickstart'?"),
        ("trian", "No verb 'trian'. Did you mean 'train'?"),
        ("photos/", "a key is KEY=VALUE"),
        ("data.training=a(b.jsonl", "two pairs of quotes"),
        ("model=resnet18", "data.training is not given"),
        ("training.optimizer=sgd,adam", "several values are a sweep, one trial for each: begin with -m."),
        ("model=resnet18,resnet34", "several values are a sweep, one trial for each: begin with -m."),
        ("training.learning_rate=loguniform(0.001,0.1)", "training.learning_rate=tag(log, interval(0.001,0.1))'"),
        ("training.learning_rate=uniform(0.1,0.2)", "Write 'training.learning_rate=interval(0.1,0.2)' or"),
        ("training.learning_rate=normal(1,2)", """'hydra.sweeper.params={training.learning_rate: "normal(1,2)"}'"""),
        ("limits.max_trials=2.5", "could not be converted to Integer. Allowed: integer, in [1, 1000]."),
        ("search.early_termination.type=bandit", "it belongs to +search=random"),
        ("search.early_termination={type: bandit}", "and 2 more. Add +search=NAME."),
        ("task=null", "No task 'null'. Choose from: image_classification, "),
        ("trainer=3", "No trainer '3'. Choose from: ddp, default."),
        ("+experiment=True", "No experiment 'True'. Choose from: "),
        ("model=[resnet18, resnet34]", "is written -m model=resnet18,resnet34, in a space choice(resnet18,resnet34)."),
        ("hydra.sweeper.n_trails=3", "no key 'hydra.sweeper.n_trails'. Did you mean 'n_trials'? The keys of hydra.sw"),
        ("data=photos", "data has no choices but keys: write data.KEY=VALUE"),
    ],
)
def test_a_wrong_argument_is_one_line(argument, answer, tmp_path):
    process = lav(argument, cwd=tmp_path)
    assert process.returncode == 2
    assert answer in process.stderr
    assert process.stderr.startswith("Error: ")
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["task.primary_metric=log_loss"], "image_classification is judged by accuracy"),
        (["checkpoint=run"], "lav train takes no other run"),
        (["model.weights=gone.pt"], "model.weights=gone.pt: no such file"),
    ],
)
def test_what_train_would_not_obey_is_refused(arguments, answer, tmp_path):
    process = lav("model=resnet18", "data.training=photos", *arguments, cwd=tmp_path)
    assert process.returncode in (2, 5)
    assert answer in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_several_values_is_told_what_it_looks_at(tmp_path):
    for words in (["plan"], ["plan", "-m"]):
        process = lav(*words, "training.optimizer=sgd,adam", "model=resnet18", "data.training=photos", cwd=tmp_path)
        assert process.returncode == 2
        assert "lav plan looks at one training, or at AutoMode" in process.stderr
        assert ("not at a space of your own: training.optimizer." in process.stderr) == ("-m" in words)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["hydra/sweeper/sampler=motpe"], "Choose from: bayesian, cmaes, grid, nsgaii, random, sobol, tpe."),
        (["hydra/sweeper/sampler=grid"], "grid"),
        (["hydra.sweeper.sampler.seed=-3"], "hydra.sweeper.sampler.seed=-3: must be a whole number, at least 0."),
        (["hydra.sweeper.sampler={_target_: optuna.samplers.TPESampler, seed: -3}"], "sampler.seed=-3: must be"),
        (["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.x=1"], "hydra.sweeper.sampler.x: tpe has no such key"),
        (["+search=random", "search.seed=1", "hydra.sweeper.sampler.seed=2"], "are the same setting and differ"),
        (["hydra.sweeper.sampler._target_=optuna.samplers.Nothing"], "is no sampler of Optuna"),
    ],
)
def test_what_hydras_own_words_for_a_sampler_cannot_mean_is_refused(arguments, answer, tmp_path):
    sweep = ["-m", "hydra.sweeper.n_trials=2", "training.learning_rate=interval(0.01,0.1)", "output_dir=sweep"]
    write_folders(tmp_path / "photos", 4)
    process = lav(*sweep, *arguments, "model=resnet18", "model.pretrained=false", "data.training=photos", cwd=tmp_path)
    assert process.returncode == 2, process.stderr
    assert answer in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_the_space_of_hydras_sweeper_needs_no_plus(tmp_path):
    for plus in ("", "+"):
        space = plus + 'hydra.sweeper.params={training.learning_rate: "interval(0.5,0.1)"}'
        process = lav("-m", "hydra.sweeper.n_trials=2", space, "model=resnet18", "data.training=photos", cwd=tmp_path)
        assert "training.learning_rate: uniform needs min below max" in process.stderr


def test_what_is_merged_may_be_several():
    arguments = ["logger=[csv,tensorboard]", "+experiment=[quickstart,mine]", "~logger", "model=resnet18"]
    assert rewrite(arguments) == arguments


def test_a_mapping_takes_the_place_of_another_and_its_keys_may_be_given():
    policy = "search.early_termination"
    assert rewrite([f"{policy}={{type: bandit}}"]) == [f"{policy}=null", f"++{policy}={{type: bandit}}"]
    assert rewrite([f"{policy}.slack_factor=1", f"{policy}=none"]) == [f"++{policy}.slack_factor=1", f"{policy}=none"]
    assert rewrite(["serve", "serve.traffic={a: 1}", "serve.traffic={b: 2}", "serve.traffic.c=3"]) == [
        "job=serve",
        "job.serve.traffic=null",
        "++job.serve.traffic={a: 1}",
        "job.serve.traffic=null",
        "++job.serve.traffic={b: 2}",
        "++job.serve.traffic.c=3",
    ]
    assert rewrite(["hydra.sweeper.sampler=random"]) == ["++hydra.sweeper.sampler.name=random", "--multirun"]
    official = ["hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=3"]
    assert rewrite(official) == [*official, "--multirun"]


def test_models_of_an_unknown_task_and_help_on_an_unknown_word_are_refused(tmp_path):
    for arguments in (["models", "for_task=foo"], ["--help", "trainin"]):
        process = lav(*arguments, cwd=tmp_path)
        assert process.returncode == 2
        assert process.stderr.startswith("Error: ")


def test_debugging_shows_the_traceback_and_keeps_the_exit_code(tmp_path, monkeypatch):
    monkeypatch.setenv("LAV_DEBUG", "1")
    process = lav("training.momentum=2", cwd=tmp_path)
    assert process.returncode == 2
    assert "Traceback" in process.stderr
    assert "Error: training.momentum=2.0" in process.stderr


def test_a_verb_takes_its_own_keys_without_their_prefix():
    assert rewrite(["convert", "input=a.json", "output=b.jsonl", "data.format=coco"]) == [
        "job=convert",
        "job.input=a.json",
        "job.output=b.jsonl",
        "data.format=coco",
    ]


def test_without_a_verb_nothing_is_rewritten():
    assert rewrite(["-m", "model=resnet18", "+experiment=x"]) == ["-m", "model=resnet18", "+experiment=x"]


def test_a_value_in_round_brackets_is_a_text():
    assert rewrite(["tiler.grid_size=(3, 2)"]) == ["tiler.grid_size='(3, 2)'"]
    assert rewrite(["convert", "input=(a).json", "output=(b)"]) == [
        "job=convert",
        "job.input=(a).json",
        "job.output='(b)'",
    ]
    assert rewrite(["x='(3, 2)'", "y=f(3)"]) == ["x='(3, 2)'", "y=f(3)"]


def test_several_trials_begin_a_sweep():
    assert rewrite(["limits.max_trials=5"]) == ["limits.max_trials=5", "--multirun"]
    assert rewrite(["-m", "limits.max_trials=5"]) == ["limits.max_trials=5", "--multirun"]
    assert rewrite(["x=1", "-m", "y=1,2"]) == ["x=1", "y=1,2", "--multirun"]
    assert rewrite(["-m", "y=1,2"]) == ["-m", "y=1,2"]
    assert rewrite(["limits.max_trials=1"]) == ["limits.max_trials=1"]
    assert rewrite(["+search=random"]) == ["+search=random", "--multirun"]
    assert rewrite(["hydra.sweeper.n_trials=5"]) == ["hydra.sweeper.n_trials=5", "--multirun"]
    assert rewrite(["hydra.sweeper.n_trials=1"]) == ["hydra.sweeper.n_trials=1"]
    assert rewrite(["plan", "hydra.sweeper.n_jobs=5"]) == ["job=plan", "hydra.sweeper.n_jobs=5", "--multirun"]
    assert rewrite(["limits.max_trials=5", "--cfg", "job"]) == ["limits.max_trials=5", "--cfg", "job"]


def test_a_sweep_obeys_hydras_sweeper_whoever_begins_it(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nlimits: {max_trials: 4}\nhydra: {sweeper: {n_trials: 6}}\n"
    )
    for begins in (["train"], ["plan"], ["plan", "-m"]):
        process = lav(*begins, "+experiment=mine", "data.training=photos", "--config-dir", ".", cwd=tmp_path)
        assert "limits.max_trials=4 and hydra.sweeper.n_trials=6 are the same setting" in process.stderr


def test_a_stray_word_is_refused():
    with pytest.raises(
        ConfigError, match=r"lav train takes no 'photos'. Write KEY=VALUE, such as data.training=photos."
    ):
        rewrite(["train", "photos"])


def test_help_names_the_verbs_groups_and_examples(tmp_path):
    text = lav("--help", cwd=tmp_path).stdout
    for word in ("train", "models", "convert", "resnet18", "image_classification_multilabel", "+experiment=NAME"):
        assert word in text


@pytest.mark.parametrize(("topic", "words"), [("training", "early_stopping_patience"), ("convert", "output")])
def test_help_explains_a_group_or_a_verb(topic, words, tmp_path):
    assert words in lav("--help", topic, cwd=tmp_path).stdout


def test_what_a_run_would_use_is_printed_with_the_models_own_defaults(tmp_path):
    command = ["model=vits16r224", "task=image_classification_multilabel", "--cfg", "job", "--resolve"]
    text = lav(*command, cwd=tmp_path).stdout
    assert "learning_rate: 0.025" in text
    assert "training_batch_size: 128" in text
    assert "validation_batch_size: 128" in text


@pytest.mark.parametrize("arguments", [["--help"], ["models"]])
def test_a_reader_that_has_read_enough_is_no_fault(arguments, tmp_path):
    command = [sys.executable, "-m", "lightning_automl_vision", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["predict", "r"], "input has no value. Give one: input=VALUE."),
        (["serve", "r", "serve.prt=3"], "There is no key 'serve.prt'. Did you mean 'serve.port'?"),
        (["predict", "r", "port=3"], "There is no key 'port': it is called serve.port."),
        (["predict", "r", "serve.port=3"], "There is no key 'serve.port' in what is chosen: it belongs to lav serve."),
        (["predict", "r", "batch_size=x"], "batch_size=x: "),
        (["predict", "r", "input=a", "output=b", "batch_size=0"], "batch_size=0: "),
        (["predict", "r", "input=a=b"], "Cannot read the argument 'input=a=b'."),
    ],
)
def test_a_verbs_own_key_is_called_as_it_is_written(arguments, answer, tmp_path):
    process = lav(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith(f"Error: {answer}")


def test_a_misspelt_key_of_a_verb_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match=r"lav predict has no key 'drwa'. Did you mean 'draw'?"):
        rewrite(["predict", "run", "drwa=true"])
    assert rewrite(["predict", "output_dir=x", "hydra.verbose=true"])[1:] == ["output_dir=x", "hydra.verbose=true"]


def test_models_lists_name_tasks_plugin_licence_weights_and_parameters(tmp_path):
    lines = lav("models", cwd=tmp_path).stdout.splitlines()
    assert lines[0].split("  ")[0] == "model"
    row = next(line for line in lines if line.startswith("resnet18"))
    assert "image_classification" in row
    assert "timm" in row
    assert " M" in row
