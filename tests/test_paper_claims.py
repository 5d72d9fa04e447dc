"""The record of the paper's claims: arms, tests against scipy, verdicts in all ways, and the record's own text."""

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from experiments.paper_claims.__main__ import HERE, KEPT, load_kept, main
from experiments.paper_claims.arms import Arms, read_arms
from experiments.paper_claims.claims import Finding, conjunction, findings, type_changes
from experiments.paper_claims.figure import draw_claims
from experiments.paper_claims.quantities import gain, lead, likelihood_term, prompt_cost, thought_growth, unseen_gain
from experiments.paper_claims.tables import claims_table, lengths_table, markdown, record_tables, seeds_table
from experiments.paper_claims.verdicts import CANNOT_TELL, MARGIN, NO, YES, over_seeds, verdict
from tpo.results.read import FinishedRun, ResultError
from tpo.results.stats import holm
from tpo.store.files import write_json, write_sealed

GAINS = (0.10, 0.13, 0.09, 0.12, 0.11)  # by seed
DIRECT: dict[str, Any] = {"thought": {"name": "none", "enforce": "none", "thought_delimiter": None}}
RHO: dict[str, Any] = {"pairs": {"length_penalty": 0.25}}
NO_LIKELIHOOD: dict[str, Any] = {"train": {"nll_weight": 0.0}}


def make_run(
    path: Path,
    seed: int,
    rates: tuple[float, ...],
    *,
    settings: dict[str, dict[str, Any]] | None = None,
    direct: float = 0.3,
    thoughts: tuple[float, ...] = (20, 15, 10),
    responses: tuple[float, ...] = (100, 110, 121),
    unseen: tuple[float, ...] = (0.2, 0.2, 0.2),
    types: tuple[dict[str, float], ...] = ({}, {}, {}),
    format_rate: float = 0.5,
    **changes: Any,
) -> FinishedRun:
    """A made-up run with these checked rates of iterations 0, 1, ...; `settings` by group, `changes` of the summary."""
    config = json.loads(json.dumps(made_up.config())) | {"seed": seed}
    config["pairs"]["length_penalty"], config["train"]["nll_weight"] = 0.0, 1.0
    for group, values in (settings or {}).items():
        config[group] |= values
    entries = [
        made_up.entry(
            number,
            0.5,
            checked=made_up.checked(value, types=types[number], unseen=unseen[number]),
            change=made_up.change(0.1, checked=value - rates[0], unseen=unseen[number] - unseen[0]) if number else None,
            mean_thought_tokens=thoughts[number],
            mean_response_tokens=responses[number],
            format_rate=format_rate,
            parse_rate=1.0,
            sampling={"truncated_rate": 0.25} if number else None,
        )
        for number, value in enumerate(rates)
    ]
    summary = made_up.summary(
        *entries, seed=seed, baseline_checked=made_up.checked(direct), thought=config["thought"]["name"], **changes
    )
    return FinishedRun(path, summary, config)


def seeds(path: Path, gains: tuple[float, ...] = GAINS, *, start: float = 0.25, **changes: Any) -> list[FinishedRun]:
    """A run for each gain, half of it in each of two iterations."""
    return [
        make_run(path / f"run-{seed}", seed, (start, start + value / 2, start + value), **changes)
        for seed, value in enumerate(gains)
    ]


def finding(arms: Arms, measure: Any) -> Finding:
    (found,) = [one for one in findings(arms) if one.claim.measure is measure]
    return found


def all_arms(path: Path) -> Arms:
    return read_arms(
        [
            *seeds(path / "a"),
            *seeds(path / "b", (0.02, 0.03, 0.01, 0.04, 0.02), start=0.29, settings=DIRECT),
            *seeds(path / "c", (0.1, 0.08), settings=RHO, responses=(100, 90, 81)),
            *seeds(path / "d", (0.101, 0.129, 0.09), settings=NO_LIKELIHOOD),
        ]
    )


# --- arms -------------------------------------------------------------------------------------------------------


def test_runs_are_sorted_into_arms_by_their_settings_alone(tmp_path: Path) -> None:
    arms = all_arms(tmp_path)
    places = {name: {run.path.parent.name for run in getattr(arms, name).values()} for name in Arms._fields[:-1]}
    assert places == {"thoughts": {"a"}, "direct": {"b"}, "length_control": {"c"}, "other_likelihood": {"d"}}
    assert [len(getattr(arms, name)) for name in Arms._fields[:-1]] == [5, 5, 2, 3]


