"""Tables of runs: golden text, differences and averages against closed forms. Every run here but one is made up."""

import csv
import io
import json
import random
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from tpo.results.__main__ import collect, main, make_parser
from tpo.results.figures import draw_sweep, swept_number
from tpo.results.read import REPOSITORY, FinishedRun, read_folder, read_folders
from tpo.results.stats import holm, paired_difference
from tpo.results.table import ResultsTable, results_table, to_csv, to_latex, to_markdown, write_tables
from tpo.results.table.against import Setting
from tpo.store.artifacts import finish, open_artifact
from tpo.store.errors import TpoError
from tpo.store.files import write_json, write_sealed
from tpo.store.records import CheckResult, write_records

CONFIG: dict[str, Any] = made_up.config()


def rate(value: float | None, *, num_unscored: int = 0) -> dict[str, Any]:
    interval = None if value is None else [value - 0.125, value + 0.125]
    return {"rate": value, "interval": interval, "num_prompts": 0 if value is None else 8, "num_unscored": num_unscored}


def entry(iteration: int, value: float | None, **changes: Any) -> dict[str, Any]:
    found = {
        "win_rate": rate(value),
        "win_rate_answered": rate(value),
        "win_rate_length_controlled": rate(value),
        "change": made_up.change(None if value is None else value - 0.5, score=0.25) if iteration else None,
        "mean_thought_tokens": 57.25,
        "mean_response_tokens": 64.5,
    }
    return made_up.entry(iteration, value, **{**found, **changes})


def stages(*names: str, is_reused: bool = False) -> list[dict[str, Any]]:
    return [{"artifact_id": name, "stage": "made-up", "seconds": 100.0, "is_reused": is_reused} for name in names]


def make_run(
    path: Path,
    values: list[float | None],
    *,
    settings: dict[str, Any] | None = None,
    entries: list[dict[str, Any]] | None = None,
    **summary: Any,
) -> FinishedRun:
    """Write a made-up run whose iterations 0, 1, ... have these win rates; `settings` are dotted keys."""
    config = json.loads(json.dumps({**CONFIG, "artifacts_dir": str(path.parent.parent / "artifacts")}))
    for key, value in (settings or {}).items():
        *groups, last = key.split(".")
        group = config
        for name in groups:
            group = group[name]
        group[last] = value
    path.mkdir(parents=True)
    write_json(path / "config.json", config)
    known = {
        "experiment": "made_up",
        "seed": config["seed"],
        "baseline": "made-up baseline",
        "stages": stages("model-1", is_reused=True) + stages(f"sample-{path.name}"),
    }
    found = made_up.summary(
        *(entries or [entry(number, value) for number, value in enumerate(values)]), **{**known, **summary}
    )
    write_sealed(path / "summary.json", found)
    run = read_folder(path)
    assert isinstance(run, FinishedRun)
    return run


def make_comparison(root: Path, name: str, wins: dict[str, float | None]) -> dict[str, Any]:
    """Write a made-up comparison's artifact and return an iteration's entry that names it."""
    path = root / "artifacts" / name
    path.mkdir(parents=True)
    write_json(path / "request.json", {})
    rows = [made_up.comparison(prompt_id, win) for prompt_id, win in wins.items()]
    write_records(path / "rows.jsonl", rows)
    finish(path, metrics={}, started=time.time())
    known = [win for win in wins.values() if win is not None]
    return entry(1, sum(known) / len(known), artifacts={"comparison": name, "answers": "sample-deleted"})


def three(tmp_path: Path) -> list[FinishedRun]:
    """A made-up sweep of rho; 10 comes after 2, though not as text."""
    return [
        make_run(tmp_path / "runs" / f"rho_{rho}", [0.5, value], settings={"pairs.length_penalty": rho})
        for rho, value in ((10, 0.625), (0, 0.5), (2, 0.75))
    ]


NOTES = (
    "Changes: trained minus untrained on the same instructions, of rates in points, with 95 % intervals; "
    "n: instructions.",
    "Stages: 4 distinct ones of 6 (67 %), 400 s of 600 s; seconds are those of computing a stage, whenever that was.",
)


# --- golden -----------------------------------------------------------------------------------------------------

