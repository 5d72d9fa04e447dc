"""Classes and YAML files of the user's own: composed, refused by name, judged with, part of the identity."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import own_classes
import pytest
from commands import run_command
from own_classes import LastLine, Sums
from test_run import tiny_overrides

import tpo.run
from tpo.config.build import to_config
from tpo.config.check import check, check_entry, check_evaluate
from tpo.config.compose import REPOSITORY, check_choices, check_config_dir, compose_config
from tpo.config.custom import load_class, source_digest
from tpo.config.fields import ConfigError, how, identity
from tpo.config.kinds import load_settings
from tpo.config.schema import AgreementConfig, Config, EvaluateConfig
from tpo.config.thought import ThoughtFormat
from tpo.evaluate.__main__ import run_evaluation
from tpo.evaluate.agreement.__main__ import measure
from tpo.evaluate.measure import EvaluationError
from tpo.judge.judges.custom import CheckedJudge, CheckedPairwiseJudge
from tpo.judge.protocol import Candidates, Judgement, PairwiseJudgeConfig, PointwiseJudgeConfig
from tpo.pairs.build import Judged, pair_or_reason
from tpo.pairs.rule import PairsRule
from tpo.sample.prompts import PromptError
from tpo.sample.sources.custom import CustomPrompts
from tpo.store.errors import TpoError
from tpo.store.records import Completion, Pair, Score

PLAIN = ["experiment=smoke", "model=pretrained", "model.name=x", "model.quantization=none", "judge=length"]
VOWELS = ["judge=custom", "judge._target_=own_classes.Vowels", "+judge.threshold=0.25"]
SOURCE = Path(own_classes.__file__)


def composed(*overrides: str, **more: Any) -> Config:
    own = [item for item in PLAIN if not any(item.split("=")[0] == other.split("=")[0] for other in overrides)]
    return compose_config(Config, [*own, *overrides], **more)


def test_further_keys_are_arguments_and_the_file_is_part_of_the_identity() -> None:
    config = composed(*VOWELS)
    check(config)
    settings = load_settings(PointwiseJudgeConfig, json.loads(json.dumps(identity(config.judge))), how(config.judge))
    assert settings == config.judge
    assert identity(settings)["arguments"] == {"threshold": 0.25}
    judge = settings.make(policy=None, answers_path=Path("none"))
    assert [found.value for found in list(judge.score([Candidates("q", ("aabb", "bbbb"))]))[0]] == [0.5, 0.25]
    assert (settings.uses_seed_model, settings.gives_verdicts) == (False, False)


def test_a_class_that_compares_gives_verdicts() -> None:
    judge = composed("judge=custom", "judge._target_=own_classes.Longer").judge
    assert (judge.gives_verdicts, judge.is_comparative) == (True, True)
    settings = load_settings(PairwiseJudgeConfig, identity(judge))
    [found] = settings.make(policy=None, answers_path=Path("none")).compare([Candidates("q", ("long", "a"))])
    assert (found.value, settings.orders) == (1.0, "both")


def test_a_judge_whose_constructor_names_it_gets_the_seed_model() -> None:
    assert composed("judge=custom", "judge._target_=own_classes.ReadsTheModel").judge.uses_seed_model


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["judge=custom"], "judge._target_: no value"),
        (["judge=custom", "judge._target_=Vowels"], "expected a module and a class"),
        (["judge=custom", "judge._target_=nowhere.Vowels"], "there is no module nowhere where the command is started"),
        (["judge=custom", "judge._target_=own_classes.Vowel"], "own_classes has no class Vowel; did you mean Vowels?"),
        (["judge=custom", "judge._target_=own_classes.NOT_A_CLASS"], "own_classes has no class NOT_A_CLASS"),
        (["judge=custom", "judge._target_=own_classes.Echo"], "Echo has not all that a judge needs: score, or compare"),
        (["judge=custom", "judge._target_=own_classes.Vowels"], "judge.threshold: Vowels has to have it"),
        ([*VOWELS, "+judge.leters=x"], "judge.leters: .* no such argument; did you mean judge.letters?"),
        (["judge=custom", "judge._target_=own_classes.ReadsTheModel", "+judge.policy=1"], "judge.policy: .* gets it"),
        (["judge=custom", "judge._target_=builtins.dict"], "expected a class that stands in a Python file"),
        (["engine=custom", "engine._target_=own_classes.Vowels"], "needs: stream and close and uses_seeds"),
        (["engine=custom", "engine._target_=own_classes.Echo", "+engine.cuont=2"], "did you mean engine.count?"),
        (["prompts=custom", "prompts._target_=own_classes.Vowels"], "Vowels has not all that a prompts needs: load"),
        (["pairs=custom", "pairs._target_=own_classes.Vowels"], "Vowels has not all that a pairs needs: choose"),
        (["pairs=custom", "pairs._target_=own_classes.Shortest", "+pairs.god=1"], "did you mean pairs.good?"),
        (["eval=custom", "eval._target_=own_classes.Vowels"], "Vowels has not all that a eval needs: measure"),
        (["eval=custom", "eval._target_=own_classes.Shouting", "+eval.leters=x"], "did you mean eval.letters?"),
        (["eval=custom", "eval._target_=own_classes.Shouting"], "eval=custom is for python -m tpo.evaluate"),
        (["thought=custom", "thought._target_=own_classes.Vowels"], "derived from tpo.config.thought.ThoughtFormat"),
        (["thought=custom", "thought._target_=own_classes.LastLine", "+thought.lines=2"], "thought.lines: there is no"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace("?", r"\?")):
        check(composed(*overrides))


def test_a_module_that_fails_is_named_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_judge.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="broken_judge cannot be imported: ZeroDivisionError"):
        composed("judge=custom", "judge._target_=broken_judge.Mine")


def test_an_edited_class_is_another_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "edited_judge.py"
    module.write_text(SOURCE.read_text())
    before = identity(composed("judge=custom", "judge._target_=edited_judge.Longer").judge)
    module.write_text(SOURCE.read_text() + "\n# edited\n")
    after = identity(composed("judge=custom", "judge._target_=edited_judge.Longer").judge)
    assert before.keys() == after.keys()
    assert {key for key in before if before[key] != after[key]} == {"source_sha256"}
    with pytest.raises(TpoError, match=r"edited_judge\.Longer was edited while the run went on"):
        load_settings(PairwiseJudgeConfig, before).make(policy=None, answers_path=Path("none"))


def test_a_source_of_one_s_own_returns_rows_or_is_refused() -> None:
    prompts = composed("prompts=custom", "prompts._target_=own_classes.Sums", "+prompts.upto=40").prompts
    assert [row.text for row in prompts.load().prompts] == [row.text for row in Sums(40).load()]
    wrong = CustomPrompts(_target_="own_classes.NoRows", source_sha256=prompts.source_sha256)  # type: ignore[attr-defined]
    with pytest.raises(PromptError, match=r"NoRows: load\(\) returned 'What is 1 \+ 1\?'; expected rows"):
        wrong.load()


def rule_of(*overrides: str) -> Any:
    config = composed("pairs=custom", *overrides)
    check(config)
    return load_settings(PairsRule, json.loads(json.dumps(identity(config.pairs))))


def judged(*samples: tuple[float, int]) -> list[Judged]:
    """Completions of one instruction, by score and length."""
    return [
        Judged(
            Completion("p", index, [1], [2, 3], 0, 0, 0, False, "", None, f"r{index}", None, "stop", 0, length, 0),
            Score("p", index, score, None, None, 0),
        )
        for index, (score, length) in enumerate(samples)
    ]


def test_a_rule_of_one_s_own_chooses_within_the_rules_of_all() -> None:
    rule = rule_of("pairs._target_=own_classes.Shortest", "+pairs.good=0.5", "pairs.length_penalty=0")
    pair = pair_or_reason(judged((3, 30), (3, 10), (0, 20)), rule)
    assert isinstance(pair, Pair) and (pair.chosen_index, pair.rejected_index) == (1, 2)
    assert pair_or_reason(judged((3, 30), (3, 10)), rule) == "tied"
    strict = rule_of("pairs._target_=own_classes.Shortest", "+pairs.good=9")
    assert pair_or_reason(judged((3, 30), (0, 10)), strict) == "none_good"
    lenient = rule_of("pairs._target_=own_classes.Shortest", "+pairs.good=-9", "pairs.length_penalty=0")
    assert pair_or_reason(judged((3, 30), (0, 10), (0, 20)), lenient) == "tied", "it chose the worst twice"
    length = rule_of("pairs._target_=own_classes.Shortest", "+pairs.good=-9", "pairs.length_penalty=1")
    assert pair_or_reason(judged((2, 30), (1, 31), (1.5, 1), (9, 5)), length) != "tied"


@pytest.mark.parametrize(
    "returned",
    [None, (0, 2), (-1, 0), (0,), (0, 1.0), [0, 1], (True, False), "No pair", ""],
    ids=str,
)
def test_what_a_rule_of_one_s_own_may_not_return(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_classes.Shortest, "choose", lambda self, candidates: returned)
    rule = rule_of("pairs._target_=own_classes.Shortest")
    with pytest.raises(TpoError, match=r"pairs._target_=own_classes.Shortest: choose\(\) returned .*among the 2 cand"):
        pair_or_reason(judged((1, 2), (2, 2)), rule)


def test_a_rule_that_fails_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_classes.Shortest, "choose", lambda self, candidates: 1 / 0)
    with pytest.raises(TpoError, match=r"own_classes.Shortest failed: ZeroDivisionError: .*test_custom.py, line \d+"):
        pair_or_reason(judged((1, 2), (2, 2)), rule_of("pairs._target_=own_classes.Shortest"))


def test_a_thought_format_of_one_s_own_splits_its_own_way() -> None:
    form = composed("thought=custom", "thought._target_=own_classes.LastLine").thought
    again = load_settings(ThoughtFormat, identity(form))
    assert type(again) is LastLine and again == form
    assert again.split("a thought\nan answer", is_prefilled=False, finish_reason="stop")[:3] == (
        "a thought",
        "an answer",
        None,
    )
    generic = composed("thought=generic").thought
    assert set(identity(generic)) == {
        *("prompt", "thought_delimiter", "response_delimiter", "enforce", "thinking", "template_arguments")
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("kind: likelihood\nnormalization: sum\nsubtract_prior: false\nbatch_tokens: 8\n", None),
        ("defaults:\n  - likelihood\nnormalization: sum\n", None),
        ("_target_: own_classes.Vowels\nthreshold: 0.5\n", None),
        ("kind: likelihood\nnormalisation: sum\n", "judge.normalisation: .*; did you mean judge.normalization?"),
        ("kind: likelihod\n", "judge.kind=likelihod: there is no such kind; did you mean likelihood?"),
        ("normalization: sum\n", "judge.kind: no value"),
        ("kind: likelihood\nnormalization: sum\nsubtract_prior: 3.5\nbatch_tokens: 8\n", "judge.subtract_prior"),
        ("kind: likelihood\nnormalization: sum\nbatch_tokens: 8\n", "judge.subtract_prior: no value"),
        ("_target_: own_classes.Vowels\nthresold: 0.5\n", "did you mean judge.threshold?"),
    ],
)
def test_a_file_of_one_s_own_needs_no_schema_and_obeys_the_same_rules(
    text: str, key: str | None, tmp_path: Path
) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "mine.yaml").write_text(text)
    if key is None:
        check(composed("judge=mine", config_dir=tmp_path))
        return
    with pytest.raises(ConfigError, match=key.replace("?", r"\?")):
        check(composed("judge=mine", config_dir=tmp_path))


def test_members_of_an_ensemble_may_be_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "vowels.yaml").write_text("_target_: own_classes.Vowels\nthreshold: 0.5\n")
    (tmp_path / "judge" / "both.yaml").write_text(
        "defaults:\n  - schema/ensemble@_here_\n  - length@members.length\n  - vowels@members.vowels\n"
        "weights: {length: 1.0, vowels: 2.0}\n"
    )
    config = composed("judge=both", config_dir=tmp_path)
    check(config)
    assert identity(config.judge)["members"]["vowels"]["arguments"] == {"threshold": 0.5}


# --- a run with them -------------------------------------------------------------------------------------------------


def test_a_run_with_classes_of_one_s_own(tiny_model: Path, tmp_path: Path) -> None:
    groups = ("judge", "prompts", "engine", "thought")
    own = [item for item in tiny_overrides(tiny_model, tmp_path) if item.split("=")[0].split(".")[0] not in groups]
    config = compose_config(
        Config,
        [
            *own,
            *VOWELS,
            "prompts=custom",
            "prompts._target_=own_classes.Sums",
            "+prompts.upto=30",
            "prompts.num_train=4",
            "prompts.num_validation=2",
            "prompts.num_test=4",
            "engine=custom",
            "engine._target_=own_classes.Echo",
            "thought=custom",
            "thought._target_=own_classes.LastLine",
            "num_iterations=0",
        ],
    )
    check(config)
    path = tpo.run.run_tpo(config, experiment="own")
    summary = json.loads((path / "summary.json").read_text())
    assert summary["judge"] == "own_classes.Vowels"
    assert json.loads((path / "config.json").read_text()) == json.loads(json.dumps(asdict(config)))
    judged = [stage for stage in summary["stages"] if stage["stage"] == "judge"]
    assert judged
    manifest = json.loads((tmp_path / "artifacts" / judged[0]["artifact_id"] / "manifest.json").read_text())
    assert manifest["config"]["judge"]["_target_"] == "own_classes.Vowels"
    prompts = next(stage for stage in summary["stages"] if stage["stage"] == "prompts")
    rows = (tmp_path / "artifacts" / prompts["artifact_id"] / "rows.jsonl").read_text().splitlines()
    assert all(json.loads(row)["text"].startswith("What is ") for row in rows)


def test_an_evaluation_of_one_s_own(tiny_model: Path, tmp_path: Path) -> None:
    left_out = ("train.", "pairs.", "num_iterations")
    shared = [item for item in tiny_overrides(tiny_model, tmp_path) if not item.startswith(left_out)]

    def evaluate(name: str) -> dict[str, Any]:
        own = ["eval=custom", f"eval._target_=own_classes.{name}"]
        config = compose_config(EvaluateConfig, [*shared, "policy=seed", *own])
        check_evaluate(config)
        summary: dict[str, Any] = json.loads((run_evaluation(config) / "summary.json").read_text())
        return summary

    summary = evaluate("Shouting")
    assert (summary["evaluation"], summary["num_loud"]) == ("custom", 0)
    assert summary["num_answers"] > 0
    with pytest.raises(EvaluationError, match=r"NoJson: measure\(\) returned what JSON has no form for"):
        evaluate("NoJson")


def test_agreement_measures_a_judge_of_one_s_own(tmp_path: Path) -> None:
    row = {"instruction": "Q", "response_a": "aaa", "response_b": "bbb", "preference": 1.0}
    (tmp_path / "labels.jsonl").write_text(json.dumps(row) + "\n")
    places = [f"artifacts_dir={tmp_path}/artifacts", f"runs_dir={tmp_path}/runs", f"data={tmp_path}/labels.jsonl"]
    config = compose_config(AgreementConfig, [*VOWELS, *places])
    check_entry(config)
    found = json.loads((measure(config, name="vowels") / "vowels.json").read_text())
    assert found["slices"]["all"]["rate"] == 1.0


ENTRIES = {
    "tpo.run": ["experiment=smoke", "num_iterations=0", "sample.num_samples=1"],
    "tpo.evaluate": ["policy=seed", "eval=thought_budget", "eval.budgets=[]"],
    "tpo.evaluate.agreement": ["data=my_module.py", "rating.k_factor=0"],
    "tpo.plan": ["experiment=smoke", "sample.num_samples=1"],
}


@pytest.mark.parametrize("module", ENTRIES)
def test_every_command_finds_files_and_classes_where_it_is_started(module: str, tmp_path: Path) -> None:
    (tmp_path / "own" / "judge").mkdir(parents=True)
    (tmp_path / "own" / "judge" / "mine.yaml").write_text("_target_: my_module.Vowels\nthreshold: 0.5\n")
    shutil.copy(SOURCE, tmp_path / "my_module.py")

    def command(*overrides: str) -> str:
        given = ("--config-dir", "own", "judge=mine", *ENTRIES[module], *overrides)
        done = run_command(module, *given, cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "judge." not in command(), "what is wrong is another key, which is checked after the judge"
    assert "judge.thresold: the constructor of Vowels takes no such argument" in command("+judge.thresold=1")


# --- a judge in one file, and one YAML file --------------------------------------------------------------------------

JUDGE = '''
"""The share of words that are not repeated."""

from dataclasses import dataclass
from pathlib import Path

from tpo.config.fields import setting
from tpo.judge.protocol import Judgement, PointwiseJudgeConfig


@dataclass
class VarietyJudge(PointwiseJudgeConfig):
    """Scores a response by its different words, to a power."""

    kind: str = setting("variety")
    power: float = setting(above=0)

    def make(self, *, policy, answers_path):
        return self

    def score(self, candidates):
        for item in candidates:
            words = [text.split() for text in item.responses]
            yield [Judgement((len(set(text)) / len(text)) ** self.power, None) for text in words]
'''


def test_a_judge_is_one_file_and_one_yaml(tmp_path: Path) -> None:
    """In a copy of the tree, to which nothing else is done."""
    shutil.copytree(REPOSITORY / "tpo", tmp_path / "tpo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    (tmp_path / "tpo" / "judge" / "judges" / "variety.py").write_text(JUDGE)
    (tmp_path / "conf" / "judge" / "variety.yaml").write_text("defaults:\n  - schema/variety@_here_\npower: 2.0\n")
    rows = [("Q", "one two three", "one one one"), ("P", "a b", "a a")]
    names = ("instruction", "response_a", "response_b")
    labels = "".join(json.dumps({**dict(zip(names, row, strict=True)), "preference": 1.0}) + "\n" for row in rows)
    (tmp_path / "labels.jsonl").write_text(labels)

    def command(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tpo.evaluate.agreement", "judge=variety", "data=labels.jsonl", *overrides],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = command()
    assert done.returncode == 0, done.stderr
    [result] = (tmp_path / "runs").glob("agreement-*/variety.json")
    assert json.loads(result.read_text())["slices"]["all"]["rate"] == 1.0
    assert "judge.power=0.0: expected a number above 0" in command("judge.power=0").stderr
    assert "did you mean judge.power?" in command("judge.powr=1").stderr


def test_what_is_composed_for_a_job_may_hold_hydra_s_own_node() -> None:
    from hydra import compose

    from tpo.config.compose import composing

    expected = composed(*VOWELS)
    with composing():
        node = compose("config", [*PLAIN[:-1], *VOWELS], return_hydra_config=True)
    assert to_config(Config, node) == expected


def test_files_beside_the_class_that_it_imports_from_are_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_helper.py").write_text("def scores():\n    return []\n")
    (tmp_path / "own_base.py").write_text(
        "from own_helper import scores\n\nclass Base:\n    def score(self, candidates):\n        return scores()\n"
    )
    (tmp_path / "own_judge.py").write_text("import json\nimport own_base\n\nclass Own(own_base.Base):\n    pass\n")

    def digest() -> str:
        for name in ("own_judge", "own_base", "own_helper"):
            sys.modules.pop(name, None)
        return source_digest(load_class("own_judge.Own"))

    found = [digest()]
    assert digest() == found[0]
    for name in ("own_judge.py", "own_base.py", "own_helper.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# edited\n")
        found.append(digest())
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([[Judgement(1.0, None)]], "expected a list of 2 judgements, one for each response, not"),
        ([Judgement(1.0, None)], "expected a list of 2 judgements, one for each response, not Judgement"),
        ([[Judgement(1.0, None), 2.0]], "expected a Judgement, not 2.0"),
        ([[Judgement(None, None), Judgement(1.0, None)]], "a reason for none"),
        (5, "expected judgements that are yielded, not int"),
        (None, "expected judgements that are yielded, not NoneType"),
        ([[Judgement(1.0, None)] * 2] * 2, "more was yielded than an answer for each"),
        ([], "less was yielded than an answer for each"),
    ],
)
def test_answers_that_are_none_are_said_in_a_sentence(returned: Any, message: str) -> None:
    class Wrong:
        def score(self, candidates: Any) -> Any:
            list(candidates)
            return returned

    with pytest.raises(TpoError, match=f"judge._target_=my.Wrong.*{message}"):
        list(CheckedJudge(Wrong(), "my.Wrong").score([Candidates("q", ("a", "b"))]))


def test_a_judge_that_fails_is_named_with_its_line_after_what_it_judged() -> None:
    class Fails:
        def compare(self, pairs: Any) -> Any:
            for number, _ in enumerate(pairs):
                yield Judgement(1 / (2 - number), None)

    found = CheckedPairwiseJudge(Fails(), "my.Fails").compare([Candidates("q", ("a", "b"))] * 4)
    assert [next(found).value for _ in range(2)] == [0.5, 1.0]
    with pytest.raises(TpoError, match=r"my.Fails failed: ZeroDivisionError: division by zero \(.*, line \d+\)"):
        next(found)


def test_a_judge_that_answers_before_it_reads_or_stops_early_is_refused() -> None:
    class Guesses:
        def compare(self, pairs: Any) -> Any:
            yield Judgement(1.0, None)

    class Stops:
        def compare(self, pairs: Any) -> Any:
            next(pairs)
            yield Judgement(1.0, None)

    pairs = [Candidates("q", ("a", "b"))] * 2
    with pytest.raises(TpoError, match="more was yielded"):
        list(CheckedPairwiseJudge(Guesses(), "my.Guesses").compare(pairs))
    with pytest.raises(TpoError, match="less was yielded"):
        list(CheckedPairwiseJudge(Stops(), "my.Stops").compare(pairs))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "no YAML mapping"), ("a: 1\na: 2\n", "no YAML mapping"), ("5\n", "no YAML mapping")],
)
def test_own_files_that_are_no_yaml_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml: this is {message}"):
        check_config_dir(tmp_path)


def test_own_file_with_the_name_of_an_option_is_refused(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "length.yaml").write_text("kind: length\n")
    with pytest.raises(ConfigError, match="length.yaml: conf/ has an option of this name"):
        check_config_dir(tmp_path)


@pytest.mark.parametrize("override", ["judge=null", "sample=8", "+thought=", "experiment=3.5", "model=true"])
def test_group_that_is_given_no_option_is_named(override: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(override)}: expected one of "):
        check_choices([override])
    check_choices(["judge=length,random", "seed=8", "judge.name=null", "thought=glob(*)"])


def test_kind_that_is_not_the_option_s_is_refused() -> None:
    with pytest.raises(ConfigError, match="judge.kind=random: the settings are those of length"):
        composed("judge=length", "judge.kind=random")


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_numbers_are_finite(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train.beta=-?(inf|nan): expected"):
        check(composed(f"train.beta={value}"))
    for given in (f"[1.0,{value}]", f"{{low:{{lowest:{value}}}}}", f"[[{value}]]"):
        with pytest.raises(ConfigError, match=r"model.template_arguments.effort\S*=-?(inf|nan): expected"):
            check(composed(f"+model.template_arguments.effort={given}"))
