"""One file per judge: its network or its prompt, and nothing about where its rows come from or go.

    armorm/            ArmoRM, the paper's pointwise judge
    llm_pairwise.py    a chat model that compares two responses, as the paper's Self-Taught Evaluator does
    llm_pointwise.py   a chat model that grades one response by a rubric
    alpaca_eval.py     AlpacaEval 2's annotator
    reward_model.py    any sequence classifier with one logit
    self_rating.py     the frozen seed model, asked for yes or no
    likelihood.py      the frozen seed model's log-likelihood of the response
    ensemble.py        a weighted mean of other judges
    length.py, random.py    what any judge must beat

A file holds the judge's settings, with their rules, and the judge; `conf/judge/` has a YAML file with the values. No
list names the judges: `tpo.config.kinds` finds them by path. A pointwise judge maps `Candidates` to scores, a pairwise
one pairs of responses to verdicts (`tpo.judge.protocol`).
"""
