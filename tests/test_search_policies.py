"""Early termination: the documents' formulas and examples, on plain curves and in a real study."""

import math
import subprocess
import sys
import time

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.policies import (
    Bandit,
    Decision,
    MedianStopping,
    Other,
    TruncationSelection,
    policy_in,
    policy_of,
)
from lightning_automl_vision.search.pruners import PolicyPruner, reason_of

NAN = math.nan
POLICIES = [Bandit(slack_factor=0.2), MedianStopping(), TruncationSelection(truncation_percentage=50)]
WRONG = [
    ({"type": "bandit"}, "has one slack, got slack_factor=None and slack_amount=None"),
    ({"type": "bandit", "slack_factor": 0.2, "slack_amount": 0.1}, "has one slack, got slack_factor=0.2"),
    ({"type": "bandit", "slack_factor": 0, "slack_amount": 0}, "has one slack"),
    ({"type": "bandit", "slack_factor": -1}, r"slack_factor=-1.0: must be more than 0"),
    ({"type": "bandit", "slack_amount": NAN}, r"slack_amount=nan: must be more than 0"),
    ({"type": "bandit", "slack_factor": "much"}, r"slack_factor: Value 'much'"),
    ({"type": "bandit", "slack_facto": 0.2}, r"slack_facto: bandit has no such key. Did you mean 'slack_factor'\?"),
    ({"type": "median_stopping", "slack_factor": 0.2}, "median_stopping has no such key"),
    ({"type": "median_stopping", "delay_evaluation": -1}, "delay_evaluation=-1: must be at least 0"),
    ({"type": "median_stopping", "evaluation_interval": 1.5}, "evaluation_interval: Value '1.5'"),
    ({"type": "median_stopping", "evaluation_interval": True}, "evaluation_interval: Value 'True'"),
    ({"type": "median_stopping", "delay_evaluation": None}, "delay_evaluation: Incompatible value 'None'"),
    ({"type": "truncation_selection"}, "truncation_percentage has no value"),
    ({"type": "truncation_selection", "truncation_percentage": 0}, r"truncation_percentage=0: must be in \[1, 99\]"),
    (
        {"type": "truncation_selection", "truncation_percentage": 100},
        r"truncation_percentage=100: must be in \[1, 99\]",
    ),
    ({"type": "bandits"}, r"type=bandits: no such policy. Did you mean 'bandit'\? Known: bandit, median_stopping"),
    ({"type": None, "evaluation_interval": 2}, "evaluation_interval: without a policy nobody reads it"),
    ({"slack_factor": 0.2}, "has no type"),
    ({"type": "bandit", "slack_factor": "${nowhere}"}, "nowhere"),
    (["bandit"], "must be keys and values"),
    ({"_target_": "optuna.pruners.Hyper"}, "_target_=optuna.pruners.Hyper cannot be imported"),
    ({"_target_": 3}, "_target_=3 cannot be imported"),
    ({"_target_": "os.system", "command": "true"}, "is no subclass of optuna.pruners.BasePruner"),
    ({"_target_": "optuna.pruners.HyperbandPruner", "resource": 1}, "cannot be made: .*unexpected keyword"),
    ({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": -1}, "cannot be made: .*cannot be negative"),
]


def others(*curves, finished=True):
    return [Other(curve, finished=finished) for curve in curves]


def stops(policy, curve, *curves, **options):
    return policy.decision(curve, others(*curves), **options).stop


def test_the_documents_bandit_with_a_best_of_08_ends_what_is_below_066():
    policy = Bandit(slack_factor=0.2)
    assert stops(policy, [0.66], [0.8])
    assert not stops(policy, [0.67], [0.8])
    assert policy.decision([0.3, 0.612, 0.5, 0.6], others([0.7, 0.8, 0.75, 0.7])) == Decision(
        stop=True, reason="best 0.612 after 4 evaluations is below 0.667, the best of all, 0.800, / 1.2"
    )


def test_a_slack_amount_is_a_difference():
    policy = Bandit(slack_amount=0.2)
    assert stops(policy, [0.59], [0.8])
    assert not stops(policy, [0.6], [0.8])  # 0.8 - 0.2 is 0.6000000000000001
    assert policy.decision([0.5], others([0.8])).reason.endswith("is below 0.600, the best of all, 0.800, - 0.2")


@pytest.mark.parametrize("policy", [Bandit(slack_factor=0.2), Bandit(slack_amount=0.1)])
def test_a_bandit_looks_at_the_best_so_far_and_at_others_as_they_were_at_that_age(policy):
    assert not stops(policy, [0.79, 0.1], [0.8, 0.8])
    assert not stops(policy, [0.5, 0.55], [0.5, 0.55, 0.99])
    assert stops(policy, [0.5, 0.55, 0.56], [0.5, 0.55, 0.99])
    assert stops(policy, [0.5, 0.5], [0.99])


def test_where_less_is_better_the_bandit_bound_is_best_times_one_plus_the_factor():
    policy = Bandit(slack_factor=0.2)
    assert not stops(policy, [0.48], [0.4], minimize=True)
    decision = policy.decision([0.9, 0.481], others([0.4, 0.7]), minimize=True)
    assert decision == (True, "best 0.481 after 2 evaluations is above 0.480, the best of all, 0.400, x 1.2")
    assert stops(Bandit(slack_amount=0.1), [0.51], [0.4], minimize=True)
    assert not stops(Bandit(slack_amount=0.1), [0.5], [0.4], minimize=True)


def test_a_negative_best_does_not_end_itself_and_has_its_slack():
    policy = Bandit(slack_factor=0.2)
    bound = -0.8 - 0.8 * (1 - 1 / 1.2)
    assert not stops(policy, [-0.8])
    assert not stops(policy, [bound + 1e-6], [-0.8])
    assert policy.decision([-0.95], others([-0.8])).reason == (
        "best -0.950 after 1 evaluation is below -0.933, the best of all, -0.800, - 0.133"
    )
    assert not stops(policy, [-0.8], minimize=True)
    assert not stops(policy, [-0.67], [-0.8], minimize=True)
    assert policy.decision([-0.5], others([-0.8]), minimize=True).reason.endswith(
        "above -0.667, the best of all, -0.800, / 1.2"
    )
    assert stops(policy, [-1e-6], [0.0])
    assert not stops(policy, [0.0], [0.0])


@pytest.mark.parametrize(
    ("interval", "delay", "expected"),
    [
        (1, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (2, 6, [6, 8, 10]),
        (2, 5, [6, 8, 10]),
        (3, 0, [3, 6, 9]),
        (0, 9, [9, 10]),
    ],
)
def test_a_policy_acts_at_the_multiples_of_its_interval_from_its_delay_on(interval, delay, expected):
    policy = Bandit(slack_factor=0.2, evaluation_interval=interval, delay_evaluation=delay)
    acted = [age for age in range(11) if stops(policy, [0.1] * age, [0.8] * 20)]
    assert acted == expected


def test_the_median_is_that_of_the_running_averages_of_all_trials():
    policy = MedianStopping()
    curves = [[0.2, 0.4], [0.4, 0.6], [0.6, 0.8], [0.9, 0.9, 0.0]]
    # Averages 0.3, 0.5, 0.7, 0.9 and that of the trial itself.
    assert not stops(policy, [0.1, 0.5], *curves)
    assert policy.decision([0.1, 0.49], others(*curves)) == (
        True,
        "best 0.490 after 2 evaluations is below 0.500, the median of 5 running averages",
    )
    assert stops(policy, [0.9, 0.71], *[[1 - value for value in curve] for curve in curves], minimize=True)
    assert not stops(policy, [0.9, 0.5], *[[1 - value for value in curve] for curve in curves], minimize=True)


def test_younger_trials_enter_the_median_with_what_they_have():
    policy = MedianStopping()
    assert stops(policy, [0.4, 0.4], [0.5, 0.5], [0.5])
    assert not stops(policy, [0.4, 0.4], [0.5, 0.5], [0.3], [0.3])
    decision = policy.decision([0.4, 0.4], others([0.5, 0.5], [], []))
    assert decision == (True, "best 0.400 after 2 evaluations is below 0.450, the median of 2 running averages")


def test_truncation_ends_the_lowest_share_of_those_that_reached_the_evaluation_rounded_down():
    policy = TruncationSelection(truncation_percentage=20)
    cohort = [[value / 10] for value in range(1, 10)]
    assert policy.decision([0.15], others(*cohort)) == (
        True,
        "0.150 at evaluation 1 is among the lowest 2 of 10 trials (20 %)",
    )
    assert not stops(policy, [0.25], *cohort)
    assert not stops(policy, [0.0], *cohort[:3])  # a fifth of four is none
    assert stops(policy, [0.0], *cohort[:4])


def test_truncation_looks_at_the_value_of_that_evaluation_alone():
    policy = TruncationSelection(truncation_percentage=50)
    assert stops(policy, [0.9, 0.1], [0.2, 0.2])
    assert not stops(policy, [0.1, 0.3], [0.9, 0.2])
    assert not stops(policy, [0.1, 0.1], [0.9])  # which has not come so far
    assert stops(policy, [0.9, 0.9], [0.5, 0.5, 0.99], minimize=True)
    assert "among the highest 1 of 2" in policy.decision([0.9], others([0.5]), minimize=True).reason


def test_truncation_without_finished_trials_compares_with_running_ones_alone():
    policy = TruncationSelection(truncation_percentage=50, exclude_finished_jobs=True)
    finished, running = others([0.5]), others([0.2], finished=False)
    assert not policy.decision([0.1], finished).stop
    decision = policy.decision([0.1], finished + running)
    assert decision == (True, "0.100 at evaluation 1 is among the lowest 1 of 2 running trials (50 %)")
    assert not policy.decision([0.3], finished + running).stop


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("minimize", [False, True])
def test_what_is_no_number_is_worst(policy, minimize):
    good = [0.5, 0.5]
    for bad in (NAN, math.inf, -math.inf):
        decision = policy.decision([bad, bad], others(good, good, good), minimize=minimize)
        assert decision.stop
        assert "nan" in decision.reason
        assert not stops(policy, good, [bad, bad], [bad], minimize=minimize)
        assert not stops(policy, [bad], [bad], [bad], minimize=minimize)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("curve", [[0.1] * 3, [0.7] * 7, [-0.3] * 6, [0.9, 0.2, 0.1], [NAN], [0.0]])
def test_neither_a_lone_trial_nor_one_of_equals_is_ended(policy, minimize, curve):
    """The mean of three times 0.1 is above 0.1 to a computer."""
    for count in range(1, len(curve) + 1):
        assert not stops(policy, curve[:count], minimize=minimize)
        if len(set(curve)) == 1:
            assert not stops(policy, curve[:count], *[curve] * 9, minimize=minimize)


def test_numbers_in_a_reason_have_the_digits_that_tell_them_apart():
    assert (
        "best 0.66666 after 1 evaluation is below 0.66667,"
        in Bandit(slack_factor=0.2).decision([0.66666], others([0.8])).reason
    )


def study_with(pruner, *curves, direction="maximize", state=TrialState.COMPLETE):
    study = optuna.create_study(direction=direction, pruner=pruner)
    for curve in curves:
        add(study, curve, state)
    return study


def add(study, curve, state=TrialState.COMPLETE):
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=curve[-1] if state is TrialState.COMPLETE else None,
            intermediate_values=dict(enumerate(curve, start=1)),
        )
    )


def ends_at(trial, curve, first=1):
    for step, value in enumerate(curve, start=first):
        trial.report(value, step)
        if trial.should_prune():
            return step
    return None


def test_a_study_prunes_as_the_policy_says_and_knows_why():
    node = {"type": "bandit", "slack_factor": 0.2, "evaluation_interval": 2, "delay_evaluation": 6}
    pruner = policy_of(OmegaConf.create(node), "maximize")
    study = study_with(pruner)
    first = study.ask()
    assert ends_at(first, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]) is None
    study.tell(first, 0.8)
    second, third = study.ask(), study.ask()
    assert ends_at(second, [0.1, 0.1, 0.1, 0.1, 0.1, 0.49]) == 6
    assert ends_at(third, [0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5]) == 8
    assert reason_of(pruner, second.number) == (
        "best 0.490 after 6 evaluations is below 0.500, the best of all, 0.600, / 1.2"
    )
    assert reason_of(pruner, third.number).startswith("best 0.500 after 8 evaluations is below 0.667")
    assert first.number not in pruner.reasons


