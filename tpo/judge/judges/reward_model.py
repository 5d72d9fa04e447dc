"""Reward models as judges: what all of them share, and the Hugging Face sequence classifier."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tpo.config.fields import check_place, setting
from tpo.config.groups import DTYPES
from tpo.config.template_arguments import check_template_arguments
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig, blocks
from tpo.model.chat import Tokenizer, load_tokenizer
from tpo.model.conventions import Conventions
from tpo.model.load import default_device, fingerprint, loading
from tpo.model.policy import Policy
from tpo.model.rendering import Turn, render_turns
from tpo.model.template_probe import read_rendering
from tpo.store.errors import TpoError

if TYPE_CHECKING:
    import torch

    from tpo.model.states import Reading


@dataclass
class RewardModelJudge(PointwiseJudgeConfig):
    """A sequence-classification reward model."""

    computes_blocks: ClassVar[bool] = True

    kind: str = setting("reward_model")
    name: str = setting()
    revision: str | None = setting(None)
    dtype: str = setting("bfloat16", choices=DTYPES)
    max_tokens: int = setting(minimum=1)
    batch_tokens: int = setting(minimum=1)
    template_arguments: dict[str, Any] = setting({})

    def check(self, at: str) -> None:
        """Check that the template's arguments are its own, and that a directory is there."""
        check_template_arguments(f"{at}.template_arguments", self.template_arguments)
        check_place(f"{at}.name", self.name)

    def depends_on(self) -> dict[str, Any]:
        """Return what tells the contents of a local directory from another's."""
        return {"fingerprint": fingerprint(self.name)}

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return the judge, its weights loaded."""
        return RewardModel(self)


class ChatScorer(ABC):
    """Scores a response by heads on a decoder's hidden states of the chat (instruction, response).

    Positions are known from the chat's length, never searched for among the ids, so neither the choice of a
    padding token nor anything that a response spells can move them.
    """

    def __init__(self, decoder: Any, settings: RewardModelJudge) -> None:
        """Score with `decoder`, a model without heads, and the tokenizer with whose template the heads were trained.

        Args:
            decoder: In eval mode.
            settings: Of the judge.

        Raises:
            TpoError: If the chat template does not read an argument that is given for it.
        """
        from tpo.model.states import StateReader

        self.settings = settings
        self.tokenizer = load_tokenizer(settings.name, revision=settings.revision)
        at = "judge.template_arguments"
        self.conventions = read_rendering(self.tokenizer, settings.template_arguments, at=at)
        self.reader = StateReader(decoder, batch_tokens=settings.batch_tokens)

    @abstractmethod
    def chat(self, instruction: str, response: str) -> "Reading | None":
        """Return the chat and where the heads read it; None where it does not hold both texts as they are."""

    def ids(self, instruction: str, response: str) -> list[int] | None:
        """Return the chat's token ids (`chat_with_response`)."""
        return chat_with_response(self.tokenizer, instruction, response, conventions=self.conventions)

    @abstractmethod
    def reward(self, states: "torch.Tensor") -> "torch.Tensor":
        """Return the float32 reward () of the float32 states (positions, hidden) that were read of a chat."""

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the rewards of every instruction's responses.

        Nothing is truncated: a reward for half a response is not a reward for the response. Unscored are: "too_long",
        a chat that exceeds `judge.max_tokens`; "not_rendered", one in which the template changed a text.
        """
        for block in blocks(candidates):
            yield from self._score(block)

    def _score(self, block: Sequence[Candidates]) -> list[list[Judgement]]:
        import torch

        groups = [[self.chat(item.instruction, response) for response in item.responses] for item in block]
        fitting = [[chat for chat in group if chat is not None and self._refusal(chat) is None] for group in groups]
        with torch.inference_mode():
            states = iter([state for group in self.reader.read(fitting) for state in group])
            return [
                [
                    self._judge(chat, next(states))
                    if chat is not None and self._refusal(chat) is None
                    else Judgement(None, self._refusal(chat))
                    for chat in group
                ]
                for group in groups
            ]

    def _refusal(self, chat: "Reading | None") -> str | None:
        if chat is None:
            return "not_rendered"
        return "too_long" if len(chat.ids) > self.settings.max_tokens else None

    def _judge(self, chat: "Reading", states: "torch.Tensor") -> Judgement:
        # Heads work in float32: a bfloat16 reward of 16 comes in steps of 1/8, which ties responses.
        return Judgement(float(self.reward(states.float())), None, num_tokens=len(chat.ids))


class RewardModel(ChatScorer):
    """Scores a response by a sequence classifier's single logit at the chat's last token."""

    def __init__(self, settings: RewardModelJudge) -> None:
        """Load model and tokenizer.

        Raises:
            TpoError: If weights are missing or left over, or the model is not a decoder with a single reward.
        """
        from transformers import AutoModelForSequenceClassification

        model = load_complete(AutoModelForSequenceClassification, settings)
        if model.config.num_labels != 1:
            raise TpoError(f"judge.name={settings.name}: {model.config.num_labels} outputs; a reward model has one")
        if not hasattr(model, "score"):
            raise TpoError(f"judge.name={settings.name}: {type(model).__name__} has no score head on a decoder")
        super().__init__(model.base_model, settings)
        self.head = model.score.float()

    def chat(self, instruction: str, response: str) -> "Reading | None":
        """Return the chat, read at its last token."""
        from tpo.model.states import Reading

        ids = self.ids(instruction, response)
        return None if ids is None else Reading(ids, (len(ids) - 1,))

    def reward(self, states: "torch.Tensor") -> "torch.Tensor":
        """Return the logit."""
        logits: torch.Tensor = self.head(states[0])
        return logits[0]


def load_complete(model_class: Any, settings: RewardModelJudge) -> Any:
    """Return a model in eval mode on the default device, every weight of it from the checkpoint.

    Raises:
        TpoError: If weights are missing (transformers would draw them at random: a judge that means nothing)
            or left over (a part of the model that would not be computed).
    """
    import torch

    with loading(settings.name, key="judge.name"):
        model, found = model_class.from_pretrained(
            settings.name,
            revision=settings.revision,
            dtype=getattr(torch, settings.dtype),
            device_map={"": default_device()},
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    # A reward model may keep the language model's head: without effect on the reward.
    faults = {
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(set(found["unexpected_keys"]) - {"lm_head.weight"}),
    }
    said = "; ".join(f"{kind} weights: {', '.join(names)}" for kind, names in faults.items() if names)
    if said:
        raise TpoError(f"judge.name={settings.name}: the checkpoint is not a {type(model).__name__}: {said}")
    return model.eval()


def chat_with_response(
    tokenizer: Tokenizer, instruction: str, response: str, *, conventions: Conventions
) -> list[int] | None:
    """Return the ids of instruction and response in the tokenizer's own template, with one BOS.

    Args:
        tokenizer: Of the reward model.
        instruction: Control tokens in it are broken up.
        response: The same holds for it.
        conventions: What the template is given, and how it takes a text.

    Returns:
        None where the template does not render both texts as they are: a reward for what is left of a response, as of
        one with a `</think>` in some templates, would be another text's.
    """
    turns = [Turn("user", instruction), Turn("assistant", response)]
    rendering = render_turns(tokenizer, turns, conventions=conventions)
    return with_one_bos(tokenizer, rendering.ids(tokenizer)) if rendering.lost is None else None


def with_one_bos(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Return `ids` with one BOS in front, where the tokenizer has one and it or the template puts it there.

    Reward models were trained on rendered text to which the tokenizer added its BOS, whether or not the template
    writes one too. So a doubled BOS becomes one, and one that the template leaves to the tokenizer is added. A
    BOS further on is left alone: in some templates the same token opens every turn.
    """
    bos = tokenizer.bos_token_id
    start = next((position for position, token in enumerate(ids) if token != bos), len(ids))
    adds_bos = bos is not None and tokenizer("").input_ids[:1] == [bos]
    return [bos] * (start > 0 or adds_bos) + ids[start:]
