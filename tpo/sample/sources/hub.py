"""Instructions of a data set of the Hugging Face Hub, or of a folder that `datasets` can read."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import ConfigError, setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.answers import ANSWERS, make_question
from tpo.sample.prompts import PromptError, make_prompt, prompt_id
from tpo.store.records import Prompt

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
COMMIT = "[0-9a-f]{40}"


@dataclass
class HubPrompts(PromptsConfig):
    """A data set, the columns that count, and the longest instruction that is taken.

    Attributes:
        dataset: Name on the Hub, or a local folder, whose content is then part of the identity.
        config: Configuration of the data set; None where it has one only.
        split: Of the data set, not of the run.
        revision: Commit on the Hub; None takes the latest and records which that was.
        text_field: Column with the instruction, a text or a chat whose first user message it is.
        answer_field: Column with the right answer, which a program then checks; None where there is none.
        answer: What such an answer is: a "number", or a text that responses have to equal ("exact").
        category_field: Column with the category.
        max_characters: Longer instructions are left out and counted.
    """

    kind: str = setting("hub")
    dataset: str = setting(may_be_folder=True)
    config: str | None = setting(None)
    split: str = setting()
    revision: str | None = setting(None)
    text_field: str = setting()
    answer_field: str | None = setting(None)
    answer: str = setting("number", choices=ANSWERS)
    category_field: str | None = setting(None)
    max_characters: int = setting(minimum=1)

    @property
    def has_checks(self) -> bool:
        """Where rows have answers."""
        return self.answer_field is not None

    def check(self, at: str) -> None:
        """Check that a revision stands for the same data for ever, and is of the Hub."""
        if self.revision is None:
            return
        if Path(self.dataset).is_dir():
            raise ConfigError(
                f"{at}.revision={self.revision}, but {at}.dataset={self.dataset} is a folder, which has none: set "
                f"{at}.revision=null"
            )
        if not re.fullmatch(COMMIT, self.revision):
            raise ConfigError(
                f"{at}.revision={self.revision}: expected a commit (40 hex digits), since branches and tags move, or "
                "null for the latest"
            )

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return the instructions worth using, the counts of the others, and which data they are of.

        Raises:
            PromptError: If the data set cannot be read, lacks a column, or has no instruction.
        """
        data = read_data_set(self.dataset, config=self.config, split=self.split, revision=self.revision)
        columns = {"text_field": self.text_field, "answer_field": self.answer_field}
        for key, column in {**columns, "category_field": self.category_field}.items():
            if column is not None and column not in data.column_names:
                raise PromptError(
                    f"{self.dataset}: there is no column {column!r} (prompts.{key}); it has "
                    f"{', '.join(data.column_names)}"
                )
        found: list[Prompt] = []
        drops: Counter[str] = Counter()
        for number, row in enumerate(data):
            prompt = self._prompt(row, where=f"{self.dataset}, row {number}")
            if isinstance(prompt, Prompt):
                found.append(prompt)
            else:
                drops[prompt] += 1
        if not found:
            left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
            raise PromptError(
                f"{self.dataset}: no row of the split {self.split} gave an instruction ({left_out or 'it is empty'}): "
                "see prompts.text_field, answer_field, answer and max_characters"
            )
        origin = {
            "dataset": self.dataset,
            "commit": self.revision or _commit(data),
            "sha256": _digest(found),
            "is_pinned": self.revision is not None or Path(self.dataset).is_dir(),
        }
        return Instructions(
            found, {"too_long": drops.pop("too_long", 0), **dict(sorted(drops.items()))}, {"prompts": origin}
        )

    def _prompt(self, row: dict[str, Any], *, where: str) -> Prompt | str:
        """Return the instruction of a row, or why there is none."""
        text = first_user_message(row[self.text_field], where=where)
        if not text.strip():
            return "empty"
        if len(text) > self.max_characters:
            return "too_long"
        category = None if self.category_field is None else row[self.category_field]
        fields: dict[str, Any] = {"category": None if category is None else str(category), "split": "", "where": where}
        if self.answer_field is None:
            return make_prompt(text, source=self.dataset, **fields)
        question = make_question(text, row[self.answer_field], kind=self.answer)
        if question is None:
            return "no_answer"
        base_id = prompt_id(text.strip())
        return make_prompt(question.text, source=self.dataset, checks=question.checks, base_id=base_id, **fields)


def read_data_set(name: str, *, config: str | None, split: str, revision: str | None) -> "Dataset":
    """Return a split of a data set of the Hub, or of a local folder.

    Raises:
        PromptError: In one sentence, if it cannot be read: no network, a wrong name, configuration, split or file.
    """
    from datasets import Dataset, load_dataset

    try:
        data = load_dataset(name, config, split=split, revision=revision)
    # datasets, the Hub's client and what reads the files raise errors of their own, which have no class in common.
    except Exception as error:
        raise PromptError(_sentence(error, name=name, config=config, split=split, revision=revision)) from error
    assert isinstance(data, Dataset)
    return data


def _sentence(error: Exception, *, name: str, config: str | None, split: str, revision: str | None) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:  # "An error occurred" comes from one that says which
        cause = cause.__cause__
    said = str(error) if isinstance(error, OSError | ValueError) else str(cause)
    said = " ".join(said.split()).partition(" Example of usage")[0][:300].rstrip(".") or type(cause).__name__
    if isinstance(error, ValueError) and "onfig" in said:
        return f"{name}, configuration {config} (prompts.config): {said}"
    if isinstance(error, ValueError) and "split" in said:
        return f"{name}, split {split} (prompts.split): {said}"
    if Path(name).is_dir():
        return f"{name} (prompts.dataset) cannot be read: {said}"
    at = "" if revision is None else f" at {revision}"
    return (
        f"{name} (prompts.dataset) cannot be fetched from the Hub{at}: {said}. See to the name and the network, or "
        "give a local copy: a folder as prompts.dataset, or prompts=file prompts.path=<file>, whose fields "
        "prompts.text_field (text), category_field, split_field and answer_field name"
    )


def _commit(data: "Dataset") -> str | None:
    """Return the commit of the Hub that was read, which is a folder of the path of its cache; None of local data."""
    paths = (Path(file["filename"]) for file in data.cache_files)
    return next((part for path in paths for part in path.parts if re.fullmatch(COMMIT, part)), None)


def _digest(prompts: Sequence[Prompt]) -> str:
    """Return a digest of the instructions as they were read."""
    rows = [[prompt.text, prompt.category, [check.arguments for check in prompt.checks]] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def first_user_message(value: Any, *, where: str) -> str:
    """Return a text, or the first user message of a chat; empty where there is neither.

    Args:
        value: A text, None, or a list of messages with "role" and "content".
        where: Data set and row, for messages.

    Raises:
        PromptError: If it is anything else.
    """
    if isinstance(value, str) or value is None:
        return value or ""
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and {"role", "content"} <= set(item) for item in value
    ):
        raise PromptError(
            f"{where}: the instruction is {value!r:.100}; expected a text, or a chat as a list of messages with role "
            "and content (prompts.text_field)"
        )
    return next((str(message["content"] or "") for message in value if message["role"] == "user"), "")
