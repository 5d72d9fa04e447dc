"""Asking a chat model many questions, each of them once, whatever happens in between.

    question.py    what is asked and answered
    local.py       a backend: vLLM in the process of the stage, or in several
    server.py      a backend: any OpenAI-compatible server
    cache.py       answers in one SQLite file, kept under what was asked
    ask.py         a backend behind the cache

An answer is stored as soon as it arrives. A run that was killed, or whose server was, asks only what is missing, and
`judge.max_calls` limits how many answers of a model the cache may come to hold.
"""
