"""Where completions are sampled: engines behind the protocol of `tpo.sample.decoding`.

    torch_engine.py    continuous batching in plain torch, on any device; its key-value cache and attention are in
                       `torch_rows.py`, the choice of a token in `torch_nucleus.py`
    vllm_engine.py     vLLM in this process, adapters served unmerged
    vllm_workers.py    several of these, each with its own GPUs
    server_engine.py   vLLM's own server, here or elsewhere; `vllm_server.py` is the connection to it

An engine gets token ids, seeds and the token budgets of thought and response, and returns token ids: nothing is decoded
and tokenized again between sampling and training. With the torch engine every sample has a seed of its own and does
not depend on what else is in its batch, up to rounding. `load.py` imports the engine that is asked for.
"""
