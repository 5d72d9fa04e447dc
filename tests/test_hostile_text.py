"""Hostile names (`hostile.NAMES`) through all that shows names: they stay text, and none looks like another."""

import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made_up
import pytest
from hostile import NAMES
from made_up import rate, summary
from markdown_it import MarkdownIt
from rich.cells import cell_len
from test_page import Elements
from test_results import make_run

from tpo.plan.doctor import print_findings
from tpo.plan.tables import print_plan
from tpo.results.figures import (
    draw_agreement,
    draw_categories,
    draw_category_gains,
    draw_changes,
    draw_iterations,
    draw_sweep,
    draw_thought_value,
    draw_types,
    save,
)
from tpo.results.page.report import render_page
from tpo.results.rate import Rate
from tpo.results.read import FinishedRun
from tpo.results.run_tables import categories_table, evaluation_table, pairs_table, run_tables, types_table
from tpo.results.table import label_runs, results_table, to_csv, to_latex, to_markdown
from tpo.results.table.formats import FORMULA, readable
from tpo.results.terminal import Terminal
from tpo.results.text_table import TextTable, plain_cells, print_tables
from tpo.results.text_table import to_markdown as markdown
from tpo.results.tracking.labels import Launch, run_labels
from tpo.results.tracking.metrics import gain_rows, iteration_metrics, numbers
from tpo.store.errors import TpoError
from tpo.store.logs import Shown
from tpo.store.text import one_line

REPOSITORY = Path(__file__).parent.parent
MARKUP = NAMES[:20]
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def assert_distinct(names: Sequence[str]) -> None:
    """None steers anything, and no two look the same, whatever draws nothing or is a space."""
    looks = []
    for name in names:
        assert not STEERS.search(name) and "\n" not in name, ascii(name)
        seen = "".join(sign for sign in unicodedata.normalize("NFC", name) if unicodedata.category(sign) != "Cf")
        looks.append(" ".join(seen.split()))
    assert len(set(looks)) == len(names)


def hostile_summary(names: Sequence[str] = NAMES) -> dict[str, Any]:
    """A run whose categories, drops, experiment, judge and baseline have such names."""
    entries = [
        made_up.entry(
            number,
            0.4 + number / 10,
            categories={name: rate(0.5, 10 + place) for place, name in enumerate(names)},
            drops=dict.fromkeys(names, 1) if number else {},
        )
        for number in (0, 1)
    ]
    return summary(*entries, experiment=NAMES[0], judge="".join(NAMES[:60]), baseline=NAMES[5])


def checked_summary(names: Sequence[str] = NAMES) -> dict[str, Any]:
    """A run with types of checks of such names."""
    types = dict.fromkeys(names, 0.5)
    found = made_up.checked(0.5, types=types)
    change = made_up.change(0.1, checked=0.1, types=types)
    return summary(made_up.entry(0, 0.4, checked=found), made_up.entry(1, 0.5, checked=found, change=change))


def run(found: dict[str, Any]) -> FinishedRun:
    return FinishedRun(Path("nowhere"), found, made_up.config())


# --- the terminal and the log -----------------------------------------------------------------------------------


