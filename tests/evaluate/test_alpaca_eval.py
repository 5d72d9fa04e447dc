"""AlpacaEval's files, estimates and published figures; the installed alpaca_eval package is the oracle.

`alpaca_eval` 0.6.6 imports pkg_resources, which setuptools 81 has dropped: where it cannot be imported, the tests that
need it are skipped.
"""

import csv
import gzip
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tpo.evaluate.benchmarks import Benchmark, alpaca_eval
from tpo.evaluate.benchmarks.alpaca_eval import (
    AlpacaEvalError,
    length_gaps,
    load,
    official_length_controlled,
    write_annotations,
    write_outputs,
)
from tpo.evaluate.length_control import (
    ALPACA_EVAL_SLOPE,
    ALPACA_EVAL_SLOPE_ERROR,
    estimate_length_controlled,
    length_controlled_rate,
)
from tpo.store.errors import TpoError
from tpo.store.records import Response

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("TPO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "alpaca_eval"
BASELINE_DATA = DATA / "baseline_gpt4_1106_preview.jsonl.gz"
needs_data = pytest.mark.skipif(not BASELINE_DATA.is_file(), reason=f"no data in {DATA}: set TPO_SHARED_DATA")

ROWS: list[dict[str, Any]] = [
    {"instruction": "What is 2 + 2?", "output": "4", "dataset": "koala", "generator": "base", "extra": 1},
    {"instruction": " Tell me\u2028a joke.\n", "output": "  No.\n", "dataset": "oasst"},
    {"instruction": "Grüße!", "output": "Hallo \U0001f600", "index": 2},
]


def write_rows(path: Path, rows: list[Any], *, as_list: bool = False) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = f"[{','.join(lines)}]" if as_list else "\n".join(lines) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def package(name: str) -> Any:
    """A module of the alpaca_eval package."""
    return pytest.importorskip(name, reason="alpaca_eval or its pkg_resources is missing", exc_type=ImportError)


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_list", [False, True], ids=["lines", "list"])
@pytest.mark.parametrize("name", ["outputs.json", "outputs.json.gz"])
def test_load_reads_every_form_of_the_file(name: str, as_list: bool, tmp_path: Path) -> None:
    found = load(write_rows(tmp_path / name, ROWS, as_list=as_list))
    assert [prompt.text for prompt in found.prompts] == ["What is 2 + 2?", "Tell me\u2028a joke.", "Grüße!"]
    assert [prompt.category for prompt in found.prompts] == ["koala", "oasst", "uncategorized"]
    assert {(prompt.source, prompt.split) for prompt in found.prompts} == {("alpaca_eval", "test")}
    ids = [prompt.prompt_id for prompt in found.prompts]
    assert found.baseline == [Response(key, 0, row["output"], None) for key, row in zip(ids, ROWS, strict=True)]
    assert list(found.keys.items()) == [
        (ids[0], {"index": 0, "dataset": "koala", "generator": "base"}),
        (ids[1], {"index": 1, "dataset": "oasst", "instruction": " Tell me\u2028a joke.\n"}),
        (ids[2], {"index": 2, "dataset": None}),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param("text", "row 2: expected an object with instruction and output, got 'text'", id="no_object"),
        pytest.param({"instruction": "q"}, r"row 2: .* got one with \['instruction'\]", id="no_output"),
        pytest.param({"instruction": "", "output": "a"}, "row 2: the instruction is ''", id="empty_instruction"),
        pytest.param({"instruction": 3, "output": "a"}, "row 2: the instruction is 3", id="instruction_no_text"),
        pytest.param({"instruction": "q", "output": None}, "row 2: output is None", id="output_no_text"),
        pytest.param({"instruction": "q", "output": " "}, "row 2: output is ' '", id="empty_output"),
        pytest.param({"instruction": "q", "output": "a", "dataset": 4}, "row 2: the category is 4", id="dataset"),
        pytest.param({"instruction": "q", "output": "a", "generator": 4}, "row 2: generator is 4", id="generator"),
        pytest.param(
            {"instruction": "q", "output": "a", "index": 7}, "row 2: its index is 7, its place is 1", id="order"
        ),
        pytest.param({**ROWS[0]}, "row 2: the instruction of row 1 again", id="twice"),
        pytest.param({**ROWS[0], "instruction": "What is 2 + 2? "}, "of row 1 again", id="twice_but_for_spaces"),
    ],
)
def test_bad_row_is_named(row: Any, message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bad.jsonl", [ROWS[0], row])
    with pytest.raises(TpoError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b'{"instruction": "q", "output": "a"}\n{oops\n', "line 2: not JSON", id="bad_line"),
        pytest.param(b"[{oops]", "not JSON", id="bad_list"),
        pytest.param(b"\n", "no rows", id="empty"),
        pytest.param(b"[]", "no rows", id="empty_list"),
        pytest.param(b"\xff\xfe", "cannot be read", id="not_utf8"),
        pytest.param(None, "cannot be read", id="missing"),
    ],
)
def test_bad_file_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AlpacaEvalError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_file_cut_short_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bad.json.gz", ROWS)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(AlpacaEvalError, match="cannot be read"):
        load(path)


