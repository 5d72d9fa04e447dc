"""The objective in plain torch: the NLL term that the trainer adds, and the oracle for what it leaves to trl.

Equation numbers are those of "Direct Preference Optimization", arXiv 2305.18290.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid


class DpoLoss(NamedTuple):
    """Per-pair loss and implicit rewards, each (pairs,)."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def sequence_logps(
    logits: Float[Tensor, "batch seq vocabulary"],
    token_ids: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, " batch"]:
    """Return log p(completion | prompt): the sum over the masked tokens, in nats.

    The logits at position i predict token i + 1; the first token is never predicted.

    Args:
        logits: Of the whole sequence.
        token_ids: Prompt and completion.
        mask: True at the tokens that count. A row without any has log-probability 0.
    """
    logps = logits[:, :-1].float().log_softmax(dim=-1)
    token_logps = logps.gather(-1, token_ids[:, 1:, None]).squeeze(-1)
    return (token_logps * mask[:, 1:]).sum(dim=-1)


def dpo_loss(
    policy_chosen_logps: Float[Tensor, " pairs"],
    policy_rejected_logps: Float[Tensor, " pairs"],
    ref_chosen_logps: Float[Tensor, " pairs"],
    ref_rejected_logps: Float[Tensor, " pairs"],
    *,
    beta: float,
) -> DpoLoss:
    """Return -log sigmoid(beta (chosen log-ratio - rejected log-ratio)), equation 7.

    The implicit reward beta log(pi / pi_ref) is equation 5 without the term that depends on the prompt
    alone. Where the policy equals the reference, the loss is ln 2 and both rewards are 0.

    Args:
        policy_chosen_logps: From `sequence_logps`, nats.
        policy_rejected_logps: Likewise.
        ref_chosen_logps: Likewise, under the reference.
        ref_rejected_logps: Likewise.
        beta: Strength of the tie to the reference, above 0; towards 0 the reference no longer matters.
    """
    chosen_rewards = beta * (policy_chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - ref_rejected_logps)
    return DpoLoss(-logsigmoid(chosen_rewards - rejected_rewards), chosen_rewards, rejected_rewards)


def nll_loss(
    policy_chosen_logps: Float[Tensor, " pairs"], num_chosen_tokens: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Return -log pi(chosen) / |chosen|, the second term of "Iterative Reasoning Preference Optimization".

    Equation 1 of arXiv 2404.19733: each sequence is divided by its own length, so that a pair weighs the same however
    long it is and whichever pairs it is computed with.

    Args:
        policy_chosen_logps: From `sequence_logps`, nats.
        num_chosen_tokens: How many tokens the sum is over; where there are none the term is 0.
    """
    return -policy_chosen_logps / num_chosen_tokens.clamp(min=1)
