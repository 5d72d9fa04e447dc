"""Puzzles and sums of reasoning-gym, whose answers a program checks, in as many different instances as are needed.

Rows are generated once and stored with all that their checks need. Test, validation and training draw from seeds of
their own, and a question that came up before is left out, so none of the test is trained on.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from tpo.checks import CheckError, require_checks
from tpo.checks.families.reasoning_gym import TASKS, load_package, make_check, require_package
from tpo.config.fields import ConfigError, near, setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.prompts import PromptError, by_weight, in_turn, make_prompt, prompt_id
from tpo.store.records import Prompt
from tpo.store.seeds import derive_seed

NUM_TRIES = 1000  # to draw a question that has not come up before
SEEDS = 2**28  # of a task in a split: row i of a task with seed s is drawn with s + i
OURS = ("seed", "size")  # settings of a task that a run's own seed and sizes decide


@dataclass
class ReasoningGymPrompts(PromptsConfig):
    """Which tasks, how hard, and how a response is asked to end.

    Attributes:
        tasks: Task to how often it comes up, in every split; 0 leaves it out.
        unseen_tasks: Tasks that come up in the test only.
        num_each_unseen: Test instructions of each of them, beside the `num_test` of the tasks of training.
        settings: Task to what differs from reasoning-gym's own settings, such as a number of digits.
        request: Added to each question, on a line of its own; None for nothing.
        max_iterations: How many iterations there are fresh instructions for.
    """

    kind: str = setting("reasoning_gym")
    tasks: dict[str, int] = setting({}, minimum=0)
    unseen_tasks: list[str] = setting([])
    num_each_unseen: int = setting(20, minimum=1)
    settings: dict[str, Any] = setting({})
    request: str | None = setting(None)
    max_iterations: int = setting(8, minimum=1)

    @property
    def has_checks(self) -> bool:
        """All of them have."""
        return True

    def check(self, at: str) -> None:
        """Check that the tasks are among those that may be used, and that the package is there."""
        for key, names in (("tasks", self.tasks), ("unseen_tasks", self.unseen_tasks), ("settings", self.settings)):
            for name in names:
                if name not in TASKS:
                    raise ConfigError(
                        f"{at}.{key}: {name} is not among the tasks whose scorers were verified, which are "
                        f"{', '.join(TASKS)}{near(name, TASKS)}"
                    )
        if not any(self.tasks.values()):
            raise ConfigError(f"{at}.tasks: no task has a weight above 0: give one, such as {at}.tasks.chain_sum=1")
        if both := sorted(name for name in self.unseen_tasks if self.tasks.get(name)):
            raise ConfigError(f"{at}.unseen_tasks: {', '.join(both)} also stands in {at}.tasks, so it is seen")
        for name, value in self.settings.items():
            if not isinstance(value, Mapping) or set(OURS) & value.keys():
                raise ConfigError(
                    f"{at}.settings.{name}={value}: expected settings by name, without {' and '.join(OURS)}, which the "
                    "run's own decide"
                )
        try:
            require_package()
        except CheckError as error:
            raise ConfigError(f"{at}={error}") from error

    def deal(self, *, seed: int) -> tuple[list[Prompt], Instructions]:
        """Return the instructions of a run in their splits, and all of them with how many were left out.

        Raises:
            PromptError: If a task has not enough different questions, or does not take its settings.
            CheckError: If the package is missing, or its scorer does not know a row's answer.
        """
        asked: set[str] = set()
        drops = Counter(repeated=0)
        dealt: list[Prompt] = []
        weights = {name: weight for name, weight in self.tasks.items() if weight}
        for place, (split, count, tasks) in enumerate(
            (
                ("test", self.num_test, weights),
                ("test", self.num_each_unseen * len(self.unseen_tasks), dict.fromkeys(self.unseen_tasks, 1)),
                ("validation", self.num_validation, weights),
                ("train", self.num_train * self.max_iterations, weights),
            )
        ):
            rows = {name: self._rows(name, place=place, seed=derive_seed(seed, name)) for name in tasks}
            turns = in_turn(by_weight(tasks), random.Random(derive_seed(seed, split)))
            for number in range(count):
                name = next(turns)
                row = self._fresh(name, rows[name], asked, drops)
                part = f"train-{number // self.num_train + 1}" if split == "train" else split
                dealt.append(self._prompt(name, row, split=part))
        require_checks(check for prompt in dealt for check in prompt.checks)
        return dealt, Instructions(dealt, dict(drops))

    def _rows(self, task: str, *, place: int, seed: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of a task in the split at this place, which share no seed with those of another split."""
        gym = load_package()
        given = self.settings.get(task, {})
        known = [field.name for field in fields(gym.factory.DATASETS[task][1]) if field.name not in OURS]
        for name in given:
            if name not in known:
                raise PromptError(
                    f"prompts.settings.{task}: there is no {name}, only {', '.join(known)}{near(name, known)}"
                )
        try:
            data = gym.create_dataset(task, seed=seed % SEEDS + place * SEEDS, size=SEEDS, **given)
            for index in range(SEEDS):
                yield data[index]
        except Exception as error:  # of the task's own rules, or what it makes of a wrong type
            raise PromptError(f"prompts.settings.{task}={given}: reasoning-gym refuses them: {error!r}") from error

    def _fresh(self, task: str, rows: Iterator[dict[str, Any]], asked: set[str], drops: Counter[str]) -> dict[str, Any]:
        """Return a row whose question has not been asked before, and note that it is."""
        for _ in range(NUM_TRIES):
            row = next(rows)
            question = " ".join(row["question"].split())
            if question not in asked:
                asked.add(question)
                return row
            drops["repeated"] += 1
        raise PromptError(
            f"prompts.tasks.{task}: of the last {NUM_TRIES} questions none was new, so there are too few different "
            f"ones: widen prompts.settings.{task}, or lower the task's weight, prompts.num_train or num_test"
        )

    def _prompt(self, task: str, row: Mapping[str, Any], *, split: str) -> Prompt:
        question = row["question"].strip()
        return make_prompt(
            question if self.request is None else f"{question}\n{self.request}",
            category=task,
            source=self.kind,
            split=split,
            where=f"reasoning-gym, {task}",
            checks=[make_check(task, row)],
            base_id=prompt_id(question),
        )
