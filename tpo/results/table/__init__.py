"""Runs collected into one table: the settings in which they differ, then what came out, with intervals.

`rows.py` says which runs share a row and in which settings they differ, `averages.py` what their mean is, `against.py`
how rows differ from a reference, `table.py` what a table holds, `formats.py` how it looks. Nothing here imports pandas
before a table is made.
"""

from tpo.results.table.averages import average_runs, summaries_by_label
from tpo.results.table.formats import to_csv, to_latex, to_markdown, write_tables
from tpo.results.table.rows import label_runs, swept_settings
from tpo.results.table.table import ResultsTable, results_table

__all__ = [
    "ResultsTable",
    "average_runs",
    "label_runs",
    "results_table",
    "summaries_by_label",
    "swept_settings",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write_tables",
]
