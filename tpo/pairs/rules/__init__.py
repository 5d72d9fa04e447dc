"""One file per rule, with its settings; `conf/pairs/` has a YAML file with the values.

    best_worst.py        the paper's: the highest against the lowest length-controlled score
    mean_minus_2sd.py    the highest against the one that is nearest to two standard deviations below the mean
    custom.py            a class of the user's own

No list names the rules: `tpo.config.kinds` finds them by path.
"""
