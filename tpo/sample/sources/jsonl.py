"""Instructions of a JSON-lines file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpo.config.fields import setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.prompts import PromptError, make_prompt
from tpo.store.records import Prompt, RecordError, read_json_lines


@dataclass
class JsonLinesPrompts(PromptsConfig):
    """A file, and the names of its fields."""

    kind: str = setting("jsonl")
    path: str = setting(is_file=True)
    text_field: str = setting("text")
    category_field: str = setting("category")
    split_field: str = setting("split")

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return all of them.

        Raises:
            PromptError: Naming the file and the line.
        """
        fields = {"category_field": self.category_field, "split_field": self.split_field}
        return Instructions(load_json_lines(Path(self.path), text_field=self.text_field, **fields))


def load_json_lines(path: Path, *, text_field: str, category_field: str, split_field: str) -> list[Prompt]:
    """Return the instructions of a JSON-lines file.

    A row without the category field is uncategorized, one without the split field is free to go anywhere.

    Raises:
        PromptError: Naming the file and the line, if the file is missing, a line is not an object, or an
            instruction is absent or empty.
    """
    if not path.is_file():
        raise PromptError(f"prompts.path: there is no file {path}")
    prompts = []
    try:
        for number, row in read_json_lines(path):
            where = f"{path}, line {number}"
            if text_field not in row:
                raise PromptError(f"{where}: no field {text_field!r} (prompts.text_field); it has {sorted(row)}")
            split = row.get(split_field) or ""
            if split not in ("", "train", "validation", "test"):
                raise PromptError(f"{where}: {split_field} is {split!r}; expected train, validation or test")
            category = row.get(category_field)
            prompts.append(make_prompt(row[text_field], category=category, source=path.name, split=split, where=where))
    except RecordError as error:
        raise PromptError(str(error)) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 ({error})") from error
    return prompts
