"""A trained policy in use: what a run left, for people and programs that know nothing of this package.

Everything here stands on finished runs and exports, named as everywhere (`tpo.evaluate.policies`), and trains nothing.

    export.py           a directory that transformers and peft load: weights, tokenizer, generation config, card
    export_template.py  the chat template that carries the thought prompt
    export_check.py     the same greedy tokens in a fresh process, by the code that the card shows
    export_card.py      the model card
    export_push.py      to the Hugging Face Hub, or what speaks its protocol
"""
