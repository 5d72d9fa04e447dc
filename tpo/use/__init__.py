"""A policy in use: what is left when the numbers are made, for people and programs that know nothing of this package.

    chat.py            a talk in the terminal: history, thoughts folded away, two policies beside each other
    chat_terminal.py   how it looks and what is typed: python -m tpo.chat
    serve/             the same policy behind OpenAI's protocol: python -m tpo.serve

    loaded.py          a policy that answers: prompt with the turns before, budgets that fit, a streaming engine
    answer.py          one answer under way: token ids in, what is certain of thought and response out
    split_stream.py    where a growing text holds a thought and where a response; what is not certain is held back

    export.py           a directory that transformers and peft load: weights, tokenizer, generation config, card
    export_template.py  the chat template that carries the thought prompt
    export_check.py     the same greedy tokens in a fresh process, by the code that the card shows
    export_card.py      the model card
    export_push.py      to the Hugging Face Hub, or what speaks its protocol

A policy is named as everywhere (`tpo.evaluate.policies`) and asked as it was trained: in its thought format, with its
delimiters, prefill and forced switch. What was thought is no part of an answer: it is neither shown as one nor told to
the model in later turns. Earlier user turns are told without the thought prompt, of which the last one has it. The
engines are those of `tpo.sample`, in the form that lets requests come and go (`LiveEngine`). Nothing here is trained.
"""