def test_as_many_runs_with_and_without_likelihood_have_the_larger_weight_first(tmp_path: Path) -> None:
    runs = [*seeds(tmp_path / "d", settings=NO_LIKELIHOOD), *seeds(tmp_path / "a")]
    assert read_arms(runs) == read_arms(runs[::-1])
    assert read_arms(runs).example.path.parent.name == "a"
    fewer = read_arms(runs[:-1])  # then the most runs are what the others are compared with
    assert fewer.example.path.parent.name == "d"
    values = finding(fewer, likelihood_term).values
    assert values == dict.fromkeys(range(4), pytest.approx(0.0))


@pytest.mark.parametrize(
    ("others", "reruns", "message"),
    [
        ([{"seed": 0}], [], "two runs of seed 0"),
        ([{"settings": {"train": {"learning_rate": 1.0}}}], [], "differs from .*run-0 in train.learning_rate"),
        ([{"settings": {**DIRECT, **RHO}}], [], "pairs.length_penalty, thought.enforce"),
        ([{"settings": RHO}, {"settings": {"pairs": {"length_penalty": 0.5}}}], [], "both length control"),
        ([{"baseline_checked": None}], [], "prompts=checked"),
        ([{"rates": (0.2,)}], [], "trained no iteration"),
        ([], [{"seed": 7}], "no run with thoughts of seed 7"),
        ([], [{"settings": {"train": {"num_epochs": 9}}}], "train.num_epochs, which is more than rounding"),
        ([], [{"seed": 0}, {"seed": 1}], "seeds 0, 1"),
    ],
    ids=["twice", "stranger", "two differ", "two of a kind", "unchecked", "untrained", "no seed", "more", "two seeds"],
)
def test_runs_that_do_not_fit_are_named(
    tmp_path: Path, others: list[dict[str, Any]], reruns: list[dict[str, Any]], message: str
) -> None:
    def made(name: str, changes: dict[str, Any]) -> FinishedRun:
        run = make_run(
            tmp_path / name,
            changes.get("seed", 1),
            changes.get("rates", (0.2, 0.3, 0.4)),
            settings=changes.get("settings"),
        )
        run.summary.update({key: value for key, value in changes.items() if key == "baseline_checked"})
        return run

    runs = [*seeds(tmp_path, GAINS[:2]), *(made(f"other-{number}", one) for number, one in enumerate(others))]
    with pytest.raises(ResultError, match=message) as caught:
        read_arms(runs, [made(f"again-{number}", one) for number, one in enumerate(reruns)])
    assert "\n" not in str(caught.value)


def test_reruns_may_differ_in_what_rounds(tmp_path: Path) -> None:
    again = make_run(tmp_path / "again", 0, (0.25, 0.3, 0.36), settings={"train": {"micro_batch_size": 1}})
    batch = make_run(tmp_path / "batch", 0, (0.25, 0.3, 0.34), settings={"engine": {"max_sequences": 8}})
    arms = read_arms(seeds(tmp_path), [again, batch])
    (note,) = [note for note in seeds_table(arms).notes if note.startswith("Rounding")]
    spread, third = stdev([0.10, 0.11, 0.09]), mean(GAINS) / 3
    assert "3 runs of seed 0" in note and "+10.0, +11.0, +9.0 points" in note
    assert (
        f"deviation is {100 * spread:.1f}, less than a third of the mean change over seeds ({100 * third:.1f})" in note
    )
    wild = [make_run(tmp_path / "wild", 0, (0.25, 0.3, 0.15))]
    assert "not less than a third" in " ".join(seeds_table(read_arms(seeds(tmp_path), wild)).notes)
    assert "No reruns that differ in rounding alone." in seeds_table(read_arms(seeds(tmp_path))).notes