def test_without_a_path_the_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = write_rows(tmp_path / "hub.json", ROWS, as_list=True), []

    def download(*args: Any, **kwargs: Any) -> str:
        asked.append((args, kwargs))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert load(None) == load(path)
    assert asked == [(("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json"), {"repo_type": "dataset"})]


def test_hub_out_of_reach_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AlpacaEvalError, match="hf download tatsu-lab/alpaca_eval alpaca_eval_gpt4_baseline.json"):
        load(None)


@needs_data
def test_the_805_instructions_are_known_by_their_order() -> None:
    found = load(BASELINE_DATA)
    assert len(found.prompts) == alpaca_eval.NUM_INSTRUCTIONS
    assert sum("instruction" in key for key in found.keys.values()) == 5
    alpaca_eval._require_the_instructions(found)


# --- writing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Benchmark:
    return load(write_rows(tmp_path / "small.jsonl", ROWS))


def answers(benchmark: Benchmark, texts: list[str | None]) -> list[Response]:
    return [
        Response(prompt.prompt_id, 0, text, None if text else "empty")
        for prompt, text in zip(benchmark.prompts, texts, strict=True)
    ]


def test_export_is_in_order_and_gives_back_the_instructions(small: Benchmark, tmp_path: Path) -> None:
    responses = answers(small, [" four ", None, "x"])
    write_outputs(tmp_path / "model_outputs.json", small, [responses[2], responses[0]], generator="mine")
    assert json.loads((tmp_path / "model_outputs.json").read_text(encoding="utf-8")) == [
        {"instruction": "What is 2 + 2?", "dataset": "koala", "output": " four ", "generator": "mine"},
        {"instruction": " Tell me\u2028a joke.\n", "dataset": "oasst", "output": "", "generator": "mine"},
        {"instruction": "Grüße!", "output": "x", "generator": "mine"},
    ]
    wins = {small.prompts[0].prompt_id: 0.75, small.prompts[1].prompt_id: None}
    write_annotations(tmp_path / "annotations.json", small, responses, wins, generator="mine", annotator="judge")
    rows = json.loads((tmp_path / "annotations.json").read_text(encoding="utf-8"))
    assert [row["preference"] for row in rows] == [1.75, None, None]
    assert rows[1] == {
        "instruction": " Tell me\u2028a joke.\n",
        "dataset": "oasst",
        "output_1": "  No.\n",
        "generator_1": "gpt4_1106_preview",
        "output_2": "",
        "generator_2": "mine",
        "annotator": "judge",
        "preference": None,
    }
    assert rows[0]["generator_1"] == "base"
    assert length_gaps(small, responses) == [5.0, -6.0, -6.0]


def test_what_cannot_be_exported_is_refused(small: Benchmark, tmp_path: Path) -> None:
    responses = answers(small, ["a", "b", "c"])
    with pytest.raises(ValueError, match="1 responses are to an instruction that has one already"):
        write_outputs(tmp_path / "x", small, [*responses, responses[0]], generator="m")
    with pytest.raises(ValueError, match="not the benchmark's"):
        write_outputs(tmp_path / "x", small, [Response("other", 0, "a", None)], generator="m")
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        write_annotations(tmp_path / "x", small, responses, {small.prompts[0].prompt_id: 2.0}, generator="m")
    assert not (tmp_path / "x").exists()


def test_the_official_tool_reads_what_was_written(small: Benchmark, tmp_path: Path) -> None:
    utils, metrics = package("alpaca_eval.utils"), package("alpaca_eval.metrics")
    write_outputs(tmp_path / "model_outputs.json", small, answers(small, ["four", None, "äh"]), generator="mine")
    outputs = utils.load_or_convert_to_dataframe(tmp_path / "model_outputs.json")
    assert outputs["output"].str.len().mean() == 2.0
    assert utils.get_generator_name(None, outputs) == "mine"
    wins = {prompt.prompt_id: win for prompt, win in zip(small.prompts, [0.9, None, 0.2], strict=True)}
    write_annotations(tmp_path / "annotations.json", small, answers(small, ["f", None, "x"]), wins, generator="mine")
    found = metrics.get_winrate(utils.load_or_convert_to_dataframe(tmp_path / "annotations.json"))
    assert found["win_rate"] == pytest.approx(55)
    assert (found["n_wins"], found["n_wins_base"], found["n_total"]) == (1, 1, 2)


