"""Runs collected into one table: the settings in which they differ, then what came out, with intervals.

`rows.py` says which runs share a row and in which settings they differ, `against.py` how rows differ from a reference,
`table.py` what a table holds, `formats.py` how it looks. Nothing here imports pandas before a table is made.
"""

from tpo.results.table.formats import to_csv, to_latex, to_markdown, write_tables
from tpo.results.table.rows import label_runs, swept_settings
from tpo.results.table.table import ResultsTable, results_table

__all__ = [
    "ResultsTable",
    "label_runs",
    "results_table",
    "swept_settings",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write_tables",
]
