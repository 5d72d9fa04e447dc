"""The command that measures a judge: what it writes, what it shares, and what it refuses."""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from hostile import NAMES

from tpo.config.check import check_entry
from tpo.config.compose import compose_config
from tpo.config.schema import AgreementConfig
from tpo.evaluate.agreement.__main__ import file_name, judge_name, measure, report
from tpo.judge.judges.alpaca_eval import AlpacaEvalJudge
from tpo.judge.judges.llm_pairwise import PairwiseLLMJudge
from tpo.judge.protocol import Candidates, Judgement
from tpo.store.errors import TpoError
from tpo.store.gc import find
from tpo.store.verify import main as verify

REPOSITORY = Path(__file__).parents[2]
# Preferred: the longer one in 3 of 4 rows of different lengths; one label is a tie.
ROWS = [
    ("Q1", "long answer", "short", 1.0),
    ("Q1", "long answer", "other", 0.9),
    ("Q2", "a", "much longer", 0.2),
    ("Q2", "tiny", "longer text", 1.0),
    ("Q3", "same", "size", 0.5),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    names = ("instruction", "response_a", "response_b", "preference")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS))
    return path


def configure(data: Path, root: Path, *overrides: str) -> Any:
    given = [f"data={data}", f"artifacts_dir={root}/artifacts", f"runs_dir={root}/runs", *overrides]
    config = compose_config(AgreementConfig, given)
    check_entry(config)
    return config


