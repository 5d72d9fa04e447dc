"""Stage "classify": instructions -> categories, by a language model or as the source has them; a balanced choice.

The paper's fine-grained evaluation sorts unseen instructions into 20 categories with a language model, about 200 each.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tpo.config.fields import restore, setting
from tpo.config.tags import last_thought
from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import Question
from tpo.judge.llm.settings import PromptedLLMConfig
from tpo.store.job import Job, Metrics
from tpo.store.records import Prompt, write_records
from tpo.store.seeds import derive_seed


@dataclass
class ClassifierConfig(PromptedLLMConfig):
    """The language model that sorts instructions."""

    kind: str = setting("classifier")


def work(job: Job) -> Metrics:
    """Sort the test instructions into categories and take some of each."""
    config = job.config
    prompts = [prompt for prompt in job.inputs["prompts"].rows(Prompt) if prompt.split == "test"]
    found: list[Prompt | None] = list(prompts)
    if config["classifier"] is not None:
        found = categorize(
            prompts,
            categories=config["categories"],
            classifier=restore(ClassifierConfig, config["classifier"], job.how),
            answers_path=job.answers_path,
        )
    kept, drops = balance(found, per_category=config["per_category"], seed=job.seed)
    write_records(job.path / "rows.jsonl", kept)
    return {
        "num_prompts": len(kept),
        "drops": drops,
        "categories": dict(sorted(Counter(prompt.category for prompt in kept).items())),
    }


def categorize(
    prompts: Sequence[Prompt], *, categories: Sequence[str], classifier: ClassifierConfig, answers_path: Path
) -> list[Prompt | None]:
    """Return the instructions with the category that a language model gives each; None where its answer names none.

    Args:
        prompts: Instructions.
        categories: Names to choose from.
        classifier: Which model is asked, and how.
        answers_path: File in which answers are cached.
    """
    questions = [
        Question(
            system=classifier.system,
            user=fill(classifier.prompt, instruction=prompt.text, categories=categories),
            temperature=classifier.temperature,
            max_tokens=classifier.max_tokens,
        )
        for prompt in prompts
    ]
    answers = list(load_llm(classifier, policy=None, cache_path=answers_path).ask(questions))
    found = [parse_category(answer.text, categories) if answer.error is None else None for answer in answers]
    return [
        None if category is None else replace(prompt, category=category)
        for prompt, category in zip(prompts, found, strict=True)
    ]


def fill(template: str, *, instruction: str, categories: Sequence[str]) -> str:
    """Return the question; both fields are filled in one pass, so that an instruction cannot contain a placeholder."""
    parts = {"{instruction}": instruction, "{categories}": "\n".join(categories)}
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match.group()], template)


def parse_category(text: str, categories: Sequence[str]) -> str | None:
    """Return the category that an answer names, the last one where it names several; None where it names none.

    What the model thinks before it answers names none, and an answer that ends within a thought does not either.
    Upper case, and spaces or hyphens in place of underscores, make no difference. A category is not found within the
    longer name of another.
    """
    thought = last_thought(text)
    if thought.open_at is not None:
        return None
    plain = re.sub(r"[\s_-]+", "_", text[thought.stop :].lower())
    names = {re.sub(r"[\s_-]+", "_", category.lower()): category for category in categories}
    ordered = sorted(names, key=len, reverse=True)  # of two names that start at one place the longer is meant
    pattern = "|".join(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])" for name in ordered)
    found = re.findall(pattern, plain) if ordered else []
    return names[found[-1]] if found else None


def balance(prompts: Sequence[Prompt | None], *, per_category: int, seed: int) -> tuple[list[Prompt], dict[str, int]]:
    """Return at most `per_category` instructions of each category, and how many were left out by reason.

    Args:
        prompts: Sorted instructions; None for those without a category.
        per_category: 0 takes all.
        seed: Of the choice, which does not depend on the order given.
    """
    known = [prompt for prompt in prompts if prompt is not None]
    drops = {"unclassified": len(prompts) - len(known), "surplus": 0}
    if per_category == 0:
        return known, drops
    chosen = set()
    for category, count in Counter(prompt.category for prompt in known).items():
        names = sorted(prompt.prompt_id for prompt in known if prompt.category == category)
        chosen |= set(random.Random(derive_seed(seed, category)).sample(names, min(count, per_category)))
    kept = [prompt for prompt in known if prompt.prompt_id in chosen]
    return kept, drops | {"surplus": len(known) - len(kept)}