# --- tests and verdicts -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=8).filter(lambda values: stdev(values) > 1e-4))
def test_means_over_seeds_are_as_in_scipy(values: list[float]) -> None:
    found = over_seeds(dict(enumerate(values)), confidence=0.95)
    expected = ttest_1samp(values, 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.rate == pytest.approx(mean(values))
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.num_prompts == len(values)


@given(st.lists(st.floats(-0.12, 0.12), min_size=2, max_size=8).filter(lambda values: stdev(values) > 1e-4))
def test_a_negligible_difference_is_one_whose_interval_lies_within_the_margin(values: list[float]) -> None:
    found = over_seeds(dict(enumerate(values)), confidence=0.95, margin=MARGIN)
    assert found.interval is not None and found.rate is not None and found.p_value is not None
    low, high = found.interval
    if abs(found.rate) < MARGIN:
        greater = ttest_1samp(values, -MARGIN, alternative="greater").pvalue
        less = ttest_1samp(values, MARGIN, alternative="less").pvalue
        assert found.p_value == pytest.approx(min(1.0, 2 * max(greater, less)))
        assert (found.p_value < 0.05) is (low > -MARGIN and high < MARGIN)
    else:
        assert found.p_value == pytest.approx(ttest_1samp(values, 0.0).pvalue)


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        ([0.10, 0.12, 0.11], 1, YES),
        ([0.10, 0.12, 0.11], -1, NO),
        ([-0.10, -0.12, -0.11], -1, YES),
        ([-0.10, -0.12, -0.11], 1, NO),
        ([0.10, -0.12, 0.11], 1, CANNOT_TELL),
        ([0.1], 1, CANNOT_TELL),
        ([], 1, CANNOT_TELL),
        ([0.1, 0.1], 1, YES),
        ([0.0, 0.0], 1, CANNOT_TELL),
        ([0.010, 0.012, 0.011], 0, YES),
        ([0.0, 0.0], 0, YES),
        ([0.10, 0.12, 0.11], 0, NO),
        ([-0.10, -0.12, -0.11], 0, NO),
        ([0.04, -0.04, 0.01], 0, CANNOT_TELL),
        ([0.2, -0.04, 0.1], 0, CANNOT_TELL),
    ],
)
def test_verdicts(values: list[float], direction: int, expected: str) -> None:
    found = over_seeds(dict(enumerate(values)), confidence=0.95, margin=None if direction else MARGIN)
    corrected = found.__class__(**{**vars(found), "adjusted_p_value": found.p_value})
    assert verdict(corrected, direction=direction, confidence=0.95) == expected


def test_a_claim_that_holds_alone_may_not_hold_among_others(tmp_path: Path) -> None:
    found = findings(all_arms(tmp_path))
    p_values = [one.difference.p_value for one in found]
    assert [one.difference.adjusted_p_value for one in found] == holm(p_values)
    assert len(p_values) == 10 and None not in p_values
    alone = over_seeds({0: 0.1, 1: 0.102}, confidence=0.95)
    assert alone.p_value is not None and alone.p_value < 0.05
    corrected = alone.__class__(**{**vars(alone), "adjusted_p_value": 10 * alone.p_value})
    assert verdict(corrected, direction=1, confidence=0.95) == CANNOT_TELL


# --- claims -----------------------------------------------------------------------------------------------------


def test_each_claim_is_measured_by_seed(tmp_path: Path) -> None:
    found = {one.claim.text: one for one in findings(all_arms(tmp_path))}
    values = {text: [round(value, 6) for value in one.values.values()] for text, one in found.items()}
    assert values == {
        "the untrained thought prompt hurts": [-0.05] * 5,
        "TPO gains over all iterations": [0.10, 0.13, 0.09, 0.12, 0.11],
        "it gains in iteration 1": [0.05, 0.065, 0.045, 0.06, 0.055],
        "it gains in iteration 2": [0.05, 0.065, 0.045, 0.06, 0.055],
        "TPO passes the direct baseline trained the same way": [0.04, 0.06, 0.04, 0.04, 0.05],
        "thoughts become shorter": [-0.5] * 5,
        "responses grow without length control": [0.1] * 5,
        "length control makes them grow less": [-0.2] * 2,
        "IRPO's likelihood term makes a negligible difference": [-0.001, 0.001, 0.0],
        "what is not trained is forgotten": [0.0] * 5,
    }
    verdicts = {text: one.verdict for text, one in found.items()}
    assert verdicts.pop("what is not trained is forgotten") == CANNOT_TELL
    assert set(verdicts.values()) == {YES}
    gained = found["TPO gains over all iterations"].difference
    interval = ttest_1samp(GAINS, 0.0).confidence_interval(0.95)
    assert gained.interval == pytest.approx((interval.low, interval.high))


