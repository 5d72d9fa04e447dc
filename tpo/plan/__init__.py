"""What a run or a sweep would compute and cost, before it runs: `python -m tpo.plan -m experiment=...`.

The loop of `tpo.run` is followed over a store that computes nothing, so the artifact ids are those of the real run:
which stages exist already, which are shared between jobs, and how many tokens and seconds the rest will take.

    stages.py    the stages of a run, without executing any
    cost.py      token budgets from settings; seconds from the manifests of past stages of the same kind
    tables.py    the plan as tables

`python -m tpo.doctor` asks what a run needs of this machine, or of a card that is given by hand:

    doctor.py    its findings and tables
    machine.py   driver, CUDA, packages, compiler, models, keys: what is here, what is missing, how to get it
    cards.py     a card by its memory and stated speed
    hours.py     seconds of a run's stages on a card, as a range
    host.py      what the processes of a run on a CPU take of the host's memory
    memory.py    what training, sampling and judging take of it, from a model's sizes; needs.py, of one run

Reads settings and manifests, writes nothing but the file that `--json` names. Where a stage's identity depends on a
result that is not there yet, such as the epoch that validation selects, it is counted and marked.
"""
