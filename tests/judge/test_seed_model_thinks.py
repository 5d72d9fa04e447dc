"""Judges that read the first words of the seed model's answer, where the seed model thinks by itself."""

from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES, with_template
from conftest import make_model

from tpo.judge.judges.likelihood import Likelihood, SummedLikelihood
from tpo.judge.judges.self_rating import SelfRating, SelfRatingJudge
from tpo.model.asked import AskError
from tpo.model.policy import Policy
from tpo.model.template_probe import read_conventions
from tpo.sample.preflight import check_lengths

QUESTION = "{instruction} {response}"


def policy_with(template: str, path: Path) -> Policy:
    tokenizer = with_template(template)
    make_model(path, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(path)
    found = read_conventions(tokenizer, template_arguments={}, date="2037-02-28")
    return Policy(str(path), None, str(path), "float32", 512, None, conventions=found)


def rating(policy: Policy) -> SelfRating:
    return SelfRating(SelfRatingJudge(question=QUESTION, positive=" Yes", negative=" No", batch_tokens=512), policy)


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "nemotron_3_nano"])
def test_yes_or_no_is_read_outside_of_a_thought(name: str, tmp_path: Path) -> None:
    judge = rating(policy_with(TEMPLATES[name], tmp_path))
    read = judge.tokenizer.decode(judge._reading("Ask.", "Say.").ids)
    assert "Ask. Say." in read and read.rstrip().endswith("</think>")


def test_a_template_that_always_opens_a_thought_is_refused(tmp_path: Path) -> None:
    policy = policy_with(TEMPLATES["deepseek_r1_distill"], tmp_path)
    with pytest.raises(AskError, match="judge=self_rating .* use another judge"):
        rating(policy)
    settings = SummedLikelihood(with_instruction=True, batch_tokens=512)
    with pytest.raises(AskError, match="judge=likelihood"):
        Likelihood(settings, policy)
    budgets: dict[str, Any] = {"max_thought_tokens": 1, "max_response_tokens": 1, "temperature": 1.0, "top_p": 1.0}
    for kind in ("self_rating", "likelihood"):
        with pytest.raises(AskError, match=f"judge={kind}"):
            check_lengths([], policy, [], sample_settings=budgets, judge_settings={"kind": kind})
