"""The ground under every step: write-once artifacts, their rows, and the processes that compute them.

A step of the method is a request: the name of a stage, its version, its settings, the ids of its inputs and a seed. The
hash of the request names a directory, `artifacts/<stage>-<hash>/`:

    request.json     written before the work
    *.jsonl, ...     rows (`records.py` is the data dictionary), weights, checkpoints
    manifest.json    written last, by rename; has the digest of every file, which `digests.py` computes once, of what
                     each input held, and of itself

A directory without a manifest does not exist for a reader, and a stage that finds one continues from the rows in it. So
a killed run continues, two runs that agree on a step share it, and nothing is ever edited. While one process computes
a step, another that wants it waits for the lock and then reads the result (`locks.py`). What was computed from other
inputs than are there now is moved aside and computed anew (`store.py`).

`python -m tpo.verify` says what is wrong and what rests on it (`verify.py`, `shared.py`). `python -m tpo.gc` deletes
what no run refers to (`gc.py`, `refers.py`) and no running process uses (`in_use.py`).

A `Stage` (`stage.py`) names the function that does its work by path, and `execute.py` imports it when the work is to be
done, in this process or in a child process (`processes/`; `resident.py` is the child that keeps vLLM between steps).
So this package knows no stage, no model and no setting: the packages of the steps import it, never the other way round.
"""
