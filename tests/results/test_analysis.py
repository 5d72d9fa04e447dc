"""Notebooks run from top to bottom, and results are found, named and drawn."""

import base64
import shlex
import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import made_up
import nbformat
import pytest
from commands import run_command
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from scipy.stats import ttest_1samp
from test_figures import BUDGETS, CATEGORIES, THOUGHT_VALUE

from analysis.__main__ import SOURCES, read_source
from tpo.evaluate.agreement.statistics import agreement
from tpo.judge.protocol import Judgement
from tpo.results.__main__ import EXAMPLES, main
from tpo.results.figures import draw_changes, with_length_intervals
from tpo.results.figures.style import numbers_text
from tpo.results.read import FinishedRun, ResultError, read_folder, read_folders
from tpo.results.table import label_runs, swept_settings
from tpo.store.artifacts import finish
from tpo.store.files import write_json, write_sealed
from tpo.store.records import Completion, LabelledPair, write_records

REPOSITORY = Path(__file__).parents[2]
SUMMARY: dict[str, Any] = made_up.full_summary()
CONFIG: dict[str, Any] = made_up.config()


def put(path: Path, summary: dict[str, Any], config: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True)
    write_sealed(path / "summary.json", summary)
    if config is not None:
        write_json(path / "config.json", config)
    return path


def made_up_judges(path: Path) -> Path:
    pairs = [LabelledPair(str(number), 0, 1, float(number % 2), "g", 10, 10 + number % 3) for number in range(12)]
    path.mkdir(parents=True)
    for name, outcomes in {"worse": [1.0, 0.0, 0.0], "better": [0.0, 1.0, 0.0], "silent": [None] * 3}.items():
        judgements = [Judgement(outcome, None if outcome is not None else "made up") for outcome in 4 * outcomes]
        result = agreement(pairs, judgements, seed=0, num_resamples=50)
        write_sealed(path / f"made_up_{name}.json", {"judge": name, "data": "made up", **result.to_dict()})
    return path


@pytest.fixture(scope="module")
def runs_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in place of runs/: a run alone, with everything else beside it, and an empty one."""
    root = tmp_path_factory.mktemp("runs_dirs")
    alone, everything, nothing = root / "alone", root / "everything", root / "nothing"
    nothing.mkdir()
    for folder in (alone, everything):
        put(folder / "quickstart-bdbd3c7e264f", SUMMARY, CONFIG)
    direct = {**CONFIG, "thought": {**CONFIG["thought"], "name": "none", "prompt": None}}
    put(everything / "quickstart-made_up", SUMMARY, direct)
    (everything / "quickstart-unfinished").mkdir()
    write_json(everything / "quickstart-unfinished" / "config.json", CONFIG)
    for summary in (CATEGORIES, THOUGHT_VALUE, BUDGETS):
        put(everything / f"evaluate-{summary['evaluation']}-made_up", summary)
    made_up_judges(everything / "agreement-made_up")
    return {"alone": alone, "everything": everything, "nothing": nothing}


# --- notebooks --------------------------------------------------------------------------------------------------

Executed = dict[tuple[str, str], list[Any]]


@pytest.fixture(scope="module")
def executed(runs_dirs: dict[str, Path]) -> Executed:
    """The outputs of every notebook on every folder of `runs_dirs`, from top to bottom."""
    return execute(runs_dirs)


def execute(folders: Mapping[str, Path | None]) -> Executed:
    """Return the outputs of every notebook with the settings for each folder, or with its own where that is None.

    One kernel executes all, as starting one takes longer than a notebook; each begins with an empty namespace.
    """
    end = "assert not {'vllm', 'trl', 'torch'} & set(__import__('sys').modules)"
    parts: dict[tuple[str, str], list[Any]] = {}
    for folder, runs_dir in folders.items():
        for path in SOURCES:
            title, settings, *cells = read_source(path).cells
            chosen = [] if runs_dir is None else [new_code_cell(settings_for(runs_dir, settings.source))]
            parts[folder, path.stem] = [
                new_code_cell("%reset -f"),
                title,
                settings,
                *chosen,
                *cells,
                new_code_cell(end),
            ]
    notebook = new_notebook(cells=[cell for cells in parts.values() for cell in cells])
    where = {"metadata": {"path": str(REPOSITORY / "analysis")}}  # Jupyter, too, starts a kernel beside the notebook
    NotebookClient(notebook, kernel_name="python3", resources=where, timeout=300, allow_errors=True).execute()
    return {
        key: [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
        for key, cells in parts.items()
    }


def settings_for(runs_dir: Path, settings: str) -> str:
    """What a reader writes into a notebook's cell of settings to read a folder, each run by itself."""
    wanted = {
        "RUNS": [f"{runs_dir}/*"],
        "EVALUATIONS": [f"{runs_dir}/evaluate-*"],
        "AGREEMENTS": [f"{runs_dir}/agreement-*"],
        "OVER": None,
        "AGAINST": None,
    }
    return "\n".join(f"{name} = {value!r}" for name, value in wanted.items() if f"\n{name} = " in f"\n{settings}")


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def data(outputs: list[Any], kind: str) -> list[str]:
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def pictures(outputs: list[Any]) -> list[str]:
    return data(outputs, "image/png")


