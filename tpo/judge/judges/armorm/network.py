"""The network of ArmoRM, and the judge: reward heads for many objectives, mixed by a gate that reads the instruction.

Wang, Xiong, Xie, Zhao and Zhang 2024 (arXiv 2406.12845), sections 2.1 and 2.2. The network is written out here, under
the weight names of the published checkpoint, because the checkpoint's own code does not run with transformers 5.
"""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel

from tpo.judge.judges.reward_model import ChatScorer, RewardModelJudge, load_complete, with_one_bos
from tpo.model.rendering import Turn, render_turns
from tpo.model.states import Reading
from tpo.store.errors import TpoError

END_OF_TURN = "<|eot_id|>"


class Gate(nn.Module):
    """Weights of the objectives, from the hidden state that ends the user's turn."""

    def __init__(self, config: LlamaConfig, num_objectives: int) -> None:
        """Make the layers and the scale that `config` describes."""
        super().__init__()
        self.temperature = getattr(config, "gating_temperature", 10)
        width, depth = getattr(config, "gating_hidden_dim", 1024), getattr(config, "gating_n_hidden", 3)
        sizes = [config.hidden_size, *[width] * depth, num_objectives]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False))
        self.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return softmax(MLP(state) / temperature) x scale, [batch, objectives]."""
        for layer in self.layers[:-1]:
            state = torch.relu(layer(state))
        weights = torch.softmax(self.layers[-1](state) / self.temperature, dim=-1)
        return weights * self.logit_scale[0]


class GatedRewardModel(LlamaPreTrainedModel):  # type: ignore[misc]  # transformers is untyped
    """The network; attributes carry the names of the published weights."""

    # Heads stay in float32 whatever `judge.dtype` says: bfloat16 rewards come in steps that tie responses.
    _keep_in_fp32_modules_strict = ["regression_layer", "reward_transform_matrix", "gating"]

    def __init__(self, config: LlamaConfig) -> None:
        """Make the decoder and the heads that `config` describes."""
        super().__init__(config)
        num_objectives = getattr(config, "num_objectives", 19)
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, num_objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(num_objectives), requires_grad=False)
        self.gating = Gate(config, num_objectives)
        self.post_init()

    def mix(self, gating_state: torch.Tensor, last_state: torch.Tensor) -> torch.Tensor:
        """Return the gate's weighted sum of the objectives' rewards, [batch]."""
        rewards = self.regression_layer(last_state) @ self.reward_transform_matrix
        return torch.sum(self.gating(gating_state) * rewards, dim=-1)


class ArmoRM(ChatScorer):
    """Scores a response by ArmoRM's mixture of objectives."""

    def __init__(self, settings: RewardModelJudge) -> None:
        """Load ArmoRM.

        Raises:
            TpoError: If weights are missing or left over, or the tokenizer is not Llama 3's.
        """
        self.name = settings.name
        self.model = load_complete(GatedRewardModel, settings)
        super().__init__(self.model.model, settings)
        self.end_of_turn = self.tokenizer.get_vocab().get(END_OF_TURN)
        if self.end_of_turn is None:
            raise TpoError(
                f"judge.name={self.name}: the tokenizer has no {END_OF_TURN}, whose hidden state the gate reads"
            )

    def chat(self, instruction: str, response: str) -> Reading | None:
        """Return the chat, read at the token that ends the user's turn and at the last.

        The user's turn is rendered by itself to find its end: what the response says plays no part.

        Raises:
            TpoError: If the template renders the user's turn differently before a response.
        """
        ids = self.ids(instruction, response)
        if ids is None:
            return None
        user = render_turns(
            self.tokenizer,
            [Turn("user", instruction)],
            conventions=self.conventions,
            opens_answer=True,
        )
        turn = with_one_bos(self.tokenizer, user.ids(self.tokenizer))
        ends = [position for position, token in enumerate(turn) if token == self.end_of_turn]
        if not ends or ids[: ends[-1] + 1] != turn[: ends[-1] + 1]:
            raise TpoError(
                f"judge.name={self.name}: the user's turn as the chat template renders it, up to {END_OF_TURN}, is not "
                "how the whole chat begins, so there is no token for the gate to read"
            )
        return Reading(ids, (ends[-1], len(ids) - 1))

    def reward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the mixed reward."""
        mixed: torch.Tensor = self.model.mix(*states[:, None])
        return mixed[0]
