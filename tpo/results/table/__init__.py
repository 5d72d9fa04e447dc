"""What runs left behind, found, read and collected into tables: `python -m tpo.results runs/...`.

`find.py` reads folders, `settings.py` says in which settings runs differ, `rows.py` which of them share a line of the
table, `table.py` what it holds, `against.py` how lines differ from a reference, `stored.py` what is only in artifacts,
`formats.py` how tables look. `tpo.results.figures` draws the same results. Nothing here keeps state or imports pandas
before a table is made.
"""

from tpo.results.table.find import Evaluation, Judges, ResultError, Run, find, matching, read, read_judges
from tpo.results.table.formats import to_csv, to_latex, to_markdown, write_tables
from tpo.results.table.settings import label_runs, swept_settings
from tpo.results.table.stored import with_length_intervals
from tpo.results.table.table import ResultsTable, results_table

__all__ = [
    "Evaluation",
    "Judges",
    "ResultError",
    "ResultsTable",
    "Run",
    "find",
    "label_runs",
    "matching",
    "read",
    "read_judges",
    "results_table",
    "swept_settings",
    "to_csv",
    "to_latex",
    "to_markdown",
    "with_length_intervals",
    "write_tables",
]