def test_tables_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    categories, types = categories_table(hostile_summary()), types_table(checked_summary())
    assert categories is not None and types is not None
    for table in (categories, types._replace(rows=types.rows[2:])):
        names = [plain_cells(row)[0].removeprefix("  ") for row in table.rows]
        assert len(names) == len(NAMES)
        assert_distinct(names)
    print_tables(*run_tables(hostile_summary()), pairs_table(hostile_summary()), types)
    evaluated = {"evaluation": "x", "policy": NAMES[0], "categories": dict.fromkeys(NAMES, rate(0.5))}
    print_tables(evaluation_table(evaluated))
    out = capsys.readouterr().out
    assert not STEERS.search(out)
    # One that is broken in the middle of its cell is searched for without the breaks.
    whole = "".join(out.split())
    for name in ("maths [hard]", "maths [easy]", "[/x]", "\\x1b[2J\\x1b]0;title\\x07", ":smile:", "zero\\u200bwidth"):
        assert "".join(name.split()) in whole and f"\\{name}" not in whole


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_lines_of_a_run_and_its_log(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Terminal() as terminal:
        terminal.rows({"judge": name})
        terminal.enter("iteration 1/2")
        terminal.line(name)
    err = capsys.readouterr().err
    assert not STEERS.search(err) and len(err.splitlines()) == 2, "no name begins a line"
    assert one_line(name) in err
    assert str(TpoError(name)).isprintable() or "\n" in name or "\t" in name or not name.isprintable()
    assert not STEERS.search(str(TpoError(name)))
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    handler.addFilter(Shown())
    record = logging.LogRecord("x", logging.INFO, "here", 1, "name %s", (name,), None)
    assert handler.filter(record)
    handler.emit(record)
    assert not STEERS.search((tmp_path / "log").read_text())


def test_plan_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [{"state": "missing", "what": name, "found": name, "how": name} for name in NAMES]
    found = {"checks": checks, "card": None, "memory": None, "stages": [], "disk": [], "hours": None, "dollars": None}
    print_findings({**found, "num_cards": 1, "is_ready": False, "unknown": []})
    total = {"stage": None, "token_budget": 0, "expected_tokens": None, "expected_seconds": None}
    total |= {f"num_{name}": 0 for name in ("asked", "distinct", "there", "missing", "shared")}
    total |= {"num_without_tokens": 0, "num_without_estimate": 0, "num_stages": 0}
    jobs = [{"overrides": [f"judge.name={name}"]} for name in NAMES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tpo.plan.tables.notes", lambda summary: list(NAMES))
        print_plan({"jobs": jobs, "stages": [], "kinds": [], "total": total}, with_stages=True)
    out = capsys.readouterr().out
    assert not STEERS.search(out) and "[bold red]x[/]" in out and ":smile:" in out


# --- figures ----------------------------------------------------------------------------------------------------


def evaluation(**more: Any) -> dict[str, Any]:
    return {"policy": NAMES[0], "baseline": NAMES[5], "judge": "".join(NAMES[:60]), "confidence": 0.95, **more}


def gains() -> Any:
    categories = dict.fromkeys(NAMES, rate(0.5))
    return draw_category_gains(evaluation(evaluation="categories", overall=rate(0.5), categories=categories))


def thought_value() -> Any:
    conditions = [
        {"name": name, "win_rate": rate(0.5), "minus_own": None, "mean_thought_tokens": 1.0} for name in NAMES[:40]
    ]
    return draw_thought_value(evaluation(evaluation="thought_value", conditions=conditions))


def judges() -> Any:
    slices = dict.fromkeys(("all", "length_matched", "preferred_shorter"), {**rate(0.5), "num_rows": 12})
    return draw_agreement([{"judge": name, "confidence": 0.95, "slices": slices} for name in NAMES])


def runs() -> list[FinishedRun]:
    """Runs that differ in a setting, whose values are the names."""
    found = []
    for name in NAMES:
        config = made_up.config()
        config = {**config, "thought": {**config["thought"], "name": name}}
        found.append(
            FinishedRun(Path(f"run-{len(found)}"), summary(made_up.entry(0, 0.4), made_up.entry(1, 0.5)), config)
        )
    return found


def compared() -> dict[str, dict[str, Any]]:
    return {label: each.summary for label, each in label_runs(runs()).items()}


def changes_of_runs() -> Any:
    return draw_changes(compared())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "count"),
    [
        (lambda: draw_categories(hostile_summary()), len(NAMES)),
        (lambda: draw_types(checked_summary()), len(NAMES) + 1),
        (gains, len(NAMES) + 1),
        (thought_value, 40),
        (judges, len(NAMES)),
        (changes_of_runs, len(NAMES)),
        (lambda: draw_iterations(dict(list(compared().items())[:12])), None),
    ],
    ids=["categories", "types", "gains", "thought_value", "judges", "changes", "iterations"],
)
def test_figures(draw: Callable[[], Any], count: int | None, tmp_path: Path) -> None:
    figure = draw()
    if count is not None:
        names = [label.get_text().partition("\n")[0] for label in figure.axes[0].get_yticklabels()]
        assert len(names) == count
        assert_distinct(names)
    _, svg = save(figure, tmp_path, "figure", formats=("png", "svg"))
    drawn = "".join(xml.etree.ElementTree.parse(svg).getroot().itertext())
    assert not STEERS.search(drawn)
    if count is not None and draw is not changes_of_runs and count > 40:  # their values are too long for names
        assert "maths [hard]" in drawn and "maths [easy]" in drawn and "\u6570\u5b66" in drawn and "$x$" in drawn
        names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert any("\\u6570\\u5b66" in name for name in names), "as in the PNG, whose font has no such character"


