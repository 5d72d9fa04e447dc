"""What an experiment may be told: the schema of `conf/`, the rules that settings obey, and Hydra's callbacks.

The paper's settings (section 3.1) are keys of `conf/`: K, temperature, rho, the judge, the number of iterations. Each
conf group has one dataclass, which is Hydra's schema and the settings of the stage at once: an unknown key, a wrong
type or a value outside its range is refused at composition, before anything heavy is imported.

In: YAML files and overrides from the command line. Out: plain dataclasses; nothing below this package sees Hydra.

A field says in its metadata whether a result depends on it. Fields marked `how`, such as a server's address or a
number of processes, are no part of an artifact's identity. Rules between groups, such as a search that needs epochs to
select from, stand in `check.py`. The callbacks write down what became of a sweep's jobs and share devices and
CPU threads among them. conf/README.md is for the user of the settings.
"""