def read(path: Path, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((path / f"{name}.json").read_text())
    return result


def test_length_by_hand(data: Path, tmp_path: Path) -> None:
    path = measure(configure(data, tmp_path, "judge=length"), name="length")
    found = read(path, "length")
    overall = found["slices"]["all"]
    assert (overall["rate"], overall["num_rows"], overall["num_prompts"]) == (0.75, 4, 2)
    assert found["slices"]["preferred_shorter"]["rate"] == 0.0
    assert found["slices"]["preferred_longer"]["rate"] == 1.0
    assert found["num_judgements"] == 9, "each response to an instruction is scored once"
    assert found["position_bias"] is None


def test_all_that_a_measurement_rests_on_is_named_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, places = configure(data, tmp_path, "judge=length"), (tmp_path / "artifacts", [tmp_path / "runs"])

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tpo.evaluate.agreement.statistics.agreement", fail)
        with pytest.raises(KeyboardInterrupt):
            measure(config, name="length")
    assert find(*places) == [], "of a killed one"
    path = measure(config, name="length")
    assert find(*places) == [] and not [*path.glob("*.asked")]
    assert {stage["stage"] for stage in read(path, "length")["stages"]} >= {"labelled", "judge"}
    assert [stage["stage"] for stage in read(path, "always response_a")["stages"]] == ["labelled"]
    assert verify([str(path), "--artifacts", str(places[0])]) == 0


def test_controls_that_read_nothing_stand_beside_every_judge(data: Path, tmp_path: Path) -> None:
    path = measure(configure(data, tmp_path, "judge=random"), name="random")
    rates = {}
    for side in "ab":
        found = read(path, f"always response_{side}")
        assert (found["num_judgements"], found["slices"]["all"]["num_rows"]) == (0, 4)
        assert found["num_excluded"] == {"identical_responses": 0, "labelled_tie": 1}
        rates[side] = found["slices"]["all"]["rate"]
    assert rates == {"a": 0.75, "b": 0.25}, "the labels prefer response_a in three of four rows"
    report(path)
    table = (path / "agreement.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:] if "always" in line] == [
        "| always response_a",
        "| always response_b",
    ]


def test_all_judges_measured_on_the_same_data_share_a_table_and_a_figure(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("length", "random"):
        path = measure(configure(data, tmp_path, f"judge={name}"), name=name)
    report(path)
    table = (path / "agreement.md").read_text()
    assert "length" in table
    assert "random" in table
    assert (path / "agreement.png").stat().st_size > 5000
    assert "length" in capsys.readouterr().out


def test_other_data_are_another_folder_and_the_same_are_judged_once(data: Path, tmp_path: Path) -> None:
    first = measure(configure(data, tmp_path, "judge=length"), name="length")
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(data.read_bytes())
    artifacts = sorted((tmp_path / "artifacts").iterdir())
    assert measure(configure(moved, tmp_path, "judge=length"), name="length") == first
    assert sorted((tmp_path / "artifacts").iterdir()) == artifacts
    moved.write_text(data.read_text().replace("Q1", "Q9"))
    assert measure(configure(moved, tmp_path, "judge=length"), name="length") != first


class FirstWins:
    """A fake pairwise judge with nothing but a position bias; it keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Candidates] = []

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        for pair in pairs:
            self.seen.append(pair)
            yield Judgement(1.0, None, "[[A]]", num_tokens=10)


def test_pairwise_judge_is_asked_about_labelled_pairs_only_and_its_position_bias_shows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = FirstWins()
    monkeypatch.setattr(PairwiseLLMJudge, "make", lambda *_, **__: judge)
    overrides = ["judge=llm_pairwise", "judge.backend=server", "judge.name=x"]
    path = measure(configure(data, tmp_path, *overrides), name="biased")
    found = read(path, "biased")
    assert len(judge.seen) == 2 * len(ROWS)
    assert Candidates("Q1", ("long answer", "short")) in judge.seen
    assert Candidates("Q1", ("short", "long answer")) in judge.seen
    assert Candidates("Q1", ("short", "other")) not in judge.seen, "nobody labelled this pair"
    assert found["slices"]["all"]["rate"] == 0.5, "orders that contradict each other are a tie"
    assert found["position_bias"]["first_wins"]["rate"] == 1.0
    assert found["tokens_per_judgement"] == 10


def test_alpaca_eval_s_annotator_is_asked_once_a_pair(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("alpaca_eval") is None:
        pytest.skip("alpaca_eval, which has the prompt, is not installed")
    judge = FirstWins()
    monkeypatch.setattr(AlpacaEvalJudge, "make", lambda *_, **__: judge)
    overrides = ["judge=alpaca_eval", "judge.name=x"]
    path = measure(configure(data, tmp_path, *overrides), name="once")
    found = read(path, "once")
    shown = [(pair.instruction, *sorted((pair.responses[0], pair.responses[1]))) for pair in judge.seen]
    assert sorted(shown) == sorted((row[0], *sorted(row[1:3])) for row in ROWS)
    assert found["position_bias"]["first_wins"]["rate"] == 1.0
    assert (found["position_bias"]["consistent"]["rate"], found["slices"]["all"]["num_unscored"]) == (None, 0)
    asked = list(judge.seen)
    measure(configure(data, tmp_path, *overrides, "judge.orders=both"), name="twice")
    assert len(judge.seen) == len(asked) + 2 * len(ROWS)
    assert set(asked) < set(judge.seen[len(asked) :])


@pytest.mark.parametrize(
    ("choice", "overrides", "name"),
    [
        ("length", ["data=x.jsonl", "judge=length"], "length"),
        ("likelihood", ["judge=likelihood", "judge.normalization=sum", "seed=1"], "likelihood normalization=sum"),
        ("reward_model", ["judge.name=models/mine"], "reward_model name=models/mine"),
        ("custom", ["judge._target_=my.Judge", "+judge.weight=2"], "custom _target_=my.Judge weight=2"),
    ],
)
def test_judge_is_called_by_its_option_and_what_was_changed(choice: str, overrides: list[str], name: str) -> None:
    assert judge_name(choice, overrides) == name


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"instruction": "Q", "response_a": "a", "response_b": "b"}', "line 1"),
        pytest.param(
            '{"instruction": "Q", "response_a": "a", "response_b": "b", "preference": 1.5}',
            "preference",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_command_line_names_a_bad_row_without_a_traceback(line: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    done = run_command("tpo.evaluate.agreement", "judge=length", "data=bad.jsonl", cwd=tmp_path)
    assert done.returncode != 0
    assert "bad.jsonl" in done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_cost_is_of_every_pass_that_a_score_took(data: Path, tmp_path: Path, tiny_model: Path) -> None:
    model = ["model=pretrained", f"model.name={tiny_model}", "model.dtype=float32", "model.quantization=none"]
    found = {}
    for name, more in (("plain", []), ("prior", ["judge.subtract_prior=true"])):
        path = measure(configure(data, tmp_path, "judge=likelihood", *model, *more), name=name)
        found[name] = read(path, name)
    plain, prior = found["plain"], found["prior"]
    assert plain["num_judgements"] == prior["num_judgements"] and plain["tokens_per_judgement"] > 0
    assert prior["tokens_per_judgement"] == 2 * plain["tokens_per_judgement"]
    assert prior["seconds_per_judgement"] > plain["seconds_per_judgement"] > 0


def test_each_judge_has_a_file_of_its_own_in_the_folder() -> None:
    assert file_name("llm_pairwise name=x") == "llm_pairwise name=x.json"
    names = [*NAMES, "a/b", "a-b", "../../x", "..", "\0", "judge.name=/models/a", "judge.name=-models-a"]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    for name in files:
        assert Path(name).name == name and len(name) < 140 and name.isprintable() and not name.startswith(".")


def test_no_judge_takes_a_control_s_place(tmp_path: Path) -> None:
    with pytest.raises(TpoError, match="is what a control is called"):
        measure(None, name="always response_a")  # type: ignore[arg-type]
