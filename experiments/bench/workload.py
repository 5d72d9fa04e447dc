"""The work that all contenders get, made once: instructions, responses, pairs, an adapter and a reward model.

    python -m experiments.bench.workload <options.json> <folder>

Made by the pipeline's own stages (seed model -> K responses -> scores -> best against worst), whose artifacts are kept
in the store as those of any run, so the same work is the same bytes the next time. Scores, the adapter and the head of
the reward model are drawn at random: what they are changes nothing of what there is to compute.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from experiments.bench.parts import Options
from tpo.model.asked import ask
from tpo.model.conventions import Conventions
from tpo.store.records import Completion, Pair, Prompt, read_records, write_records

REPOSITORY = Path(__file__).parents[2]
RANK, ALPHA = 16, 32
LEARNING_RATE = 1e-4
BATCH_SIZE, MICRO_BATCH_SIZE = 8, 4
ADAPTER_SCALE = 1e-3  # of the adapter's second matrix: the policy stays a model that writes sentences
SPARE = 1.25  # instructions per pair: some give none
# For pairs of about 220 tokens a sequence with the thought prompt, as in the measurements of the trainer before.
THOUGHT_TOKENS, RESPONSE_TOKENS = 48, 64


@dataclass(frozen=True)
class Work:
    """Where the work lies and how large it is."""

    folder: str
    artifacts_dir: str
    model_path: str
    tokenizer_path: str
    options: dict[str, Any]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """Return the work that a contender was told of."""
        return cls(**told)

    @property
    def sizes(self) -> Options:
        """How large it is."""
        return Options(**self.options)

    @property
    def adapter(self) -> Path:
        """An adapter on all linear layers."""
        return Path(self.folder) / "adapter"

    @property
    def classifier(self) -> Path:
        """A sequence classifier with one logit."""
        return Path(self.folder) / "classifier"

    def prompts(self) -> list[Prompt]:
        """Return the instructions."""
        return self._prompts(self.sizes.num_instructions)

    def answer_prompts(self) -> list[Prompt]:
        """Return as many different instructions as there are completions otherwise, if the source has so many.

        The instructions of `prompts` are among them; the others are of later iterations, then of validation and test.
        """
        return self._prompts(self.sizes.num_instructions * self.sizes.num_samples)

    def _prompts(self, count: int) -> list[Prompt]:
        return list(islice(read_records(Path(self.folder) / "prompts.jsonl", Prompt), count))

    def completions(self) -> list[Completion]:
        """Return K completions of each instruction, with thought and response."""
        wanted = {prompt.prompt_id for prompt in self.prompts()}
        rows = read_records(Path(self.folder) / "completions.jsonl", Completion)
        return [row for row in rows if row.prompt_id in wanted]

    def pairs(self) -> list[Pair]:
        """Return the pairs to train on."""
        return list(islice(read_records(Path(self.folder) / "pairs.jsonl", Pair), self.sizes.num_pairs))

    def contexts(self, tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids from which a completion to each instruction is sampled, with the thought prompt."""
        form = self.config().thought
        asked = ask(form, Conventions())
        return [asked.context(tokenizer, prompt.text) for prompt in prompts]

    def config(self, *overrides: str) -> Any:
        """Return the composed config of a run on this work (`tpo.config.schema.Config`)."""
        return compose_config(self.sizes, artifacts_dir=Path(self.artifacts_dir), overrides=overrides)


