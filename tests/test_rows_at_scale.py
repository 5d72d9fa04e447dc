from pathlib import Path

import pytest

from experiments import rows_at_scale
from experiments.rows_at_scale import NUM_SPECIAL, NUM_TOKENS, STAGES, make_chat, make_generations, make_rows, measure

NUM_ROWS = 32


def test_every_stage_reads_what_the_ones_before_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_at_scale, "NUM_MADE", NUM_ROWS)
    monkeypatch.setattr(rows_at_scale, "NUM_DISTINCT", NUM_ROWS)
    monkeypatch.setattr(rows_at_scale, "NUM_IN_FLIGHT", 12)
    for name in STAGES:
        found = measure(name, tmp_path, NUM_ROWS)
        assert found.num_rows == NUM_ROWS or name == "training" and 0 < found.num_rows <= NUM_ROWS / 8, name
        assert found.seconds > 0 and found.peak_mib >= found.before_mib > 0


def test_rows_have_the_sizes_that_they_are_said_to_have() -> None:
    chat = make_chat()
    assert sum(token.special for token in chat.tokenizer.added_tokens_decoder.values()) == NUM_SPECIAL
    [row] = make_rows(chat, make_generations(chat, 1))
    assert len(row.completion_ids) == NUM_TOKENS and row.split_error is None
    assert row.num_thought_tokens > NUM_TOKENS // 2 - 10 and row.num_response_tokens > NUM_TOKENS // 2 - 20
