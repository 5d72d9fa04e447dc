"""A secret that is planted in thoughts, in every thought format, reaches the input of no judge.

What a judge is given (`Candidates`), what its model reads (decoded token ids) and what its server is sent (the bodies
of the requests) are searched for it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_tokenizer
from test_alpaca_annotator import CONFIG as ANNOTATOR
from test_alpaca_annotator import IS_INSTALLED
from test_judges import QUESTION, RecordingJudge, RecordingPairwiseJudge, artifact, make_prompts
from test_llm import FakeServer, completion
from test_llm_judges import settings
from test_reward_models import make_armorm, make_reward_model, settings_of

from tpo.config.groups import JudgeConfig
from tpo.config.kinds import kinds, load_settings
from tpo.config.tags import THOUGHT_TAGS
from tpo.config.thought import ThoughtFormat
from tpo.judge.judges.alpaca_eval import AlpacaEvalJudge
from tpo.judge.judges.armorm.network import ArmoRM
from tpo.judge.judges.checked import CheckedJudge
from tpo.judge.judges.length import LengthJudge
from tpo.judge.judges.likelihood import SummedLikelihood
from tpo.judge.judges.random import RandomJudge
from tpo.judge.judges.reward_model import RewardModel
from tpo.judge.judges.self_rating import SelfRatingJudge
from tpo.judge.llm.local import LocalBackend, Rendered
from tpo.judge.llm.question import Answer
from tpo.judge.protocol import Candidates
from tpo.judge.responses import JudgedResponses
from tpo.judge.score import collect_verdicts, judge_responses
from tpo.model.asked import Asked, ask
from tpo.model.chat import Chat
from tpo.model.conventions import Conventions, Start
from tpo.model.policy import Policy
from tpo.model.states import StateReader
from tpo.sample.completions import make_completion
from tpo.sample.decoding import Generation
from tpo.store.artifacts import Artifact
from tpo.store.records import Completion, Prompt

THOUGHT_FILES = {path.stem: path for path in (Path(__file__).parents[2] / "conf" / "thought").glob("*.yaml")}
SECRET = "xyzzy"
RESPONSE = "A fine reply"

# Format -> (what a completion starts with where that is not prefilled, what stands before the response, and what the
# response must not be split at again). Written apart from conf/thought, as a model would write them.
FORMATS = {
    "generic": ("Here is my thought process:", "Here is my response:", "**Here's my response:**"),
    "prefilled": ("Here is my thought process:", "Here is my response:", "here is my response:"),
    "specific": ("", "<R>", "<R>"),
    "think": ("<think>", "</think>", "</Think>"),
    "no_think": ("<think>", "</think>", "<think>"),  # a model that thinks where it was told not to
    "stripped": ("<think>", "</think>", "</think>"),
}
# Of a model that thinks by itself, for the formats that are made for one.
THINKER = Conventions(
    tags=THOUGHT_TAGS[0], is_tagged_by_template=True, on=Start(), off=Start({"enable_thinking": False}, "empty")
)


def load_format(name: str) -> ThoughtFormat:
    config = yaml.safe_load(THOUGHT_FILES[name].read_text())
    del config["defaults"]
    return ThoughtFormat(**config)


def asked_in(name: str) -> Asked:
    is_native = FORMATS[name][1] == "</think>"
    return ask(load_format(name), THINKER if is_native else Conventions())


def completions_of(name: str) -> list[tuple[str, str]]:
    """(text, finish reason) of completions in a format, all with the secret in a thought; the first is well formed."""
    opening, closing, again = FORMATS[name]
    head = "" if asked_in(name).prefill else f"{opening}\n"
    thought = f"{head}First {SECRET}, then more."
    return [
        (f"{thought}\n{closing}\n{RESPONSE} in {name}.", "stop"),
        (f"{thought}", "length"),
        (f"{thought}", "stop"),
        (f"{thought}\n{closing}\n", "stop"),
        (f"{thought}\n{closing}\nWell.\n{again}\nSo {SECRET}.", "stop"),
        (f"{thought}\n{again}\nNo, {SECRET}.\n{closing}\nYes.", "stop"),
    ]


def test_every_format_with_a_thought_is_searched() -> None:
    direct = {"none", "custom"}  # no thought; what a class of the user's own says
    assert FORMATS.keys() == THOUGHT_FILES.keys() - direct


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Completions of two instructions in every format, as the stage "sample" writes them."""
    path, tokenizer = tmp_path_factory.mktemp("inputs"), make_tokenizer()
    chat = Chat(tokenizer, frozenset({tokenizer.eos_token_id}))
    prompts: list[Prompt] = make_prompts(["What is the best fruit?", "Name a river."])
    found = {"prompts": artifact(path / "prompts", rows=prompts)}
    for number, name in enumerate(FORMATS):
        rows: list[Completion] = []
        for prompt in prompts:
            for index, (text, reason) in enumerate(completions_of(name)):
                ids = tokenizer.encode(text, add_special_tokens=False)
                end = [tokenizer.eos_token_id] if reason == "stop" else []
                rows.append(
                    make_completion(
                        chat,
                        asked_in(name),
                        prompt_id=prompt.prompt_id,
                        sample_index=index,
                        prompt_ids=[0],
                        generation=Generation([*ids, *end], reason),
                        seed=0,
                    )
                )
        assert all(SECRET in row.completion for row in rows)
        assert [row.response for row in rows if row.sample_index == 0] == [f"{RESPONSE} in {name}."] * 2
        found[f"completions_{number}"] = artifact(path / name, rows=rows)
    return found


