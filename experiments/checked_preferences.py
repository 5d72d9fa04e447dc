"""Make labelled preferences of a run's pairs, where a program says which of two responses does what is asked.

python -m tpo.results runs/quickstart-0123456789ab --export pairs --out data
python experiments/checked_preferences.py data/quickstart-0123456789ab/pairs > labels.jsonl
python -m tpo.evaluate.agreement -m judge=length,random,self_rating,likelihood data=labels.jsonl

Instructions and responses without thoughts; the preferred response is a in every other row, so that a constant agrees
with half of the labels.
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq


def main(folder: Path) -> None:
    """Print a line for each pair in a folder that `--export pairs` wrote."""
    for number, row in enumerate(pq.read_table(folder / "without_thoughts.parquet").to_pylist()):
        texts = [row[name][0]["content"] for name in ("chosen", "rejected")]
        is_first = number % 2 == 0
        first, second = texts if is_first else reversed(texts)
        line = {"instruction": row["prompt"][0]["content"], "response_a": first, "response_b": second}
        print(json.dumps(line | {"preference": float(is_first)}, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
