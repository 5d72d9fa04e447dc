"""Completions and scores -> one preference pair per instruction, or a counted reason for none (section 2.3).

    stages.py    the request
    build.py     the work: what is left out, the pair that the rule chooses, the reasons for none
    length.py    length control
    rule.py      what a rule is given and returns
    rules/       one file per rule: which two of an instruction's completions become chosen and rejected

Reads `Completion` and `Score` rows, writes `Pair` rows. Whatever the rule, the judge has to score the chosen response
above the rejected one: length decides between such pairs, and never makes one by itself. Every instruction is a pair
or one counted drop. Pure Python and numpy.
"""
