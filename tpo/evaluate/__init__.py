"""What a policy is worth: `python -m tpo.evaluate policy=runs/<run> eval=...`, and the comparison in every iteration.

The paper compares TPO and a direct baseline on AlpacaEval 2 and Arena-Hard, and sorts unseen instructions into 20
categories to see where thinking helps. Thoughts are taken off before anything is judged or measured.

    policies.py         what `policy=` may name: a run, an iteration or epoch of it, an adapter, another model
    seeds.py            what `model.name` may name besides: another run's policy; `trained.py` finds what training left
    compare.py          two policies' samples for the same instructions, pair by pair; `tpo.results.winrate` counts
    length_control.py   the win rate at equal length
    categories.py       instructions -> categories, and a balanced choice of them
    interventions.py    responses after the policy's own thought, another's, none
    benchmarks/         AlpacaEval 2, Arena-Hard, GSM8K, IFEval
    agreement/          how good a judge is: its agreement with labelled preferences
    kinds/              a module per kind of evaluation; `steps.py` and `stages.py` request what they need
    measure.py          what kinds have in common

Reads policies and `Prompt` rows, writes `Comparison` and `CheckResult` rows and
`runs/evaluate-<eval>-<hash>/summary.json`.
Every rate has its n, what was left unscored, and an interval. README.md in this folder has the commands.
"""