def compose_config(options: Options, *, artifacts_dir: Path, overrides: Sequence[str] = ()) -> Any:
    """Return conf/ composed for one iteration on the seed model in 16 bits, with the default thought prompt."""
    from tpo.config import compose
    from tpo.config.check import check
    from tpo.config.schema import Config

    model = ["model=pretrained", f"model.name={options.model}"] if options.model else []
    config = compose.compose_config(
        Config,
        [
            *model,
            "train=qlora_dpo",
            "model.quantization=none",
            "tracking=none",
            "num_iterations=1",
            f"artifacts_dir={artifacts_dir}",
            f"prompts.num_train={max(options.num_instructions, round(SPARE * options.num_pairs))}",
            "prompts.num_validation=0",
            f"sample.num_samples={options.num_samples}",
            f"sample.temperature={options.temperature}",
            f"sample.top_p={options.top_p}",
            f"sample.max_thought_tokens={THOUGHT_TOKENS}",
            f"sample.max_response_tokens={RESPONSE_TOKENS}",
            f"engine.max_sequences={options.rows}",
            "judge=random",
            "pairs.truncated_responses=keep",
            f"train.learning_rate={LEARNING_RATE}",
            "train.warmup_ratio=0",
            f"train.batch_size={BATCH_SIZE}",
            f"train.micro_batch_size={MICRO_BATCH_SIZE}",
            "train.gradient_checkpointing=false",
            f"train.lora_rank={RANK}",
            f"train.lora_alpha={ALPHA}",
            "train.select=last",
            *overrides,
        ],
    )
    check(config)
    return config


def prepare(options: Options, folder: Path, *, artifacts_dir: Path) -> Work:
    """Make the work in `folder` and return it; what is there is kept.

    Raises:
        SystemExit: If the instructions gave too few pairs.
    """
    from tpo.pipeline import Pipeline
    from tpo.store.files import write_json
    from tpo.store.open import open_store

    folder.mkdir(parents=True, exist_ok=True)
    config = compose_config(options, artifacts_dir=artifacts_dir)
    with open_store(artifacts_dir, isolate=True) as store:
        pipeline = Pipeline(config, store)
        prompts = sorted(pipeline.prompts.rows(Prompt), key=order_of_use)
        completions = pipeline.sample(pipeline.seed_policy, 1)
        pairs = list(pipeline.pairs(completions, pipeline.judge(completions)).rows(Pair))
    model = pipeline.seed_policy.model
    work = Work(
        folder=str(folder),
        artifacts_dir=str(artifacts_dir),
        model_path=str(model.verified("model")) if model.metrics["is_embedded"] else model.metrics["name"],
        tokenizer_path=str(model.verified("tokenizer")),
        options=asdict(options),
    )
    if len(pairs) < options.num_pairs:
        sys.exit(f"error: the instructions gave {len(pairs)} pairs, not --pairs {options.num_pairs}")
    write_records(folder / "prompts.jsonl", prompts)
    write_records(folder / "completions.jsonl", completions.rows(Completion))
    write_records(folder / "pairs.jsonl", pairs)
    if not (work.adapter / "adapter_model.safetensors").exists():
        save_adapter(work)
    if not (work.classifier / "tokenizer_config.json").exists():
        save_classifier(work)
    write_json(folder / "work.json", asdict(work))
    return work


def order_of_use(prompt: Prompt) -> tuple[bool, int]:
    """Return what sorts instructions by iteration, those of validation and test last; of a split they keep theirs."""
    kind, _, number = prompt.split.partition("-")
    return kind != "train", int(number or 0)


def save_adapter(work: Work) -> None:
    """Save an adapter whose two matrices are both drawn at random."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(work.model_path, dtype=torch.float32)
    settings = LoraConfig(task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    model = get_peft_model(base, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=ADAPTER_SCALE)
    model.save_pretrained(str(work.adapter))


def save_classifier(work: Work) -> None:
    """Save a sequence classifier with the model's weights and a random head, and the tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(work.model_path, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(work.tokenizer_path)
    if model.config.pad_token_id is None:  # transformers reads a chat at its last token that is not this one
        model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(work.classifier)
    tokenizer.save_pretrained(work.classifier)


if __name__ == "__main__":
    told, target = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    prepare(Options(**told["options"]), target, artifacts_dir=Path(told["artifacts_dir"]))