def test_claims_may_turn_out_wrong(tmp_path: Path) -> None:
    lost = tuple(-value for value in GAINS)
    runs = [
        *seeds(tmp_path / "a", lost, start=0.45, unseen=(0.2, 0.3, 0.4), thoughts=(10, 15, 20), responses=(90, 80, 70)),
        *seeds(tmp_path / "b", GAINS, start=0.4, settings=DIRECT),
    ]
    found = {one.claim.text: one for one in findings(read_arms(runs))}
    missing = {text for text, one in found.items() if not one.values}
    assert missing == {
        "length control makes them grow less",
        "IRPO's likelihood term makes a negligible difference",
    }
    assert {one.verdict for text, one in found.items() if text not in missing} == {NO}
    for text in missing:
        assert found[text].verdict == CANNOT_TELL
        assert found[text].difference.p_value is None
        assert "shares a seed" in (found[text].reason or "")


def test_starting_below_and_passing_needs_both(tmp_path: Path) -> None:
    def row(runs: list[FinishedRun]) -> str:
        (found,) = [cells for cells in claims_table(read_arms(runs)).rows if "starts below" in cells[0]]
        return found[-1]

    direct = seeds(tmp_path / "b", (0.02, 0.03, 0.01), start=0.29, settings=DIRECT)
    gains = (0.20, 0.21, 0.20)
    assert row([*seeds(tmp_path / "a", gains), *direct]) == YES
    assert row([*seeds(tmp_path / "a", gains, start=0.35), *direct]) == NO
    assert row(seeds(tmp_path / "a", gains)) == CANNOT_TELL
    arms = all_arms(tmp_path)
    assert conjunction(finding(arms, prompt_cost), finding(arms, lead)) == YES
    assert conjunction(finding(arms, prompt_cost), finding(arms, unseen_gain)) == CANNOT_TELL


def test_thoughts_that_the_budget_cuts_say_nothing_of_their_length(tmp_path: Path) -> None:
    full: dict[str, Any] = {"thoughts": (31, 30, 29)}  # of 32
    cut = finding(read_arms(seeds(tmp_path, format_rate=0.02, **full)), thought_growth)
    assert cut.verdict == CANNOT_TELL
    assert cut.reason is not None and "31 tokens before training and 29 after it, and 98 % and 98 %" in cut.reason
    assert cut.difference.adjusted_p_value is None and cut.difference.rate == pytest.approx(29 / 31 - 1)
    assert finding(read_arms(seeds(tmp_path, format_rate=0.2, **full)), thought_growth).verdict == YES
    assert finding(read_arms(seeds(tmp_path, format_rate=0.02)), thought_growth).verdict == YES  # room is left
    free = read_arms(seeds(tmp_path, format_rate=0.02, **full, settings={"thought": {"enforce": "prefill"}}))
    assert finding(free, thought_growth).verdict == YES  # nothing was forced, whatever the rate


def test_a_run_that_collapsed_counts_with_what_it_ended_with(tmp_path: Path) -> None:
    sentence = "iteration 1: 90 % of the answers hold no response"
    ended = make_run(tmp_path / "ended", 5, (0.25, 0.01), collapse=sentence)
    arms = read_arms([*seeds(tmp_path), ended])
    assert finding(arms, gain).values[5] == pytest.approx(-0.24)
    steps = {one.claim.text: one.values for one in findings(arms) if one.claim.text.startswith("it gains")}
    assert [len(values) for values in steps.values()] == [6, 5]
    assert f"thoughts, seed 5 COLLAPSED. {sentence}" in seeds_table(arms).notes
    assert lengths_table(arms).rows[0] == ("thoughts", "6", "20, 15", "100, 110")


def test_one_seed_is_an_anecdote(tmp_path: Path) -> None:
    arms = read_arms(seeds(tmp_path, (0.1,)))
    assert {one.verdict for one in findings(arms)} == {CANNOT_TELL}
    assert all(one.difference.interval is None for one in findings(arms))
    assert draw_claims(arms).axes


