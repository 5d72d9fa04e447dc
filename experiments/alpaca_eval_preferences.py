"""AlpacaEval's annotations as labelled preferences for `python -m tpo.evaluate.agreement`.

    python experiments/alpaca_eval_preferences.py baseline.jsonl.gz model-1.jsonl.gz model-2.jsonl.gz > all.jsonl
    python experiments/alpaca_eval_preferences.py baseline.json annotations.json > preferences.jsonl

Rows of a model's file hold `preference`, 1 (the baseline surely preferred) to 2 (the model surely), and either
`output`, with the row number `index` of the baseline's file, or `output_1` and `output_2` as AlpacaEval's own
`annotations.json` does. `response_a` is the model's.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON list or of JSON lines, gzipped or not."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows: list[dict[str, Any]] = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    )
    return rows


def main() -> None:
    """Write the preferences to standard output."""
    baseline_path, *paths = map(Path, sys.argv[1:])
    baseline = read_rows(baseline_path)
    for path in paths:
        for row in read_rows(path):
            reference = row["output_1"] if "output_1" in row else baseline[row["index"]]["output"]
            preference = {
                "instruction": row["instruction"],
                "response_a": row["output_2"] if "output_2" in row else row["output"],
                "response_b": reference,
                "preference": row["preference"] - 1,
                "group": row.get("generator_2", path.name.split(".json")[0]),
            }
            print(json.dumps(preference, ensure_ascii=False))


if __name__ == "__main__":
    main()
