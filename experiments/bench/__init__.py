"""How fast is each step of the method beside what a user would pick instead?

`make bench`, or in the repository:

    python -m experiments.bench.run [sampling] [training] [scoring] [iteration] [--rounds 3] [--conditions quiet,busy]

Every contender runs in a process of its own, with all cores, the rounds interleaved: A B C, A B C, ... What is compared
is measured after the model is loaded and warm; start-up is recorded beside it. Each runs under every condition:
"quiet", nothing beside it; "busy", one process beside it that spins; "two", of ours, two at once. Writes
`<processor>.json` here after every round, and `<processor>.png` and `.svg`; `python -m experiments.bench.report <file>`
prints and draws again, and with several files compares processors.

    run.py       the command: rounds, checks, files
    parts.py     what a part of the benchmark is; sampling.py, training.py, scoring.py, iteration.py are the parts
    workload.py  the work that all contenders get: instructions, responses, pairs, an adapter, a reward model
    process.py   a contender in a process of its own, what runs beside it, its memory
    machine.py   what the machine is, and what it reaches in matrix products and in reading memory
    floors.py    the operations and bytes that the work needs, from the model's configuration
    results.py   medians, ratios, ranges
    gpu.py       a command of its own: kernels, memory, speed and the loop on a GPU; gpu_models.py, its random models
    report.py    tables; processors.py, several processors side by side; figure.py, the figure

Contenders that are not installed are reported as such. On a machine with a GPU all of them use it.
"""