#: Notebook: pictures from the run alone, and with everything.
EXPECTED = {
    "ablations": (1, 1),
    "categories": (2, 5),
    "iterations": (2, 2),
    "judges": (0, 1),
    "lengths": (1, 1),
    "thought_value": (0, 2),
}


def test_notebooks_are_found() -> None:
    assert [path.stem for path in SOURCES] == sorted(EXPECTED) and len(SOURCES) == 6
    assert sorted(path.stem for path in (REPOSITORY / "analysis").glob("*.ipynb")) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("folder", ["alone", "everything", "nothing"])
def test_notebook_runs_from_top_to_bottom(folder: str, name: str, executed: Executed) -> None:
    outputs = executed[folder, name]
    assert [output["evalue"] for output in outputs if output.output_type == "error"] == []
    assert (
        len(pictures(outputs))
        == dict(zip(("alone", "everything", "nothing"), (*EXPECTED[name], 0), strict=True))[folder]
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_notebook_says_in_a_line_what_is_absent(name: str, executed: Executed) -> None:
    lines = printed(executed["nothing", name]).splitlines()
    assert lines and all(line.startswith("No ") and " in [" in line for line in lines)
    assert "No " not in printed(executed["everything", name])


def test_ablations_hold_the_run(executed: Executed) -> None:
    [table] = data(executed["alone", "ablations"], "text/markdown")
    assert "| quickstart-bdbd3c7e264f | 2 | +13.1 [+8.1, +18.1] | -4.0 [-9.0, +1.0] | +9.0 [+4.0, +14.0] |" in table
    assert "thought=none" not in table and "| none |" in data(executed["everything", "ablations"], "text/markdown")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_notebook_begins_with_its_question_and_its_settings(path: Path) -> None:
    first, settings, *cells = read_source(path).cells
    assert first.cell_type == "markdown" and first.source.splitlines()[0].endswith("?") and "Reads: " in first.source
    assert settings.metadata["tags"] == ["parameters"] and '= ["experiments/' in settings.source
    assert not [cell for cell in cells if "tags" in cell.metadata]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_committed_notebook_is_its_source(path: Path) -> None:
    """`make notebooks` writes it anew."""
    committed, source = nbformat.read(path.with_suffix(".ipynb"), as_version=4), read_source(path)
    nbformat.validate(committed)
    cells = [
        [(cell.id, cell.cell_type, cell.metadata, cell.source) for cell in notebook.cells]
        for notebook in (committed, source)
    ]
    assert cells[0] == cells[1] and committed.metadata == source.metadata
    assert path.with_suffix(".ipynb").stat().st_size < 200 * 1024
    assert str(REPOSITORY) not in path.with_suffix(".ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
def test_committed_notebooks_show_what_the_records_hold() -> None:
    """`make notebooks` writes them anew. Pictures are compared by the numbers drawn and by their sizes."""
    executed = execute({"records": None})
    for path in SOURCES:
        committed = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
        outputs = [output for cell in committed.cells if cell.cell_type == "code" for output in cell.outputs]
        again = executed["records", path.stem]
        assert printed(outputs) == printed(again)
        for kind in ("text/markdown", "text/plain"):
            assert data(outputs, kind) == data(again, kind), path.stem
        assert [size_of(picture) for picture in pictures(outputs)] == [size_of(picture) for picture in pictures(again)]


def size_of(picture: str) -> tuple[int, ...]:
    """Width and height of a PNG in pixels."""
    content = base64.b64decode(picture)
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">II", content[16:24])


def test_a_committed_picture_has_its_numbers_beside_it() -> None:
    text = numbers_text(draw_changes({"one": SUMMARY, "two": SUMMARY}))
    caption, panel, names, *points = text.splitlines()
    assert caption.startswith("trained minus untrained") and panel == "[checked rate; change (points)]"
    assert names == "one | two"
    assert {"(8.1, 0) (18.1, 0)", "(13.1, 0)", "(8.1, 1) (18.1, 1)"} <= set(points)


# --- finding and naming results ---------------------------------------------------------------------------------


def test_results_are_told_apart(runs_dirs: dict[str, Path]) -> None:
    root = runs_dirs["everything"]
    names = [run.path.name for run in read_folders([f"{root}/*"]).runs]
    assert names == ["quickstart-bdbd3c7e264f", "quickstart-made_up"]
    assert [found.kind for found in read_folders([f"{root}/evaluate-*", f"{root}/*"]).evaluations] == [
        "categories",
        "thought_budget",
        "thought_value",
    ]
    [measured] = read_folders([f"{root}/agreement-*"]).judges
    assert [judge["judge"] for judge in measured.judges] == ["better", "worse", "silent"]
    assert read_folders(["experiments/bench"]).others, "no run, relative to the repository"
    assert read_folder(runs_dirs["everything"] / "quickstart-unfinished") is None


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"iterations": [')
    with pytest.raises(ResultError, match="summary.json is damaged"):
        read_folder(tmp_path)


def run(name: str, **changes: Any) -> FinishedRun:
    config = {key: {**found, **changes.get(key, {})} for key, found in CONFIG.items() if isinstance(found, dict)}
    return FinishedRun(Path(name), SUMMARY, {**CONFIG, **config})


NONE = {"name": "none", "prompt": None}


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([run("a")], ["quickstart"]),
        ([run("a"), run("b", thought=NONE)], ["thought=generic", "thought=none"]),
        ([run("a"), run("b", train={"beta": 0.2})], ["beta=0.1", "beta=0.2"]),
        ([run("a"), run("b", tracking={"kind": "none"})], ["a", "b"]),
        ([run("a"), run("b", sample={"temperature": 1.0}, model={"name": "a-name-that-is-longer" * 2})], ["a", "b"]),
        (
            [run("a"), run("b", sample={"temperature": 1.0}, model={"name": "a-name-that-is-longer-still"})],
            ["model=smollm2-135m-instruct temperature=0.8", "model=a-name-that-is-longer-still temperature=1.0"],
        ),
        ([run("a"), FinishedRun(Path("b"), {**SUMMARY, "experiment": "other"}, CONFIG)], ["quickstart", "other"]),
        (
            [run("a"), run("b", thought=NONE), FinishedRun(Path("c"), {**SUMMARY, "experiment": "other"}, CONFIG)],
            ["quickstart thought=generic", "quickstart thought=none", "other"],
        ),
    ],
)
def test_labels_tell_runs_apart(runs: list[FinishedRun], labels: list[str]) -> None:
    assert list(label_runs(runs)) == labels and list(label_runs(runs).values()) == runs


