"""Instructions of a JSON-lines file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tpo.config.fields import setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.answers import ANSWERS, make_question
from tpo.sample.prompts import PromptError, make_prompt, prompt_id
from tpo.store.records import Prompt, RecordError, read_json_lines


@dataclass
class JsonLinesPrompts(PromptsConfig):
    """A file, and the names of its fields.

    Attributes:
        path: The file.
        text_field: With the instruction.
        category_field: With the category, where a row has one.
        split_field: With the split, where the row fixes one.
        answer_field: With the right answer, which a program then checks and every row must have; None where there is
            none.
        answer: What such an answer is: a "number", or a text that responses have to equal ("exact").
    """

    kind: str = setting("jsonl")
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
            PromptError: Naming the file and the line.
        """
        return Instructions(
            load_json_lines(
                Path(self.path),
                text_field=self.text_field,
                category_field=self.category_field,
                split_field=self.split_field,
                answer_field=self.answer_field,
                answer=self.answer,
            )
        )


def load_json_lines(
    path: Path,
    *,
    text_field: str,
    category_field: str,
    split_field: str,
    answer_field: str | None = None,
    answer: str = "number",
) -> list[Prompt]:
    """Return the instructions of a JSON-lines file.

    A row without the category field is uncategorized, one without the split field is free to go anywhere.

    Raises:
        PromptError: Naming the file and the line, if the file is missing, a line is not an object, or an
            instruction or its answer is absent, empty or of another kind.
    """
    if not path.is_file():
        raise PromptError(f"prompts.path: there is no file {path}")
    prompts = []
    try:
        for number, row in read_json_lines(path):
            where = f"{path}, line {number}"
            for key, field in (("text_field", text_field), ("answer_field", answer_field)):
                if field is not None and field not in row:
                    raise PromptError(f"{where}: no field {field!r} (prompts.{key}); it has {sorted(row)}")
            split = row.get(split_field) or ""
            if split not in ("", "train", "validation", "test"):
                raise PromptError(f"{where}: {split_field} is {split!r}; expected train, validation or test")
            prompt = make_prompt(
                row[text_field], category=row.get(category_field), source=path.name, split=split, where=where
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
    except RecordError as error:
        raise PromptError(str(error)) from error
    return prompts