TITLES = (
    *("run", "pairs.length_penalty", "iteration", "win rate: change", "score: change", "win rate (%)", "answered (%)"),
    *("equal length (%)", "n", "no response", "thought tokens", "response tokens", "pairs", "stages (s)", "reused (%)"),
)
ROWS = [
    [name, rho, "1", change, "+0.250 [+0.200, +0.300]", *[rates] * 3, "8", "4 of 24", "57", "64", "30", "200", "50"]
    for name, rho, change, rates in (
        ("rho_0", "0", "+0.0 [-5.0, +5.0]", "50.0 [37.5, 62.5]"),
        ("rho_2", "2", "+25.0 [+20.0, +30.0]", "75.0 [62.5, 87.5]"),
        ("rho_10", "10", "+12.5 [+7.5, +17.5]", "62.5 [50.0, 75.0]"),
    )
]


def test_markdown_of_three_runs(tmp_path: Path) -> None:
    lines = [TITLES, ["---"] * len(TITLES), *ROWS]
    expected = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    assert to_markdown(results_table(three(tmp_path))) == f"{expected}\n{NOTES[0]}\n\n{NOTES[1]}\n"


def test_latex_of_three_runs(tmp_path: Path) -> None:
    lines = [" & ".join(cells).replace("%", "\\%").replace("_", "\\_") + " \\\\\n" for cells in (TITLES, *ROWS)]
    notes = "".join(f"% {note}\n" for note in NOTES)
    assert to_latex(results_table(three(tmp_path))) == (
        f"{notes}\\begin{{tabular}}{{{'l' * 15}}}\n\\toprule\n{lines[0]}\\midrule\n{''.join(lines[1:])}"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_csv_of_three_runs(tmp_path: Path) -> None:
    header, first, *_ = to_csv(results_table(three(tmp_path))).splitlines()
    assert header == (
        "run,pairs.length_penalty,iteration,change_win_rate,change_win_rate_low,change_win_rate_high,change_score,"
        "change_score_low,change_score_high,win_rate,win_rate_low,win_rate_high,win_rate_answered,"
        "win_rate_answered_low,win_rate_answered_high,win_rate_length_controlled,win_rate_length_controlled_low,"
        "win_rate_length_controlled_high,num_prompts,num_unscored,num_no_response,num_answers,mean_thought_tokens,"
        "mean_response_tokens,num_pairs,stage_seconds,stages_reused"
    )
    assert first == (
        "rho_0,0,1,0.0,-0.05,0.05,0.25,0.2,0.3,0.5,0.375,0.625,0.5,0.375,0.625,0.5,0.375,0.625,8,0,4,24,57.25,64.5,30,"
        "200.0,0.5"
    )


def checked_run(path: Path, change: float, rate: float, **settings: Any) -> FinishedRun:
    """A made-up run with checks: the change of the checked rate, that of unseen types one half of it, and the rate."""
    checks = {"checked": made_up.checked(rate, types={"title": rate, "postscript": 0.1}, unseen=0.1)}
    gain = made_up.change(0.1, score=0.2, checked=change, unseen=change / 2)
    entries = [entry(0, 0.5, checked=made_up.checked(rate - change)), entry(1, 0.6, change=gain, **checks)]
    return make_run(path, [], settings=settings, entries=entries)


def test_the_change_of_the_checked_rate_comes_first(tmp_path: Path) -> None:
    table = results_table([checked_run(tmp_path / "runs" / "a", 0.125, 0.5)], iteration="all")
    assert list(table.lines[1])[1:7] == [
        *("iteration", "change_checked", "change_checked_unseen", "change_win_rate", "change_score", "checked")
    ]
    first, last = (row for _, row in table.frame.iterrows())
    assert np.isnan(first["change_checked"]) and first["checked"] == 0.375 and np.isnan(first["checked_unseen"])
    assert (last["change_checked"], last["change_checked_low"]) == (0.125, pytest.approx(0.075))
    assert (last["checked"], last["checked_unseen"]) == (0.5, 0.1)
    assert "| 1 | +12.5 [+7.5, +17.5] | +6.2 [+1.2, +11.2] | +10.0 [+5.0, +15.0] |" in to_markdown(table)


# --- formats ----------------------------------------------------------------------------------------------------


def test_what_latex_and_markdown_read_as_commands_is_escaped(tmp_path: Path) -> None:
    unscored = entry(1, None, win_rate=rate(None, num_unscored=9))
    other = {"model.chat_template": "[50%] {a} #1 & $b$ | c^d~", "seed": 1}
    runs = [
        make_run(tmp_path / "runs" / "[a]_b|c", [], settings=other, entries=[unscored], judge="x_y"),
        make_run(tmp_path / "runs" / "plain", [0.5]),
    ]
    table = results_table(runs)
    latex, markdown = to_latex(table), to_markdown(table)
    assert "\n{}[a]\\_b\\textbar{}c & " in latex
    assert "{}[50\\%] \\{a\\} \\#1 \\& \\$b\\$ \\textbar{} c" in latex and "x\\_y" in latex
    body = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1 and len(body) == 3
    assert not any(re.search(r"(?<!\\)[%#$_]", line) for line in body)
    assert "[a]\\_b\\|c" in markdown and "| unscored | unscored | unscored | 0 (+9 unscored) |" in markdown
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines()[:4]}) == 1