def test_a_study_that_minimizes_ends_what_is_above():
    study = study_with(policy_of({"type": "bandit", "slack_amount": 0.1}, "minimize"), [0.4], direction="minimize")
    assert ends_at(study.ask(), [0.51]) == 1
    assert ends_at(study.ask(), [0.49]) is None


def test_running_complete_and_pruned_trials_are_compared_with_and_failed_and_waiting_ones_are_not():
    for state, expected in (
        (TrialState.RUNNING, 1),
        (TrialState.COMPLETE, 1),
        (TrialState.PRUNED, 1),
        (TrialState.FAIL, None),
        (TrialState.WAITING, None),
    ):
        pruner = policy_of({"type": "bandit", "slack_factor": 0.2}, "maximize")
        study = optuna.create_study(direction="maximize", pruner=pruner)
        trial = study.ask()
        add(study, [0.8], state)
        assert ends_at(trial, [0.5]) == expected, state


def test_only_running_others_count_where_finished_ones_are_excluded():
    node = {"type": "truncation_selection", "truncation_percentage": 50, "exclude_finished_jobs": True}
    study = study_with(policy_of(node, "maximize"), [0.5], [0.5])
    trial, other = study.ask(), study.ask()
    assert ends_at(trial, [0.1]) is None
    other.report(0.4, 1)
    trial.report(0.1, 2)
    assert not trial.should_prune()  # the other one has not come so far
    other.report(0.4, 2)
    assert trial.should_prune()


