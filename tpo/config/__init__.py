"""What an experiment may be told: the schema of `conf/`, the rules that settings obey, and the entry points' frame.

The paper's settings (section 3.1) are keys of `conf/`: K, temperature, rho, the judge, the number of iterations. Each
conf group has one dataclass, which is Hydra's schema and the settings of the stage at once: an unknown key, a wrong
type or a value outside its range is refused at composition, before anything heavy is imported.

    fields.py              a field: its default, its rule, whether a result depends on it
    groups.py, thought.py  the groups, and the base classes of groups with several kinds
    tags.py                the tags around a thought, of every model family
    template_arguments.py  what a chat template may be given
    kinds.py, custom.py    the kinds of a group, found by path beside their work; a class of the user's own
    schema.py, build.py    what each entry point is configured with; from Hydra's config to these dataclasses
    compose.py             a config composed without the command, and where conf/ is
    check.py               rules between groups, such as a search that needs epochs to select from
    entry.py, help.py      beginning and end of every entry point, `--help`
    sweep.py               Hydra callback: what became of a sweep's jobs
    devices.py             Hydra callback: a GPU for each job on one machine

In: YAML files and overrides from the command line. Out: plain dataclasses; only this package and the entry points
import Hydra. Fields marked `how`, such as a server's address or a number of processes, are no part of an artifact's
identity. conf/README.md is for the user of the settings.
"""
