"""Instructions -> thoughts and responses: the first line of the loop (section 2 of the paper, figures 2 and 3).

Each instruction is wrapped in a thought prompt, and the policy M_t writes K completions of it. A completion is a hidden
thought, a delimiter, and a response; one that cannot be split has no response, and a counted reason.

    sources/         where instructions come from: this package, the Hub, a file (`tables.py`), a model
    prompts.py       what identifies them, and their disjoint splits: train-1 ... train-T, validation, test
    synthetic.py     new instructions from a model, few-shot, as in the paper's first experiments
    thought.py       thought prompts, and the parts of a completion
    preflight.py     what can be known before anything is sampled: do instruction and completion fit the context?
    completions.py   the work of sampling: prompts and policy in, `Completion` rows with token ids out
    stages.py        the requests: everything that instructions and completions depend on
    decoding.py      what an engine is: the protocol that torch and vLLM implement
    engines/         the implementations

Reads `Prompt` rows, writes `Completion` rows, exactly K per instruction. Nothing here knows a judge. README.md in this
folder is about engines, thought formats and sources of instructions from the user's side.
"""
