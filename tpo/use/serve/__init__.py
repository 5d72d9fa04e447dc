"""A policy behind OpenAI's protocol: `python -m tpo.serve`.

protocol.py   what a request may say, and what answers and errors look like
sampler.py    a thread with the engine, which decodes all requests together; a bounded queue before it
app.py        the routes: chat completions, models, health
run.py        listening, and the end: what is under way may finish
"""
