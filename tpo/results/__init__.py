"""What runs leave behind, and how it is shown: summary, tables, figures, a page, Weights & Biases.

    rate.py, stats.py    a measured number with its interval, n and what was unscored; intervals, differences, tests
    headline.py          what changed, trained minus untrained, as tables, figures and page tell it first
    winrate.py           comparisons -> win rates, overall and by category
    change.py            what training changed, paired by instruction; the null control; how two judges agree
    folder.py, run.py    `runs/<experiment>-<hash>/`: config, `summary.json`, figures, `report.html`
    read.py              such folders, those of evaluations and of measured judges, read back
    sides.py, versus.py  two policies' answers to the same instructions, and who won; `beside.py` counts it
    keep.py, data.py     what a record keeps of runs; pairs and completions for other programs
    run_tables.py        what a run and an evaluation print when they are finished; `text_table.py` prints it
    table/               many runs in one table, with differences and means over seeds
    figures/             PNG and SVG for papers
    page/                one page for a run: numbers, figures, every sample with its thought; one for two policies
    tracking/            metrics in Weights & Biases while a run proceeds

`python -m tpo.results` shows table, figures and page. Reads manifests, rows and `summary.json`; loads no model.
README.md in this folder has the commands.
"""
