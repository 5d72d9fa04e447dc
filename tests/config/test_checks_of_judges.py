"""A judge that scores by an instruction's own checks needs instructions that have them."""

import pytest

from tpo.config.check import check, check_agreement, check_evaluate
from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError
from tpo.config.schema import AgreementConfig, Config, EvaluateConfig

MEMBER = ["judge=ensemble", "+judge@judge.members.checked=checked", "+judge.weights.checked=1.0"]


@pytest.mark.parametrize(
    "overrides",
    [["judge=checked"], ["judge@eval.judge=checked"], MEMBER, ["judge=checked", "prompts=ultrafeedback"]],
)
def test_a_run_without_checks_is_refused(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match="judge=checked scores by an instruction's own checks"):
        check(compose_config(Config, overrides))


@pytest.mark.parametrize("overrides", [["judge=checked", "prompts=checked"], ["judge=checked", "prompts=gsm8k"]])
def test_a_run_with_checks_is_not(overrides: list[str]) -> None:
    check(compose_config(Config, overrides))


def test_evaluations_ask_for_checks_only_where_the_judge_sees_the_instructions() -> None:
    with pytest.raises(ConfigError, match="judge=checked"):
        check_evaluate(compose_config(EvaluateConfig, ["policy=seed", "judge=checked"]))
    check_evaluate(compose_config(EvaluateConfig, ["policy=seed", "judge=checked", "eval=gsm8k"]))


def test_labelled_preferences_have_no_checks() -> None:
    with pytest.raises(ConfigError, match="labelled preferences"):
        check_agreement(compose_config(AgreementConfig, ["judge=checked", "data=README.md"]))
