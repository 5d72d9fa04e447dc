"""Which claims of the paper hold at the scale of the quickstart, over seeds, by what a program checks.

    python -m experiments.paper_claims                     the record's tables in Markdown, and its figure
    python -m experiments.paper_claims 'runs/*' --out DIR  of other runs

Reads folders as `python -m tpo.results --keep` leaves them: `kept/`, the quickstart over seeds and the same runs with
one setting changed each, and `rounding/<n>/`, reruns of one of its seeds that differ in rounding alone.

    arms.py        which run is which
    quantities.py  what is measured of each seed
    verdicts.py    means over seeds, tests, yes, no or cannot tell
    claims.py      the claims, and what the runs say of each
    tables.py      tables in Markdown
    figure.py      the figure
"""
