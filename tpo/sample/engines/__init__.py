"""Where completions are sampled: engines behind the protocol of `tpo.sample.decoding`.

    torch/     continuous batching in plain torch, on any device: the engine, its key-value cache, the choice of a token
    vllm.py    vLLM in this process, adapters served unmerged, or several of them, each with its own GPUs
    server/    vLLM's own server, here or elsewhere

An engine gets token ids, seeds and the token budgets of thought and response, and returns token ids: nothing is decoded
and tokenized again between sampling and training. With the torch engine every sample has a seed of its own and does
not depend on what else is in its batch, up to rounding. A file or package holds an engine and its settings; nothing
lists them, `tpo.config.kinds` finds them by path.
"""