def test_a_resumed_trial_is_compared_at_the_age_it_inherits():
    study = study_with(policy_of("median_stopping", "maximize"), [0.1, 0.2, 0.6, 0.6], [0.1, 0.2, 0.6, 0.6])
    study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, intermediate_values={1: 0.1, 2: 0.2}))
    trial = study.ask()
    assert sorted(study.trials[trial.number].intermediate_values) == [1, 2]
    # After its third evaluation the others' average is 0.3; it is 0.1 after their first.
    assert ends_at(trial, [0.29], first=3) == 3


def test_reports_count_in_the_order_of_their_steps_whatever_the_steps_are():
    study = study_with(policy_of({"type": "truncation_selection", "truncation_percentage": 50}, "maximize"))
    study.add_trial(optuna.trial.create_trial(value=0.3, intermediate_values={30: 0.3, 10: 0.1, 20: 0.2}))
    trial = study.ask()
    trial.report(0.15, 5)
    assert not trial.should_prune()
    trial.report(0.15, 7)
    assert trial.should_prune()


@pytest.mark.parametrize("node", [None, "none", {"type": "none"}, {"type": None}])
def test_no_policy_prunes_nothing(node):
    assert policy_in(node) is None
    study = study_with(policy_of(node, "maximize"), [0.8])
    assert ends_at(study.ask(), [NAN, 0.0]) is None