values = st.floats(0.125, 0.875) | st.none()


@settings(deadline=None)  # the first example imports pandas
@given(rates=st.lists(values, min_size=1, max_size=5), text=st.text("ab,;\"'|&%_\n\r é", max_size=8))
def test_csv_round_trip(rates: list[float | None], text: str) -> None:
    runs = []
    for number, value in enumerate(rates):
        config = {**CONFIG, "seed": number, "judge": {**CONFIG["judge"], "question": f"{text}{number}"}}
        runs.append(FinishedRun(Path(f"run {number}"), made_up.summary(entry(0, value)), config))
    rows = list(csv.DictReader(io.StringIO(to_csv(results_table(runs)), newline="")))
    assert [row["run"] for row in rows] == [run.path.name for run in runs]
    for row, run, value in zip(rows, runs, rates, strict=True):
        found = {key: float(row[key]) if row[key] else None for key in row if key.startswith("win_rate")}
        assert "change_win_rate" not in row, "nothing was trained"
        low, high = run.summary["iterations"][0]["win_rate"]["interval"] or (None, None)
        assert (found["win_rate"], found["win_rate_low"], found["win_rate_high"]) == (value, low, high)
        if len(runs) > 1:
            asked = run.config["judge"]["question"]  # behind one apostrophe more where a spreadsheet would compute it
            assert row["judge.question"] == "'" * asked.startswith(("'", "\r")) + asked


# --- which runs -------------------------------------------------------------------------------------------------


def test_order_and_repetition_of_arguments_do_not_matter(tmp_path: Path) -> None:
    runs = three(tmp_path)
    names = [str(run.path) for run in runs]
    expected = collect(read_folders(names))
    for seed in range(5):
        shuffled = random.Random(seed).sample(names, len(names))
        table = collect(read_folders([*shuffled, names[0] + "/", str(tmp_path / "runs" / "rho_*")]))
        assert to_csv(table) == to_csv(expected) and table.notes == expected.notes


def test_iterations_are_chosen(tmp_path: Path) -> None:
    long = make_run(tmp_path / "runs" / "long", [0.5, 0.6, 0.7], settings={"num_iterations": 2})
    short = make_run(tmp_path / "runs" / "short", [0.5, 0.4], settings={"num_iterations": 1})
    assert list(results_table([long, short]).frame["iteration"]) == [1, 2]
    table = results_table([long, short], iteration=2)
    assert list(table.frame.index) == ["long"] and "1 without iteration 2: short." in table.notes
    assert list(results_table([long, short], iteration="all").frame["iteration"]) == [0, 1, 0, 1, 2]
    assert len(results_table([], iteration=2).frame) == 0


def test_a_folder_of_runs_means_each_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = three(tmp_path)
    (tmp_path / "runs" / "hydra").mkdir()
    write_json(tmp_path / "runs" / "hydra" / "config.json", CONFIG)
    place = tmp_path / "runs"
    expected = collect(read_folders([str(run.path) for run in runs]))
    for name in (str(place), f"{place}/", str(tmp_path)):
        table = collect(read_folders([name]))
        assert to_csv(table) == to_csv(expected) and table.notes == expected.notes
    assert main(["--samples", str(place)]) == 1
    assert f"{place}: 3 folders match" in capsys.readouterr().err


