"""Stage "preflight": checks before anything is sampled, so that no run fails hours later.

Every instruction of every split must leave room for its completion in the model's context, and the answers of the
self-rating judge must be single tokens. What training puts adapters on must be layers of the model.
"""

from collections.abc import Sequence
from typing import Any

from tpo.checks import without_floors
from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.model.asked import ask, ask_directly
from tpo.model.chat import answer_ids, load_tokenizer
from tpo.model.policy import Policy, open_policy
from tpo.sample.completions import plan_decoding
from tpo.sample.prompts import PromptError
from tpo.store.job import Job, Metrics
from tpo.store.records import Prompt


def work(job: Job) -> Metrics:
    """Check the instructions, the token budgets and the judge's answers against the model's tokenizer and context."""
    policy = open_policy(job.config, job.inputs)
    if "lora_targets" in job.config:
        from tpo.model.targets import check_targets, make_skeleton  # loads torch, which the rest does without

        check_targets(make_skeleton(policy.model_path, revision=policy.revision), job.config["lora_targets"])
    return check_lengths(
        list(job.inputs["prompts"].rows(Prompt)),
        policy,
        [load_settings(ThoughtFormat, form) for form in job.config["forms"]],
        sample_settings=job.config["sample"],
        judge_settings=job.config["judge"],
    )


def check_lengths(
    prompts: Sequence[Prompt],
    policy: Policy,
    forms: Sequence[ThoughtFormat],
    *,
    sample_settings: dict[str, Any],
    judge_settings: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the longest prompt and completion that a run may ask for, in tokens.

    Raises:
        PromptError: If an instruction's prompt and completion exceed the model's context.
        TpoError: If an answer of the self-rating judge is not a single token, or the model cannot be asked in a
            thought format.
    """
    tokenizer = load_tokenizer(policy.tokenizer_path)
    for judge in () if judge_settings is None else (judge_settings, *judge_settings.get("members", {}).values()):
        if judge["kind"] in ("self_rating", "likelihood"):
            ask_directly(policy.conventions, what=f"judge={judge['kind']}")
        if judge["kind"] == "self_rating":
            answer_ids(tokenizer, positive=judge["positive"], negative=judge["negative"])
        if judge["kind"] == "checked" and not any(without_floors(prompt.checks) for prompt in prompts):
            raise PromptError(
                "judge=checked scores by an instruction's checks, but these instructions have none: use "
                "prompts=checked, or another judge"
            )
    longest = 0
    for form in forms:
        asked = ask(form, policy.conventions, tokenizer)
        budget = plan_decoding(tokenizer, asked, sample_settings).max_total
        for prompt in prompts:
            needed = len(asked.context(tokenizer, prompt.text)) + budget
            longest = max(longest, needed)
            if needed > policy.max_model_len:
                raise PromptError(
                    f"prompt {prompt.prompt_id} ({prompt.source}, {prompt.split}) may need {needed} tokens, but "
                    f"model.max_model_len is {policy.max_model_len}: remove or shorten it, or lower "
                    f"sample.max_thought_tokens or sample.max_response_tokens. It starts with {prompt.text[:80]!r}"
                )
    return {"num_prompts": len(prompts), "longest": longest}