def test_optunas_own_pruners_are_found_by_their_path():
    nested = {
        "_target_": "optuna.pruners.PatientPruner",
        "wrapped_pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1},
        "patience": 1,
    }
    assert isinstance(policy_of(nested, "maximize"), optuna.pruners.PatientPruner)
    pruner = policy_of({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}, "maximize")
    study = study_with(pruner, [0.8])
    trial = study.ask()
    assert ends_at(trial, [0.5]) == 1
    assert reason_of(pruner, trial.number) == "stopped by MedianPruner"


def test_a_slack_of_nought_beside_another_is_not_given():
    node = {"type": "bandit", "slack_factor": 0.2, "slack_amount": 0, "evaluation_interval": 0}
    assert policy_in(node) == Bandit(slack_factor=0.2, evaluation_interval=0)


@pytest.mark.parametrize(("node", "message"), WRONG)
def test_what_is_wrong_is_said_in_one_line(node, message):
    with pytest.raises(ConfigError, match=message) as caught:
        policy_of(node, "maximize")
    assert str(caught.value).startswith("search.early_termination")
    assert "\n" not in str(caught.value)


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="direction=up: must be maximize or minimize"):
        policy_of("median_stopping", "up")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_decision_among_a_thousand_finished_trials_is_quick(policy):
    study = study_with(None)
    study.add_trials(
        [
            optuna.trial.create_trial(value=0.5, intermediate_values={step: 0.5 + trial / 1e4 for step in range(50)})
            for trial in range(1000)
        ]
    )
    trial = study.ask()
    for step in range(50):
        trial.report(0.1, step)
    pruner, frozen = PolicyPruner(policy), study.trials[trial.number]
    begin = time.process_time()
    assert pruner.prune(study, frozen)
    assert time.process_time() - begin < 0.3  # 0.02 s where nothing else runs


def test_policies_are_read_without_optuna_and_torch():
    code = (
        "import sys; from lightning_automl_vision.search.policies import policy_in; policy_in('median_stopping');"
        "print([name for name in ('optuna', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