def test_what_is_no_finished_run_is_listed(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.5])
    (tmp_path / "b").mkdir()
    write_json(tmp_path / "b" / "config.json", CONFIG)
    (tmp_path / "c").mkdir()
    write_sealed(tmp_path / "c" / "summary.json", {"evaluation": "gsm8k"})
    (tmp_path / "d").mkdir()
    (tmp_path / "exported.csv").write_text("")  # a pattern means folders
    table = collect(read_folders([str(tmp_path / "*")]))
    assert list(table.frame.index) == ["a"]
    assert table.notes[-2:] == (
        "1 unfinished: b. Their command, repeated, finishes them.",
        "2 not a run: c (an evaluation), d (no run's config.json and summary.json).",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at_all"], "nowhere/at_all: there is no such folder. Name folders below runs/"),
        (["{tmp}/empty"], "no finished run among the folders. 1 not a run: empty .*make quickstart"),
        (["{tmp}/begun"], "no finished run among the folders. 1 unfinished: begun"),
        (["{tmp}/run", "--iteration", "7"], "1 without iteration 7: run. Choose a lower --iteration"),
        (["{tmp}/run", "--over", "sed"], "--over sed: no run's config.json has this key"),
        (["{tmp}/run", "--against", "thought=specific"], "--against thought=specific: no run in the table is that one"),
        (["{tmp}/run", "--against", "{tmp}/empty"], "--against .*/empty: 0 finished runs. Name the folder of one"),
        (["{tmp}/run", "--against", "typo"], "typo: there is no such folder"),
        (["{tmp}/damaged"], "damaged/summary.json is damaged"),
    ],
)
def test_command_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", [0.5])
    for name in ("empty", "begun", "damaged"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "begun" / "config.json", CONFIG)
    (tmp_path / "damaged" / "summary.json").write_text("{")
    assert main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == 1
    assert re.search("error: .*" + message, capsys.readouterr().err)