# --- the official estimate --------------------------------------------------------------------------------------


class Setting:
    """805 made-up instructions with a policy's responses, and what the package knows about each instruction."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        glm, pandas = package("alpaca_eval.metrics.glm_winrate"), pytest.importorskip("pandas")
        generator = np.random.default_rng(0)
        self.size = alpaca_eval.NUM_INSTRUCTIONS
        lengths = generator.integers(500, 3000, size=self.size)
        rows = [{"instruction": f"Task {n}", "output": "b" * length} for n, length in enumerate(lengths)]
        self.benchmark = load(write_rows(directory / "all.jsonl", rows))
        gaps = generator.normal(-300, 500, size=self.size).astype(int)
        self.responses = answers(self.benchmark, ["p" * max(1, a + b) for a, b in zip(lengths, gaps, strict=True)])
        difficulty = generator.normal(size=self.size)
        odds = -0.5 + 1.5 * np.tanh(gaps / gaps.std()) + 0.8 * difficulty
        self.at_equal_length = float(np.mean(1 / (1 + np.exp(0.5 - 0.8 * difficulty))))
        self.wins = self.named(1 / (1 + np.exp(-odds)))
        gamed = [
            {
                "model": model,
                "index": index,
                "preference": 1 / (1 + np.exp(-(1.5 * np.tanh(-gap) + 0.8 * difficulty[index]))),  # no intercept
                "std_delta_len": gap,
                "instruction_difficulty": difficulty[index],
                "not_gamed_baseline": False,
            }
            for model, shift in (("verbose", 1.0), ("concise", -1.0))
            for index, gap in enumerate(generator.normal(shift, 1, size=self.size))
        ]
        pandas.DataFrame(gamed).to_csv(directory / "df_gamed.csv", index=False)
        self.downloads: list[dict[str, Any]] = []

        def download(**arguments: Any) -> str:
            self.downloads.append(arguments)
            return str(directory / "df_gamed.csv")

        monkeypatch.setattr(glm, "hf_hub_download", download)
        monkeypatch.setattr(alpaca_eval, "_require_the_instructions", lambda benchmark: None)
        self.glm, self.download = glm, download

    def named(self, values: Any) -> dict[str, float | None]:
        return {
            prompt.prompt_id: None if value is None else float(value)
            for prompt, value in zip(self.benchmark.prompts, values, strict=True)
        }


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


def test_official_estimate_is_the_package_s_own_and_finds_the_truth(setting: Setting, tmp_path: Path) -> None:
    import pandas
    import sklearn

    before = sklearn.get_config()
    weights = Path(setting.glm.__file__).parent / "weights"
    arguments: Any = (setting.benchmark, setting.responses, setting.wins)
    found = official_length_controlled(*arguments, seed=0, num_resamples=3)
    assert [download["filename"] for download in setting.downloads] == ["df_gamed.csv"]  # once, not per fit
    assert setting.glm.hf_hub_download is setting.download and sklearn.get_config() == before
    assert not weights.exists(), "the fit wrote into the installed package"
    # From the files as the official tool would: rows in order, no "index" column.
    write_annotations(tmp_path / "annotations.json", *arguments, generator="mine")
    annotations = pandas.read_json(tmp_path / "annotations.json")
    with sklearn.config_context():
        expected = setting.glm.get_length_controlled_winrate(annotations, save_weights_dir=None)
    assert found.rate == pytest.approx(expected["length_controlled_winrate"] / 100, abs=1e-12)
    assert found.rate == pytest.approx(setting.at_equal_length, abs=0.01)
    assert (found.num_prompts, found.num_unscored, found.estimator) == (805, 0, "official")
    # Resamples find the difficulty of their own rows: else the estimates would scatter by far more.
    assert found.interval is not None
    low, high = found.interval
    assert found.rate - 0.05 < low < high < found.rate + 0.05
    assert official_length_controlled(*arguments, seed=0, num_resamples=3) == found
    assert official_length_controlled(*arguments, seed=1, num_resamples=3).interval != found.interval


def test_official_estimate_leaves_the_unscored_out_of_the_fit(setting: Setting) -> None:
    some = setting.named([None if n % 5 == 0 else win for n, win in enumerate(setting.wins.values())])
    found = official_length_controlled(setting.benchmark, setting.responses, some, seed=0, num_resamples=1)
    assert (found.num_prompts, found.num_unscored) == (644, 161)
    assert found.rate == pytest.approx(setting.at_equal_length, abs=0.01)
    none = official_length_controlled(setting.benchmark, setting.responses, {}, seed=0)
    assert (none.rate, none.interval, none.num_unscored) == (None, None, 805)


def test_official_estimate_refuses_what_the_package_cannot_do(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [Response(row.prompt_id, 0, row.text, None) for row in setting.benchmark.baseline]
    with pytest.raises(AlpacaEvalError, match="same number of characters"):
        official_length_controlled(setting.benchmark, same, setting.wins, seed=0)

    def unreachable(**arguments: Any) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr(setting.glm, "hf_hub_download", unreachable)
    with pytest.raises(AlpacaEvalError, match=r"df_gamed\.csv .* \(no network\).*hf download .*ALPACA_EVAL_SLOPE"):
        official_length_controlled(setting.benchmark, setting.responses, setting.wins, seed=0)
    assert setting.glm.hf_hub_download is unreachable


@needs_data
@pytest.mark.parametrize("change", ["shuffled", "one_missing", "one_other"])
def test_official_estimate_is_for_the_805_in_their_order_alone(change: str) -> None:
    whole = load(BASELINE_DATA)
    prompts, baseline = list(whole.prompts), list(whole.baseline)
    if change == "shuffled":
        prompts[3], prompts[4] = prompts[4], prompts[3]
    elif change == "one_missing":
        del prompts[-1], baseline[-1]
    else:
        prompts[3] = replace(prompts[3], prompt_id="0" * 16)
    with pytest.raises(AlpacaEvalError, match="805 instructions in their order"):
        official_length_controlled(Benchmark(prompts, baseline, whole.keys), [], {}, seed=0)


def test_missing_package_is_named(small: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpaca_eval, "_require_the_instructions", lambda benchmark: None)
    monkeypatch.setitem(sys.modules, "alpaca_eval.metrics", None)
    wins = {prompt.prompt_id: 1.0 for prompt in small.prompts}
    with pytest.raises(AlpacaEvalError, match=r"cannot be imported .* alpaca-eval==0\.6\.6"):
        official_length_controlled(small, answers(small, ["a", "bb", "c"]), wins, seed=0)


# --- published figures ------------------------------------------------------------------------------------------


@needs_data
def test_figures_of_six_models_are_the_published_ones(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("alpaca_eval")  # its tables need no import
    if spec is None or spec.origin is None:
        pytest.skip("alpaca_eval is missing")
    table = Path(spec.origin).parent / f"leaderboards/data_AlpacaEval_2/{alpaca_eval.ANNOTATOR}_leaderboard.csv"
    published = {row[""]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    benchmark = load(BASELINE_DATA)
    rates, expected = {}, {}
    paths = [path for path in sorted(DATA.glob("*.jsonl.gz")) if path != BASELINE_DATA]
    for path in paths:
        name = path.name.removesuffix(".jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        responses = answers(benchmark, [row["output"] for row in rows])
        wins = [row["preference"] - 1 for row in rows]
        line = published[name]
        assert 100 * np.mean(wins) == pytest.approx(float(line["win_rate"]), abs=0.01)
        write_outputs(tmp_path / "outputs.json", benchmark, responses, generator=name)
        written = json.loads((tmp_path / "outputs.json").read_text(encoding="utf-8"))
        assert [row["instruction"] for row in written] == [row["instruction"] for row in rows]
        assert int(np.mean([len(row["output"]) for row in written])) == int(line["avg_length"])
        gaps = length_gaps(benchmark, responses)
        rates[name] = length_controlled_rate(wins, gaps, slope=ALPACA_EVAL_SLOPE)
        expected[name] = float(line["length_controlled_winrate"]) / 100
        assert rates[name] == pytest.approx(expected[name], abs=ALPACA_EVAL_SLOPE_ERROR)
        found = estimate_length_controlled(wins, gaps, seed=0, slope=ALPACA_EVAL_SLOPE, num_resamples=200)
        assert found.interval is not None and found.interval[0] < expected[name] < found.interval[1]
    assert len(rates) == 6
    check = runpy.run_path(str(REPOSITORY / "experiments" / "alpaca_eval_check.py"))
    models = check["read_models"](BASELINE_DATA, paths)
    errors = [model.error(check["calibrate"]([other for other in models if other is not model])) for model in models]
    assert 0.9 * ALPACA_EVAL_SLOPE_ERROR < max(map(abs, errors)) < ALPACA_EVAL_SLOPE_ERROR  # the stated error is that
    assert sorted(rates, key=rates.__getitem__) == sorted(expected, key=expected.__getitem__)
    document = (REPOSITORY / "experiments" / "alpaca_eval.md").read_text(encoding="utf-8")
    assert check["statement"](models) in " ".join(document.split()), "the document says what the command prints"
    mean_error = np.mean([abs(rates[name] - expected[name]) for name in rates])
    assert f"a mean absolute error of {100 * mean_error:.2f} points" in check["statement"](models)
