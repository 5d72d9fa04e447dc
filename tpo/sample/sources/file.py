"""Instructions of a file: JSON lines, JSON, CSV or parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tpo.config.fields import setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.answers import ANSWERS, make_question
from tpo.sample.prompts import PromptError, make_prompt, prompt_id
from tpo.sample.sources.hub import first_user_message
from tpo.sample.tables import read_table
from tpo.store.records import Prompt


@dataclass
class FilePrompts(PromptsConfig):
    """A file, and the names of its fields.

    Attributes:
        path: The file; its ending says what it is (`tpo.sample.tables`).
        text_field: With the instruction, a text or a chat whose first user message it is.
        category_field: With the category, where a row has one.
        split_field: With the split, where the row fixes one.
        answer_field: With the right answer, which a program then checks and every row must have; None where there is
            none.
        answer: What such an answer is: a "number", or a text that responses have to equal ("exact").
    """

    kind: str = setting("file")
    path: str = setting(is_file=True)
    text_field: str = setting("text")
    category_field: str = setting("category")
    split_field: str = setting("split")
    answer_field: str | None = setting(None)
    answer: str = setting("number", choices=ANSWERS)

    @property
    def has_checks(self) -> bool:
        """Where rows have answers."""
        return self.answer_field is not None

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return all of them.

        Raises:
            PromptError: Naming the file and the row.
        """
        return Instructions(
            load_file(
                Path(self.path),
                text_field=self.text_field,
                category_field=self.category_field,
                split_field=self.split_field,
                answer_field=self.answer_field,
                answer=self.answer,
            )
        )


def load_file(
    path: Path,
    *,
    text_field: str,
    category_field: str,
    split_field: str,
    answer_field: str | None = None,
    answer: str = "number",
) -> list[Prompt]:
    """Return the instructions of a file.

    A row without the category field is uncategorized, one without the split field is free to go anywhere.

    Raises:
        PromptError: Naming the file and the row, if the file is missing or damaged, or an instruction or its answer is
            absent, empty or of another kind.
    """
    prompts = []
    for where, row in read_table(path):
        for key, field in (("text_field", text_field), ("answer_field", answer_field)):
            if field is not None and field not in row:
                raise PromptError(f"{where}: no field {field!r} (prompts.{key}); it has {sorted(row)}")
        split = row.get(split_field) or ""
        if split not in ("", "train", "validation", "test"):
            raise PromptError(f"{where}: {split_field} is {split!r}; expected train, validation or test")
        text = row[text_field]
        prompt = make_prompt(
            first_user_message(text, where=where) if isinstance(text, list) else text,
            category=row.get(category_field),
            source=path.name,
            split=split,
            where=where,
        )
        if answer_field is not None:
            question = make_question(prompt.text, row[answer_field], kind=answer)
            if question is None:
                raise PromptError(
                    f"{where}: {answer_field} is {row[answer_field]!r:.100}; expected "
                    + ("a number, or a text that ends with #### and one" if answer == "number" else "a text")
                    + f" (prompts.answer={answer})"
                )
            prompt = replace(
                prompt, prompt_id=prompt_id(question.text), text=question.text, checks=tuple(question.checks)
            )
        prompts.append(prompt)
    return prompts