def test_a_sweep_has_each_group_in_its_legend(tmp_path: Path) -> None:
    names = [name for name in NAMES if len(name) < 30][:8] + ["_x_", "__init__"]
    found = [
        make_run(
            tmp_path / "runs" / f"{place}-{rho}", [0.5], settings={"thought.name": name, "pairs.length_penalty": rho}
        )
        for place, name in enumerate(names)
        for rho in (0, 1)
    ]
    figure = draw_sweep(results_table(found))
    [legend] = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    shown = [text.get_text() for text in legend.get_texts()]
    assert len(shown) == len(names)
    assert_distinct(shown)
    save(figure, tmp_path, "sweep")


# --- files ------------------------------------------------------------------------------------------------------


def test_csv_is_computed_by_no_spreadsheet() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(results_table(runs())), newline="")))
    column = rows[0].index("thought")
    cells = [row[column] for row in rows[1:]]
    assert sorted(cell[1:] if cell[:1] == "'" else cell for cell in cells) == sorted(NAMES), "one apostrophe less"
    numbers = re.compile(r"[-+]?[0-9.]+(e-?[0-9]+)?")
    for cell in (cell for row in rows for cell in row):
        assert cell.startswith("'") or numbers.fullmatch(cell) or not FORMULA.match(cell), cell


def test_markdown_is_the_text(tmp_path: Path) -> None:
    table = TextTable("", ["name", "n"], [[name, "1"] for name in NAMES])
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for text in (markdown(table), to_markdown(results_table(runs()))):
        cells = [token for token in parser.parse(text) if token.type == "inline"]
        for cell in cells:
            kinds = {child.type for child in cell.children or ()}
            assert kinds <= {"text", "text_special"}, (cell.content, kinds)
        shown = ["".join(child.content for child in cell.children or ()) for cell in cells]
        for name in (name for name in NAMES if len(name) < 40):
            assert one_line(name) in shown, ascii(name)


def test_latex_has_no_command_of_a_name() -> None:
    text = to_latex(results_table(runs()))
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    words = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"}
    assert commands <= words | {"begin", "end", "toprule", "midrule", "bottomrule", "textasciigrave", "textquotesingle"}
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == len(NAMES) + 1
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    assert not any(re.search(r"(?<!\\)[%#$_~]|\^", row) or row.lstrip()[0] in "[*" for row in rows)
    assert all(line.startswith("%") for line in text[: text.index(r"\begin")].splitlines())


@pytest.mark.slow
def test_page_holds_names_as_text() -> None:
    for found in (hostile_summary(MARKUP), checked_summary(MARKUP)):  # figures of all take long to lay out
        page = render_page(run(found), samples=None)
        elements = Elements(page)
        plain = Elements(render_page(run(made_up.full_summary()), samples=None))
        assert {name for name, _ in elements.tags} <= {name for name, _ in plain.tags}
        assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
        assert not STEERS.search(page.replace("\t", ""))
        words = {" ".join(word.split()) for word in elements.words}
        assert {"maths [hard]", "maths [easy]", "<script>alert(1)</script>", "&lt;b&gt;"} <= words


