"""Responses -> scores: the only teacher that the method has (section 2.2 of the paper).

A judge sees the instruction and the response, never the thought: its input types in `protocol.py` have no field for it.
Pointwise judges, such as ArmoRM in the paper, score each response. Pairwise judges, such as the Self-Taught Evaluator,
compare two: all ordered pairs of the K responses are judged, and the verdicts become one rating per response, by Elo.

    protocol.py    what a judge is given and returns
    judges/        one file per judge, with its settings
    llm/           asking a chat model: vLLM here or any OpenAI-compatible server, with a cache of answers
    verdicts.py    a judge's prompt and the parser of its answer; text that forges a verdict is disarmed
    responses.py   what a judge may see of the rows, one instruction at a time
    score.py       the work: scores, verdicts, ensembles
    stages.py      the requests: everything that scores and verdicts depend on
    rating.py      verdicts -> ratings: Elo, Bradley-Terry, fraction of games won
    select.py      the epoch whose answers to validation instructions have the best mean score (section 3.1)

Reads `Completion` or `Response` rows, writes `Score` and `Verdict` rows. What cannot be scored has no score and a
reason: never a zero, never a tie. README.md in this folder says which judges there are and how to add one.
"""