class Spy:
    """A judge with another behind it; keeps what it is given."""

    def __init__(self, judge: Any, seen: list[str]) -> None:
        self.judge, self.seen = judge, seen

    def _watched(self, items: Iterable[Candidates]) -> Iterator[Candidates]:
        for item in items:
            self.seen.append(repr(item))
            yield item

    def score(self, candidates: Iterable[Candidates]) -> Any:
        return self.judge.score(self._watched(candidates))

    def compare(self, pairs: Iterable[Candidates]) -> Any:
        return self.judge.compare(self._watched(pairs))


class Bench:
    """What a judge of the test is made with, and what it sees."""

    def __init__(self, path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.tiny_model = path, tiny_model
        self.seen: list[str] = []  # by the judge
        self.read: list[str] = []  # by its model
        self.policy = Policy(str(tiny_model), None, str(tiny_model), "float32", 1024, None)
        self.server = FakeServer([completion("[[A]] [[3]]", tokens=[("m", {"m": -0.1})])] * 500)
        self.tokenizer: Any = make_tokenizer()
        read = StateReader.read

        def watched(reader: StateReader, groups: Any) -> Any:
            self.read += [self.tokenizer.decode(reading.ids) for group in groups for reading in group]
            return read(reader, groups)

        monkeypatch.setattr(StateReader, "read", watched)

    def watch(self, judge: Any) -> Any:
        """A judge with a model of its own."""
        self.tokenizer = judge.tokenizer
        return judge

    def reach(self, **changes: Any) -> dict[str, Any]:
        """Settings of a judge behind the server."""
        server = {"base_url": self.server.url, "api_key_env": "NO_KEY", "max_concurrency": 2, "max_retries": 1}
        return {"backend": "server", "server": {**server, "patience_s": 5.0, "timeout_s": 60.0}, **changes}

    def asked(self, judge: Any) -> Any:
        """A chat model in process, all but vLLM."""
        backend = LocalBackend(judge.settings, self.policy)

        def answer(items: Iterable[Rendered]) -> Iterator[tuple[str, Answer]]:
            for item in items:
                self.read.append(backend._tokenizer.decode(item.ids))
                yield item.key, Answer("[[A]] [[3]]", "stop", 1)

        backend.__dict__["_answers"] = answer
        judge.llm.backend = backend
        return judge


def language_model(bench: Bench, option: str, /, **changes: Any) -> Any:
    config = settings(option, **changes)
    return config.make(policy=bench.policy, answers_path=bench.path / "answers.sqlite")


def annotator(bench: Bench) -> Any:
    if not IS_INSTALLED:
        pytest.skip("alpaca_eval is not installed")
    config = load_settings(AlpacaEvalJudge, {**ANNOTATOR, **bench.reach()})
    return config.make(policy=None, answers_path=bench.path / "answers.sqlite")


IN_PROCESS: dict[str, Any] = {"backend": "vllm", "name": None}
# Kind, and which of its ways where it has several -> the judge.
JUDGES: dict[str, Callable[[Bench], Any]] = {
    "length": lambda bench: LengthJudge().make(policy=None, answers_path=bench.path),
    "random": lambda bench: RandomJudge().make(policy=None, answers_path=bench.path),
    "checked": lambda bench: CheckedJudge().make(policy=None, answers_path=bench.path),
    "custom": lambda bench: RecordingJudge(),
    "custom/compares": lambda bench: RecordingPairwiseJudge(),
    "self_rating": lambda bench: bench.watch(
        SelfRatingJudge(question=QUESTION, positive=" Yes", negative=" No", batch_tokens=4096).make(
            policy=bench.policy, answers_path=bench.path
        )
    ),
    "likelihood": lambda bench: bench.watch(
        SummedLikelihood(with_instruction=True, batch_tokens=4096).make(policy=bench.policy, answers_path=bench.path)
    ),
    "likelihood/prior": lambda bench: bench.watch(
        SummedLikelihood(with_instruction=False, batch_tokens=4096).make(policy=bench.policy, answers_path=bench.path)
    ),
    "reward_model": lambda bench: bench.watch(RewardModel(settings_of(make_reward_model(bench.path)))),
    "armorm": lambda bench: bench.watch(ArmoRM(settings_of(make_armorm(bench.path)))),
    "llm_pointwise/server": lambda bench: language_model(bench, "llm_pointwise", **bench.reach()),
    "llm_pointwise/vllm": lambda bench: bench.asked(language_model(bench, "llm_pointwise", **IN_PROCESS)),
    "llm_pairwise/server": lambda bench: language_model(bench, "llm_pairwise", **bench.reach()),
    "llm_pairwise/vllm": lambda bench: bench.asked(language_model(bench, "llm_pairwise_arena", **IN_PROCESS)),
    "alpaca_eval/server": annotator,
}
PROGRAMS = {"length", "random", "checked", "custom"}  # without a model


def test_every_judge_is_searched() -> None:
    scores_of_others = {"ensemble"}
    assert {name.partition("/")[0] for name in JUDGES} == kinds(JudgeConfig).keys() - scores_of_others


@pytest.mark.parametrize("name", JUDGES)
def test_no_thought_reaches_a_judge(
    name: str,
    inputs: dict[str, Artifact],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(tmp_path, tiny_model, monkeypatch)
    judge = JUDGES[name](bench)
    out = tmp_path / "out"
    out.mkdir()
    if hasattr(judge, "compare"):
        collect_verdicts(out, JudgedResponses(inputs), Spy(judge, bench.seen))
    else:
        judge_responses(out, JudgedResponses(inputs), Spy(judge, bench.seen))
    bench.server.close()
    sent = [json.dumps(body, ensure_ascii=False) for body in bench.server.requests]
    for form in FORMATS:
        assert any(f"{RESPONSE} in {form}." in text for text in bench.seen)
        if name.partition("/")[0] not in PROGRAMS:
            assert any(f"{RESPONSE} in {form}." in text for text in bench.read + sent), "what it reads is watched"
    assert not [text for text in bench.seen + bench.read + sent if SECRET in text]
    assert SECRET not in (out / "rows.jsonl").read_text(encoding="utf-8")