def test_a_named_group_hides_only_what_its_name_determines() -> None:
    configs = [
        {"thought": {"name": "generic", "prompt": "one", "enforce": "switch"}, "seed": 0},
        {"thought": {"name": "generic", "prompt": "one", "enforce": "none"}, "seed": 0},
        {"thought": {"name": "none", "prompt": None}, "seed": 0},
    ]
    assert swept_settings(configs) == [
        {"thought": "generic", "thought.enforce": "switch"},
        {"thought": "generic", "thought.enforce": "none"},
        {"thought": "none", "thought.enforce": None},
    ]


# --- lengths ----------------------------------------------------------------------------------------------------


def test_lengths_get_intervals_from_the_answers(tmp_path: Path) -> None:
    lengths = [40, 55, 61, 64, 64, 70, 90, 44, 52, 58]
    path = tmp_path / "artifacts" / "sample-made_up"
    path.mkdir(parents=True)
    write_json(path / "request.json", {})
    rows = [
        Completion(
            prompt_id=str(number),
            sample_index=0,
            prompt_ids=[],
            completion_ids=[],
            forced_start=0,
            forced_stop=0,
            response_start=0,
            is_prefilled=False,
            completion="",
            thought="t",
            response="r" if length else None,
            split_error=None if length else "empty",
            finish_reason="stop",
            num_thought_tokens=length,
            num_response_tokens=7,
            seed=0,
        )
        for number, length in enumerate([*lengths, 0])  # the last has no response, and does not count
    ]
    write_records(path / "rows.jsonl", rows)
    entries = [{**entry, "artifacts": {"answers": path.name}} for entry in SUMMARY["iterations"][:1]]
    config = {**CONFIG, "artifacts_dir": str(path.parent)}
    found = FinishedRun(tmp_path, {**SUMMARY, "iterations": entries}, config)
    assert with_length_intervals(found) == found.summary, "an artifact without a manifest does not exist"
    finish(path, metrics={}, started=time.time())
    [entry] = with_length_intervals(found)["iterations"]
    expected = list(ttest_1samp(lengths, 0).confidence_interval(0.95))
    assert entry["length_intervals"] == {"thought": pytest.approx(expected), "response": [7, 7]}
    elsewhere = FinishedRun(tmp_path, SUMMARY, {**CONFIG, "artifacts_dir": str(tmp_path / "nowhere")})
    assert "length_intervals" not in with_length_intervals(elsewhere)["iterations"][0]


