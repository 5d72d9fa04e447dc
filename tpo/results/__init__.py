"""What runs leave behind, and how it is shown: summary, tables, figures, a page, Weights & Biases.

    folder.py, run.py    `runs/<experiment>-<hash>/`: config, `summary.json`, figures, `report.html`
    read.py              what such folders hold: runs, evaluations, measured judges
    rate.py, stats.py    a rate with its interval and n; paired differences, corrections for several tests
    winrate.py           win rates, overall and per category
    table/               `python -m tpo.results`: many runs in one table, with differences and means over seeds
    figures/             PNG and SVG for papers
    page/                one page for a run: numbers, figures, every sample with its thought
    tracking/            metrics in Weights & Biases while a run proceeds

Reads manifests, rows and `summary.json`; loads no model. README.md in this folder has the commands.
"""