def test_every_seed_and_how_many_exclude_zero(tmp_path: Path) -> None:
    arms = read_arms([*seeds(tmp_path, (0.1, 0.04, -0.06)), *seeds(tmp_path / "b", (0.01,), settings=DIRECT)])
    table = seeds_table(arms)  # a made-up change has an interval of 0.05 to each side
    assert [row[:6] for row in table.rows] == [
        ("thoughts", "0", "25.0", "35.0", "+10.0 [+5.0, +15.0]", "yes"),
        ("thoughts", "1", "25.0", "29.0", "+4.0 [-1.0, +9.0]", "no"),
        ("thoughts", "2", "25.0", "19.0", "-6.0 [-11.0, -1.0]", "yes"),
        ("thoughts", "mean", "25.0", "27.7", table.rows[3][4], "2 of 3"),
        ("direct baseline", "0", "25.0", "26.0", "+1.0 [-4.0, +6.0]", "no"),
        ("direct baseline", "mean", "25.0", "26.0", "+1.0", "0 of 1"),
    ]
    interval = ttest_1samp([0.1, 0.04, -0.06], 0.0).confidence_interval(0.95)
    assert table.rows[3][4] == f"+2.7 [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def test_types_that_fell_come_first(tmp_path: Path) -> None:
    runs = []
    for seed, noise in enumerate((0.0, 0.01, -0.01, 0.005)):
        before = {"title": 0.5, "no_comma": 0.4, "postscript": 0.3}
        after = {"title": 0.3 + noise, "no_comma": 0.4 + noise, "postscript": 0.5 + noise}
        runs.append(make_run(tmp_path / f"{seed}", seed, (0.2, 0.3, 0.4), types=(before, before, after)))
    found = type_changes(read_arms(runs))
    assert [(one.name, one.is_unseen) for one in found] == [
        ("title", False),
        ("no_comma", False),
        ("postscript", True),
    ]
    assert [one.change.adjusted_p_value for one in found] == holm([one.change.p_value for one in found])
    (table,) = [table for table in record_tables(read_arms(runs)) if table.title.startswith("Types")]
    assert [row[-1] for row in table.rows] == ["fell", CANNOT_TELL, "rose"]
    assert "1 beyond chance" in table.notes[0]


# --- the command and the record ---------------------------------------------------------------------------------


def test_command_prints_tables_and_draws_the_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [*seeds(tmp_path / "runs"), *seeds(tmp_path / "direct", settings=DIRECT, start=0.2)]
    again = [make_run(tmp_path / "again" / str(number), 0, (0.25, 0.3, 0.36)) for number in range(3)]
    for run in [*runs, *again]:
        run.path.mkdir(parents=True)
        write_json(run.path / "config.json", run.config)
        write_sealed(run.path / "summary.json", run.summary)
    names = [str(run.path) for run in runs]
    rounding = ["--rounding", *(str(run.path) for run in again)]
    assert main([*names, *rounding, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert (tmp_path / "out" / "claims.png").read_bytes().startswith(b"\x89PNG")
    for table in record_tables(read_arms(runs, again)):
        assert markdown(table) in printed.out
    assert all(len(line) <= 120 for line in printed.out.splitlines() if not line.startswith("|"))
    assert printed.err.strip().endswith("claims.png")
    (tmp_path / "file").write_text("")
    assert main([*names, "--out", str(tmp_path / "file")]) == 1
    assert "file cannot be written" in capsys.readouterr().err


def test_missing_runs_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KEPT", "ROUNDING"):
        monkeypatch.setattr(f"experiments.paper_claims.__main__.{name}", tmp_path / name)
    assert main(["--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "there is no run with thoughts" in error
    unfinished = tmp_path / "runs" / "quickstart-1"
    unfinished.mkdir(parents=True)
    write_json(unfinished / "config.json", made_up.config())
    assert main([str(unfinished), "--out", str(tmp_path)]) == 1
    assert "quickstart-1 is unfinished" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.skipif(not KEPT.exists(), reason="no runs are kept yet")
def test_the_record_is_what_the_command_prints() -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert "python -m experiments.paper_claims" in text
    for table in record_tables(load_kept()):
        assert markdown(table).split("\n\n", 1)[1] in text, f"run python -m experiments.paper_claims: {table.title}"
    assert re.search(r"!\[[^]]+\]\(claims\.png\)", text) and (HERE / "claims.png").exists()