DRAWN = ("iterations", "types", "categories", "lengths")  # of a run without artifacts


# --- the command ------------------------------------------------------------------------------------------------


def test_command_draws_a_run_into_its_folder(runs_dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs_dirs["alone"] / "quickstart-bdbd3c7e264f", folder)
    done = run_command("tpo.results", "--figures", str(folder), loads_models=True)
    assert done.returncode == 0, done.stderr
    names = [f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")]
    assert done.stdout.split() == [str(folder / "figures" / name) for name in names]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted(names)


def test_command_compares_several(
    runs_dirs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(str(path) for path in runs_dirs["everything"].iterdir() if path.is_dir())
    assert main(["--figures", *folders, "--out", str(tmp_path), "--formats", "svg"]) == 0
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {
        "agreement-made_up/agreement.svg",
        "evaluate-categories-made_up/categories.svg",
        "evaluate-thought_budget-made_up/thought_budget.svg",
        "evaluate-thought_value-made_up/thought_value.svg",
        *(f"quickstart-{name}/{figure}.svg" for name in ("bdbd3c7e264f", "made_up") for figure in DRAWN),
        "changes.svg",
        "iterations.svg",
        "lengths.svg",
    }
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(written) and err.strip().endswith("quickstart-unfinished: nothing to draw")
    assert ">thought=none<" in (tmp_path / "iterations.svg").read_text()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["quickstart-unfinished"], "no folder holds a finished run"),
        (["quickstart-bdbd3c7e264f", "quickstart-made_up"], "several folders need --out"),
    ],
)
def test_command_says_what_is_wrong(
    names: list[str], message: str, runs_dirs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--figures", *(str(runs_dirs["everything"] / name) for name in names)]) == 1
    assert f"error: {message}" in capsys.readouterr().err


def test_command_draws_nothing_of_an_evaluation_without_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "evaluate-gsm8k", {"evaluation": "gsm8k"})
    assert main(["--figures", str(tmp_path / "evaluate-gsm8k")]) == 0
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figures", "--over", "seed"], "--over says nothing about the figures"),
        (["--page", "--all-iterations"], "--all-iterations says nothing about the page"),
        (["--formats", "png"], "--formats says nothing about the table"),
        (["--figures", "--max-instructions", "3"], "--max-instructions says nothing about the figures"),
        (["--page", "--out", "x"], "--out says nothing about the page"),
        (["--page", "--figures"], "not allowed with"),
    ],
)
def test_options_of_another_mode_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_examples_of_the_help_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("quickstart-a", "quickstart-b")):
        thought = {**CONFIG["thought"], "name": ("generic", "none")[number]}
        put(tmp_path / "runs" / name, SUMMARY, {**CONFIG, "thought": thought, "seed": number})
    put(tmp_path / "experiments" / "quickstart", SUMMARY, CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tpo.results.read.REPOSITORY", tmp_path)
    lines = [line.split("  ")[1] for line in EXAMPLES.splitlines()[1:]]
    summaries_do = [line for line in lines if "--export" not in line and "--samples" not in line]
    assert len(summaries_do) == len(lines) - 3, "three need a run's artifacts: see test_data.py and test_beside.py"
    for line in summaries_do:
        assert main(shlex.split(line.removeprefix("python -m tpo.results"))) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "tables/results.tex\n" in out and "figures/iterations.pdf\n" in out
    assert "runs/quickstart-a/report.html\nruns/quickstart-b/report.html\n" in out
    assert out.endswith("record/quickstart-b/config.json\nrecord/quickstart-b/summary.json\n")