def test_wandb_names(tmp_path: Path) -> None:
    metrics = iteration_metrics(hostile_summary()["iterations"][0])
    keys = [key.removeprefix("eval/category/") for key in metrics if key.startswith("eval/category/")]
    assert len(keys) == len(NAMES)
    assert_distinct(keys)
    assert len(dict(numbers({"categories": dict.fromkeys(NAMES, {"rate": 0.5})}, "eval"))) == len(NAMES)
    assert_distinct([row[0] for row in gain_rows({name: Rate.from_dict(rate(0.5)) for name in NAMES}, {})])
    for name in NAMES:
        told = run_labels(Launch(overrides=(f"thought.name={name}",), choices={"judge": name}), experiment=name)
        for text in (told.name, *told.tags):
            assert not STEERS.search(text) and "\n" not in text and len(text) <= 128


def test_a_setting_of_the_group_pairs_stands_beside_the_number_of_pairs(tmp_path: Path) -> None:
    found = [make_run(tmp_path / "runs" / kind, [0.5, 0.5], settings={"pairs.kind": kind}) for kind in ("best", "all")]
    table = readable(results_table(found))
    columns = {name: [row[place] for row in table.rows] for place, name in enumerate(table.names)}
    assert columns["pairs="] == ["all", "best"] and columns["pairs"] == ["30", "30"]


def test_settings_of_one_text_stand_as_json(tmp_path: Path) -> None:
    values = [1, "1", None, "-", True, "True", "x" * 50 + "1", "x" * 50 + "2"]
    found = [
        make_run(tmp_path / "runs" / str(place), [0.5], settings={"judge.question": value})
        for place, value in enumerate(values)
    ]
    table = readable(results_table(found))
    shown = [row[list(table.names).index("judge.question")] for row in table.rows]
    assert len(set(shown)) == len(values) and {"1", '"1"', "null", '"-"', "true", '"True"'} <= set(shown)
    assert max(map(len, shown)) == 40


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_instructions_of_such_categories(tmp_path: Path) -> None:
    categories = [name for name in NAMES if name.strip()][:36]
    rows = [{"text": f"Instruction {n} of {c}", "category": c, "split": "test"} for c in categories for n in range(10)]
    rows += [{"text": f"Train {number} {NAMES[number]}", "split": "train"} for number in range(6)]
    rows += [{"text": f"Validate {number} \0 \ufeff", "split": "validation"} for number in range(2)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["experiment=smoke", "judge=length", "model.quantization=none", "tracking=wandb", "tracking.mode=offline"]
    given += ["prompts=file", f"prompts.path={tmp_path}/mine.jsonl", "prompts.num_test=360"]
    given += [f"artifacts_dir={tmp_path}/artifacts", f"runs_dir={tmp_path}/runs", "thought.name='[/x] $\\frac{$'"]
    path = ":".join([str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "results")])
    done = subprocess.run(
        [sys.executable, "tests/run_with_fake_stages.py", *given],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not STEERS.search(done.stdout + done.stderr) and "[/x] $\\frac{$" in done.stderr
    [folder] = (tmp_path / "runs").glob("smoke-*")
    assert {"categories.png", "iterations.png"} <= {path.name for path in (folder / "figures").iterdir()}
    page = (folder / "report.html").read_text()
    assert "maths [hard]" in page and "maths [easy]" in page and not STEERS.search(page)
    assert not STEERS.search((tmp_path / "runs" / "hydra" / "experiment=smoke" / "tpo.log").read_text())


def test_cells_are_as_wide_as_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(TextTable("", ["name", "n"], [[name, "1"] for name in NAMES if len(name) < 40]))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len({cell_len(line.rstrip()) for line in lines[2:]}) == 1, "columns stay in line"