def test_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tpo.results.read.REPOSITORY", tmp_path / "repository")
    assert main(["--out", str(tmp_path / "out" / "deep")]) == 0  # runs/* unless told otherwise
    printed = capsys.readouterr().out
    assert "rho_2                      2          1  +25.0 [+20.0, +30.0]  +0.250 [+0.200, +0.300]\n" in printed
    assert " ".join(NOTES[1].split()) in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 100 and printed.count("rho_10 ") > 1
    table = collect(read_folders(["runs/*"]))
    for kind, write in {"csv": to_csv, "md": to_markdown, "tex": to_latex}.items():
        assert (tmp_path / "out" / "deep" / f"results.{kind}").read_text() == write(table)
        assert f"\nout/deep/results.{kind}\n" in printed
    assert (tmp_path / "out" / "deep" / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_peak_memory_needs_all_manifests(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a", [0.5])
    assert "peak_host_mib" not in results_table([run]).frame
    for name, peak in {"model-1": {"host": 2048.0}, "sample-a": {"host": 1024.0, "device": 3072.0}}.items():
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        manifest = {"artifact_id": name, "files": {}, "metrics": {}, "peak_memory_mib": peak}
        write_sealed(tmp_path / "artifacts" / name / "manifest.json", manifest)
    place = tmp_path / "artifacts"
    stages = [
        {**stage, "content": open_artifact(place / stage["artifact_id"]).content} for stage in run.summary["stages"]
    ]
    table = results_table([replace(run, summary={**run.summary, "stages": stages})])
    assert (table.frame["peak_host_mib"].item(), table.frame["peak_device_mib"].item()) == (2048, 3072)
    assert "| memory (GiB) | GPU memory (GiB) |" in to_markdown(table) and "| 2.0 | 3.0 |" in to_markdown(table)


# --- differences ------------------------------------------------------------------------------------------------

WINS: dict[str, dict[str, float | None]] = {
    "none": {str(number): float(number % 4 == 0) for number in range(24)},
    "generic": {str(number): float(number % 4 != 3) for number in range(24)},
    "specific": {str(number): None if number == 0 else float(number % 2) for number in range(2, 26)},
}


@pytest.fixture
def compared(tmp_path: Path) -> list[FinishedRun]:
    return [
        make_run(
            tmp_path / "runs" / name,
            [],
            settings={"thought.name": name},
            entries=[make_comparison(tmp_path, f"compare-{name}", wins)],
        )
        for name, wins in WINS.items()
    ]


def test_differences_are_paired_and_corrected(compared: list[FinishedRun]) -> None:
    tables = [results_table(compared, against=text) for text in ("thought=none", str(compared[0].path))]
    assert to_csv(tables[0]) == to_csv(tables[1])
    frame = tables[0].frame
    expected = {}
    for name in ("generic", "specific"):
        both = sorted({*WINS[name], *WINS["none"]})
        first, second = [WINS[name].get(key) for key in both], [WINS["none"].get(key) for key in both]
        expected[name] = paired_difference(first, second, seed=0)
        row = frame.loc[name]
        assert row["difference_win_rate"] == expected[name].rate and row["reference"] == "none"
        assert (row["difference_win_rate_low"], row["difference_win_rate_high"]) == expected[name].interval
        assert (row["difference_win_rate_num_paired"], row["difference_win_rate_num_unpaired"]) == (
            expected[name].num_prompts,
            expected[name].num_unscored,
        )
    assert frame.loc["generic", "difference_win_rate"] == 0.5 and frame.loc[
        "generic", "difference_win_rate_p_value"
    ] == pytest.approx(2**-11)
    assert (
        frame.loc["specific", "difference_win_rate_num_paired"] == 22
        and frame.loc["specific", "difference_win_rate_num_unpaired"] == 4
    )
    adjusted = holm([expected[name].p_value for name in ("generic", "specific")])
    assert list(frame.loc[["generic", "specific"], "difference_win_rate_p_value_holm"]) == adjusted
    assert np.isnan(frame.loc["none", "difference_win_rate"]) and bool(frame.loc["none", "is_reference"])
    markdown = to_markdown(tables[0])
    assert re.search(r"\| generic \| generic \|.*\| \+50\.0 \[\+\S+, \+\S+\] \| <0\.001 \| 24 \|", markdown)
    assert re.search(r"\| none \| none \|.*\| reference \| - \| - \|", markdown) and "(+4 unpaired)" in markdown
    assert "by Holm for 2 comparisons" in markdown


def test_a_reference_outside_the_table_joins_it(compared: list[FinishedRun]) -> None:
    table = results_table(compared[1:], against=str(compared[0].path))
    assert sorted(table.frame.index) == ["generic", "none", "specific"]


def test_each_run_has_the_reference_that_agrees_in_all_else(tmp_path: Path) -> None:
    runs = []
    for rho in (0, 0.5):
        for name in ("none", "generic"):
            label = f"{name}_{rho}"
            wins = {str(number): float(number < (8 if name == "none" else 12) + 10 * rho) for number in range(20)}
            found = make_comparison(tmp_path, f"compare-{label}", dict(wins))
            settings = {"thought.name": name, "pairs.length_penalty": rho}
            runs.append(make_run(tmp_path / "runs" / label, [], settings=settings, entries=[found]))
    frame = results_table(runs, against="thought=none").frame
    assert dict(frame["reference"]) == {
        "none_0": "none_0",
        "generic_0": "none_0",
        "none_0.5": "none_0.5",
        "generic_0.5": "none_0.5",
    }
    assert [frame.loc[name, "difference_win_rate"] for name in ("generic_0", "generic_0.5")] == [pytest.approx(0.2)] * 2
    assert not frame.loc[["none_0", "none_0.5"], "difference_win_rate"].notna().any()
    alone = results_table(runs[:3], against="pairs.length_penalty=0.5")  # one has it: everyone's reference
    assert set(alone.frame["reference"]) == {"none_0.5"}


def test_what_does_not_compare_is_said(compared: list[FinishedRun], tmp_path: Path) -> None:
    reference, ours, _ = compared
    other = make_run(tmp_path / "runs" / "judged", [0.5], settings={"thought.name": "x"}, judge="armorm")
    asked = make_run(tmp_path / "runs" / "asked", [0.5], settings={"judge.question": "made up"})
    absent = make_run(tmp_path / "runs" / "absent", [0.5], settings={"thought.name": "y"})
    far = make_comparison(tmp_path, "compare-far", {"elsewhere": 1.0})
    disjoint = make_run(tmp_path / "runs" / "disjoint", [], settings={"seed": 3}, entries=[far])
    found = make_comparison(tmp_path, "compare-damaged", {"0": 1.0})
    damaged = make_run(tmp_path / "runs" / "damaged", [], settings={"seed": 4}, entries=[found])
    (tmp_path / "artifacts" / "compare-damaged" / "rows.jsonl").write_text("")
    table = results_table([reference, ours, other, asked, absent, disjoint, damaged], against=str(reference.path))
    assert list(table.frame.index[table.frame["difference_win_rate"].notna()]) == ["generic"]
    notes = " ".join(table.notes)
    assert re.search(r"Not compared, another judge or baseline: (asked, judged|judged, asked)\.", notes)
    assert "Not compared, the artifact with the comparison is not at hand: absent." in notes
    assert "Not compared, no scored instructions in common: disjoint." in notes
    assert re.search(r"Not compared, damaged artifacts \(.*compare-damaged.*\): damaged\.", notes)
    p_values = [table.frame.loc["generic", f"difference_win_rate_p_value{which}"] for which in ("", "_holm")]
    assert p_values[0] == p_values[1], "one comparison"


@pytest.mark.parametrize(
    ("setting", "is_held"),
    [
        (Setting("pairs.length_penalty", "0.25"), True),
        (Setting("pairs.length_penalty", "2.5e-1"), True),
        (Setting("pairs.length_penalty", "low"), False),
        (Setting("thought", "generic"), True),
        (Setting("thought.name", "generic"), True),
        (Setting("judge", "self_rating"), True),
        (Setting("model.revision", "null"), True),
        (Setting("train.mask_forced_tokens", "true"), True),
        (Setting("train.mask_forced_tokens", "1"), False),
        (Setting("artifacts_dir", "artifacts"), False),
        (Setting("nothing.here", "null"), False),
    ],
)
def test_settings_are_read_as_the_command_line_has_them(setting: Setting, is_held: bool) -> None:
    assert setting.holds(CONFIG) is is_held


# --- drawn over a swept number ----------------------------------------------------------------------------------


def sweep_of(tmp_path: Path, settings: Sequence[dict[str, Any]]) -> ResultsTable:
    return results_table(
        [
            make_run(tmp_path / "runs" / f"job-{number}", [0.5, 0.4 + number / 16], settings=changes)
            for number, changes in enumerate(settings)
        ]
    )


def test_a_sweep_is_drawn_over_its_number(tmp_path: Path) -> None:
    jobs = [
        {"pairs.length_penalty": rho, "thought.name": name} for name in ("generic", "none") for rho in (0.2, 0.0, 0.4)
    ]
    table = sweep_of(tmp_path, jobs)
    assert swept_number(table) == "pairs.length_penalty"
    panels = draw_sweep(table).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "change of win rate (points)",
        "win rate (%)",
        "response tokens",
    ]
    lines = [container.lines[0] for container in panels[0].containers]
    assert [list(line.get_xdata()) for line in lines] == [[0.0, 0.2, 0.4]] * 2
    expected = [[-3.75, -10.0, 2.5], [15.0, 8.75, 21.25]]  # 0.4 less 0.5 and a sixteenth a job, in points
    for line, values in zip(lines, expected, strict=True):
        assert list(line.get_ydata()) == pytest.approx(values)
    legend = panels[2].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["generic", "none"]


@pytest.mark.parametrize(
    "jobs",
    [
        [{"thought.name": "a"}, {"thought.name": "b"}],
        [{"pairs.length_penalty": 0.1, "seed": 0}, {"pairs.length_penalty": 0.2, "seed": 1}],
        [{"train.mask_forced_tokens": True}, {"train.mask_forced_tokens": False}],
    ],
    ids=["names", "two_numbers", "booleans"],
)
def test_what_is_not_a_sweep_over_one_number_is_not_drawn(tmp_path: Path, jobs: list[dict[str, Any]]) -> None:
    assert swept_number(sweep_of(tmp_path, jobs)) is None


# --- repeated runs ----------------------------------------------------------------------------------------------


def repeated(tmp_path: Path, rates: dict[str, list[float | None]]) -> list[FinishedRun]:
    return [
        make_run(tmp_path / "runs" / f"{name}-{seed}", [0.5, value], settings={"seed": seed, "thought.name": name})
        for name, values in rates.items()
        for seed, value in enumerate(values)
    ]


def test_seeds_are_averaged(tmp_path: Path) -> None:
    runs = repeated(tmp_path, {"generic": [0.5, 0.625, 0.75], "none": [0.25]})
    again = make_run(tmp_path / "runs" / "other-0", [0.5, 0.5], settings={"seed": 0, "thought.name": "generic"})
    table = results_table([again, *runs], over="seed")
    first, second = (row for _, row in table.frame.iterrows())
    assert table.frame.index.name == "experiment" and "seed" not in table.frame
    assert (first["thought"], first["num_runs"], first["win_rate"], first["num_prompts"]) == ("generic", 3, 0.625, 24)
    low, high = ttest_1samp([0.5, 0.625, 0.75], 0).confidence_interval(0.95)
    assert (first["win_rate_low"], first["win_rate_high"]) == pytest.approx((low, high))
    assert first["folders"] == "generic-0 generic-1 generic-2" and first["stage_seconds"] == 200
    assert second["num_runs"] == 1 and np.isnan(second["win_rate_low"])
    assert "1 left out, each the same run as another, seed included: other-0." in table.notes
    assert "differ in seed only, with 95 % intervals over runs (Student's t" in table.notes[0]
    assert f"| 62.5 [{100 * low:.1f}, {100 * high:.1f}] |" in to_markdown(table)
    change = ttest_1samp([0.0, 0.125, 0.25], 0).confidence_interval(0.95)  # since 0.5
    assert first["change_win_rate"] == 0.125 and first["num_no_response"] == 12
    assert (first["change_win_rate_low"], first["change_win_rate_high"]) == pytest.approx(tuple(change))
    assert first["change_win_rate_low"] < 0, "a change is no fraction, its interval is not cut off"


def test_intervals_over_runs_stay_fractions_and_unscored_runs_stay_out(tmp_path: Path) -> None:
    [row] = [row for _, row in results_table(repeated(tmp_path, {"a": [0.1, 0.9, None]}), over="seed").frame.iterrows()]
    assert (row["win_rate"], row["win_rate_low"], row["win_rate_high"]) == (0.5, 0, 1)


def test_averages_are_compared_by_seed(tmp_path: Path) -> None:
    runs = repeated(tmp_path, {"generic": [0.5, 0.75, 0.625, 0.9], "none": [0.25, 0.375, 0.5]})
    table = results_table(runs, over="seed", against="thought=none")
    row, reference = (row for _, row in table.frame.iterrows())
    gaps = [0.25, 0.375, 0.125]
    assert row["difference_win_rate"] == pytest.approx(0.25) and bool(reference["is_reference"])
    low, high = ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert (row["difference_win_rate_low"], row["difference_win_rate_high"]) == pytest.approx((low, high))
    assert row["difference_win_rate_p_value"] == pytest.approx(2 ** (1 - 3)) and (
        row["difference_win_rate_num_paired"],
        row["difference_win_rate_num_unpaired"],
    ) == (3, 1)
    assert "| 3 (+1 unpaired) |" in to_markdown(table) and "runs with the same seed" in " ".join(table.notes)


def test_checked_rates_are_compared_by_seed_in_one_family_with_win_rates(tmp_path: Path) -> None:
    rates = {"generic": [0.5, 0.625, 0.5625], "none": [0.25, 0.5, 0.375]}
    runs = [
        checked_run(tmp_path / "runs" / f"{name}-{seed}", value - 0.125, value, **{"seed": seed, "thought.name": name})
        for name, values in rates.items()
        for seed, value in enumerate(values)
    ]
    table = results_table(runs, over="seed", against="thought=none")
    row, reference = (row for _, row in table.frame.iterrows())
    low, high = ttest_1samp([0.25, 0.125, 0.1875], 0).confidence_interval(0.95)
    assert row["difference_checked"] == pytest.approx(0.1875) and np.isnan(reference["difference_checked"])
    assert (row["difference_checked_low"], row["difference_checked_high"]) == pytest.approx((low, high))
    assert row["difference_checked_p_value"] == pytest.approx(0.25) and row["difference_win_rate_p_value"] == 1
    assert row["difference_checked_p_value_holm"] == pytest.approx(0.5), "two tests: the rates and the win rates"
    low, high = ttest_1samp([0.375, 0.5, 0.4375], 0).confidence_interval(0.95)
    assert (row["change_checked"], row["checked"]) == (0.4375, 0.5625)
    assert (row["change_checked_low"], row["change_checked_high"]) == pytest.approx((low, high))
    assert list(table.lines[0]).index("difference_checked") < list(table.lines[0]).index("checked")


def test_checked_rates_are_compared_by_instruction(tmp_path: Path) -> None:
    passed = {"a": [[1, 1], [0, 0], [1, 1], [1, 1]], "b": [[1, 1], [0, 0], [0, 0], [1, 0]]}
    runs = []
    for name, answers in passed.items():
        run = checked_run(tmp_path / "runs" / name, 0.1, 0.5, **{"thought.name": name})
        path = tmp_path / "artifacts" / f"checked-{name}"
        path.mkdir(parents=True)
        write_json(path / "request.json", {})
        rows = [
            CheckResult(str(number), index, check, "title", rule, rule == "loose" or bool(found or check), None)
            for number, samples in enumerate(answers)
            for index, found in enumerate(samples)
            for check in (0, 1)  # the second is always passed
            for rule in ("strict", "loose")
        ]
        unseen = [CheckResult("4", 0, 0, "postscript", "strict", True, None)]
        write_records(path / "rows.jsonl", rows + unseen)
        finish(path, metrics={}, started=time.time())
        run.summary["iterations"][1]["artifacts"]["checked"] = path.name
        runs.append(run)
    found = runs[1].passed(runs[1].summary["iterations"][1])
    assert (
        found == {"0": 1.0, "1": 0.0, "2": 0.0, "3": 0.5} and runs[0].passed(runs[0].summary["iterations"][0]) is None
    )
    table = results_table(runs, against="thought=b")
    row = table.frame.loc["a"]
    expected = paired_difference([1, 0, 1, 1], [1, 0, 0, 0.5], seed=0)
    assert (row["difference_checked"], row["difference_checked_num_paired"]) == (0.375, 4)
    assert (row["difference_checked_low"], row["difference_checked_high"]) == expected.interval
    assert "Not compared, the artifact with the comparison is not at hand: a." in table.notes, "the win rates"


# --- experiments/ -----------------------------------------------------------------------------------------------

RECORDS = sorted({path.parent for path in (REPOSITORY / "experiments").rglob("results.csv")})


def test_tables_are_written_where_a_record_needs_them(tmp_path: Path) -> None:
    table: ResultsTable = results_table(three(tmp_path))
    assert [path.name for path in write_tables(table, tmp_path / "record")] == [
        "results.csv",
        "results.md",
        "results.tex",
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(TpoError, match="cannot be written"):
        write_tables(table, tmp_path / "file")


def test_documented_commands_parse() -> None:
    texts = [path.read_text() for path in (REPOSITORY / "README.md", *(REPOSITORY / "experiments").rglob("*.md"))]
    commands = [found for text in texts for found in re.findall(r"python -m tpo\.results( [^`\n#]+)", text)]
    assert len(commands) >= 2
    for command in commands:
        make_parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_a_record_says_what_it_has_to(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["Question", "Command", "Result", "Verdict", "Cost"]
    assert re.search(r"!\[[^]]+\]\(([\w./-]+)\)", text), f"{folder.name}/README.md shows no figure"
    table = (folder / "results.md").read_text(encoding="utf-8").split("\n\n")[0].strip()
    assert table in text, f"{folder.name}/README.md does not hold results.md's table"
