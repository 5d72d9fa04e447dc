"""Pairs -> the next policy: DPO from M_t gives M_{t+1} (section 2 of the paper; IRPO with `train.nll_weight`).

    stages.py         the request: everything that a policy depends on
    trainer.py        the work: trl's `DPOTrainer` on the token ids that were sampled, one checkpoint per epoch
    micro_batches.py  pairs as rows of ids, and rows as tensors; the same micro-batches in every epoch
    settings.py       what a training is told
    reference.py      log-probabilities of the reference, computed once and cached for trainings on the same pairs
    pair_trees.py     the log-probabilities of a pair in one pass, its prompt computed once
    checkpoints.py    saving adapters whole, resuming in place
    optimizer.py      AdamW with 16-bit weights and 32-bit master copies
    dpo.py            the objective in plain torch: the NLL term, and with what the tests compare the trainer

Reads `Pair` rows, writes an adapter or a whole model per epoch and `metrics.jsonl`. In the first step the policy is
still the reference, so DPO's loss must be ln 2 and the margin 0, or training stops. Nothing here knows a judge.
README.md in this folder is about several GPUs and training all weights.
"""
