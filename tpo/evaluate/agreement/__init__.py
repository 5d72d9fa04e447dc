"""How good a judge is: `python -m tpo.evaluate.agreement judge=... data=labels.jsonl`.

The judge is the method's only teacher. Before it teaches a policy, its agreement with labelled preferences says
whether it has anything to teach: overall, where both responses are of similar length, and where the preferred one is
the shorter, since a judge that only likes length fails there.

    labelled.py      JSON lines of labelled preferences -> the rows that judges score
    statistics.py    agreement, position bias and taste for length, with bootstrap intervals over instructions

Every table has two controls that read nothing, always the first response and always the second: labels that compare
with one baseline favour a side, and a judge below the better control has learnt nothing that a constant does not say.

Writes `runs/agreement-<hash of the data>/<judge>.json`, and a table and a figure of all judges measured on these data.
"""
