"""The language model: tokenizer and chat template, loading, adapters, and fast forward passes.

The paper starts from an instruct model, the seed model, and calls what it becomes after t iterations M_t. Here M_t is a
`PolicyRef`, the artifact of a training and one of its epochs (none for the seed model), and `Policy` is what can be
loaded of it: paths of weights and adapter, dtype, context length.

    chat.py         instruction -> token ids, with one BOS; the token that ends a turn
    conventions.py  what a chat template does: tags of thoughts, their switch, the end of a turn, a clock
    template_probe.py, template_source.py    find that out, by rendering and from the template's text
    asked.py        a thought format as one model is asked in it, and how its completions are split
    control_tokens.py    texts that spell control tokens, broken up
    rendering.py    the chats that judges read, and whether the template kept their texts
    load.py         weights from the Hub or a directory, with adapters; NF4 quantization
    prepare.py      the seed model as an artifact, where it is embedded or quantized; `stages.py` requests it
    policy.py       `Policy` and `PolicyRef`
    trees.py        sequences with a common beginning, computed once and without padding
    states.py       hidden states at chosen positions, for judges with a head of their own
    logits.py       the model's own logits at chosen positions, caps and scales included
    probe.py        self-tests of these paths, which no list of families says that a model allows
    targets.py      which layers get an adapter: those that are named, and that a loss on text reaches
    lora.py, packed.py    linear layers with an adapter, fused: the same up to rounding, fewer passes over memory
    connection.py   requests to an OpenAI-compatible server

Sampling and training read the same weights: with `model.quantization=nf4` both use the quantized values, and an adapter
is never merged, so that the policy that was sampled is the policy that is trained.
"""
