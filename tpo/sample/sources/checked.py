"""Instructions with requests about form that a program checks: base instructions, each joined with constraints.

Base instructions come from other sources and are dealt to training, validation and test once, so that no base
instruction of the test is ever trained on; each is then used again and again, with other constraints, in seeded order.
The test has types of constraints that training has not, beside its others.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from tpo.checks import constraints, require_checks
from tpo.checks.families import floor
from tpo.config.fields import ConfigError, near, setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.config.kinds import load_settings
from tpo.sample.prompts import PromptError, by_weight, deal, in_turn, make_prompt, same_text
from tpo.store.records import Check, Prompt
from tpo.store.seeds import derive_seed

NUM_TRIES = 100  # to draw a request that a base instruction has not had yet


@dataclass
class CheckedPrompts(PromptsConfig):
    """Where base instructions come from, and what they are joined with.

    Attributes:
        base: Sources by name; the sizes of each are those of its base instructions.
        types: Type of constraint to how often it comes up in training and validation; in the test all come up alike.
        unseen_types: Types that come up in the test only.
        num_each_unseen: Test instructions of each of them, beside the `num_test` of the types of training.
        num_checks: Constraints of each instruction, fewer where the types left contradict those that it has.
        words: Least and greatest number of words that requests about length name.
        min_words: Different words that a response needs to count as one, which no instruction asks for; 0: any does.
        max_iterations: How many iterations there are fresh instructions for.
    """

    kind: str = setting("checked")
    base: dict[str, Any] = setting({}, of=PromptsConfig)
    types: dict[str, int] = setting({}, minimum=1)
    unseen_types: list[str] = setting([])
    num_each_unseen: int = setting(20, minimum=1)
    num_checks: int = setting(1, minimum=1)
    words: list[int] = setting([20, 60], minimum=1)
    min_words: int = setting(10, minimum=0)
    max_iterations: int = setting(8, minimum=1)

    @property
    def has_checks(self) -> bool:
        """All of them have."""
        return True

    def check(self, at: str) -> None:
        """Check that the types exist, and that the numbers make sense together."""
        if not self.base:
            raise ConfigError(f"{at}.base has no source: choose one, such as +prompts@{at}.base.mine=jsonl")
        for name, source in self.base.items():
            if isinstance(source, PromptsConfig) and (source.are_generated or source.has_checks):
                raise ConfigError(f"{at}.base.{name}: instructions of kind {source.kind} cannot be a base")
        known = constraints()
        for key, names in (("types", list(self.types)), ("unseen_types", self.unseen_types)):
            for name in names:
                if name not in known:
                    raise ConfigError(f"{at}.{key}: there is no type {name}{near(name, known)}")
        if not self.types:
            raise ConfigError(f"{at}.types is empty: name types of constraints, such as {at}.types.no_comma=1")
        if both := sorted(set(self.types) & set(self.unseen_types)):
            raise ConfigError(f"{at}.unseen_types: {', '.join(both)} also stands in {at}.types, so it is seen")
        if len(self.words) != 2 or self.words[0] + 2 > self.words[1]:
            raise ConfigError(f"{at}.words={self.words}: expected two numbers, the second at least 2 above the first")
        if "fewer_words" in {*self.types, *self.unseen_types} and self.min_words >= self.words[0] - 1:
            raise ConfigError(
                f"{at}.min_words={self.min_words} different words do not fit into fewer than {at}.words[0]="
                f"{self.words[0]}: lower the one or raise the other"
            )
        if self.num_checks > len(self.types):
            raise ConfigError(f"{at}.num_checks={self.num_checks}, but {at}.types has {len(self.types)} types")

    def deal(self, *, seed: int) -> tuple[list[Prompt], Instructions]:
        """Return instructions with constraints in the splits of a run, and the base instructions that were found.

        Raises:
            PromptError: If the sources have not enough base instructions, or these not enough constraints.
            CheckError: If a constraint cannot be checked here.
        """
        bases: dict[str, list[Prompt]] = defaultdict(list)
        found: list[Prompt] = []
        drops: Counter[str] = Counter()
        origins: dict[str, dict[str, Any]] = {}
        for name, source in self.base.items():
            at = f"prompts.base.{name}"
            try:
                rows, loaded = deal(load_settings(PromptsConfig, source), seed=seed)
            except PromptError as error:
                raise PromptError(f"{at}: {error}") from error
            found += loaded.prompts
            drops.update(loaded.drops)
            origins |= {key.replace("prompts", at, 1): origin for key, origin in loaded.origins.items()}
            for row in rows:  # of whichever iteration a source would give it to
                bases[row.split.partition("-")[0]].append(row)
        held_out: set[str] = set()  # by any source
        for split in ("test", "validation", "train"):
            bases[split] = [row for row in bases[split] if same_text(row.text) not in held_out]
            held_out |= {same_text(row.text) for row in bases[split]}
        num_train = self.num_train * self.max_iterations
        dealt: list[Prompt] = []
        num_unseen = self.num_each_unseen * len(self.unseen_types)
        for key, split, count, types in (
            ("num_test", "test", self.num_test, dict.fromkeys(self.types, 1)),
            ("num_each_unseen", "test", num_unseen, dict.fromkeys(self.unseen_types, 1)),
            ("num_validation", "validation", self.num_validation, self.types),
            ("num_train", "train", num_train, self.types),
        ):
            written = self._write(bases[split], key=key, count=count, types=types, split=split, seed=seed)
            dealt += [
                replace(row, split=f"train-{place // self.num_train + 1}") if split == "train" else row
                for place, row in enumerate(written)
            ]
        require_checks({check.name: check for row in dealt for check in row.checks}.values())
        return dealt, Instructions(found, dict(drops), origins)

    def _write(
        self, bases: Sequence[Prompt], *, key: str, count: int, types: Mapping[str, int], split: str, seed: int
    ) -> list[Prompt]:
        """Return `count` different instructions, as `key` asks for, bases and types in turn."""
        if not count:
            return []
        if not bases:
            raise PromptError(f"prompts.base has no instructions for the {split} split: raise num_{split} of a source")
        generator = random.Random(derive_seed(seed, key))
        texts, kinds = in_turn(bases, generator), in_turn(by_weight(types), generator)
        floors = [Check(floor.NAME, {"count": self.min_words})] if self.min_words else []
        found: dict[str, Prompt] = {}
        num_tries = 0
        base = next(texts)
        while len(found) < count:
            kind = next(kinds)
            requests, checks = self._requests(kind, types, generator)
            row = make_prompt(
                "\n".join([base.text, *requests]),
                category=kind,
                source=base.source,
                split=split,
                where=f"{base.source}, {base.text[:40]!r}",
                checks=[*checks, *floors],
                base_id=base.base_id,
            )
            num_tries += 1
            if row.prompt_id not in found:
                found[row.prompt_id], base, num_tries = row, next(texts), 0
            elif num_tries == NUM_TRIES:
                raise PromptError(
                    f"the {split} split needs {count} different instructions, but {len(bases)} base instructions and "
                    f"{len(types)} types gave only {len(found)}: use more of either, or lower prompts.{key}"
                )
        return list(found.values())

    def _requests(self, kind: str, types: Mapping[str, int], generator: random.Random) -> tuple[list[str], list[Check]]:
        """Return the requests of one instruction and their checks: one of this type, and others that go with it."""
        known, least, most = constraints(), *self.words
        chosen = [kind]
        others = [name for name in types if name != kind]
        generator.shuffle(others)
        for name in others[: len(others) if self.num_checks > 1 else 0]:
            if len(chosen) < self.num_checks and all(_goes_with(name, other) for other in chosen):
                chosen.append(name)
        written = [known[name].write(generator, words=(least, most)) for name in chosen]
        return [text for text, _ in written], [check for _, check in written]


def _goes_with(first: str, second: str) -> bool:
    from tpo.checks.families.ifeval import contradict

    known = constraints()
    return not contradict(known[first].check, known[second].check)
