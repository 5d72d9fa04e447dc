"""What `python -m tpo.run --help` shows: the groups with their options, and the config that the overrides compose.

Hydra's own help copies everything it has loaded once for each group, which takes two seconds, and lists the schemas.
"""

import sys
from pathlib import Path
from string import Template

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"


def help_text(overrides: list[str]) -> str:
    """Return conf/config.yaml's `hydra.help.template`, filled in.

    Raises:
        HydraException: If the overrides do not compose.
    """
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
    template = config.hydra.help.template
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    groups = {
        group.relative_to(CONF).as_posix(): sorted(path.stem for path in group.glob("*.yaml"))
        for group in sorted(CONF.rglob("*"))
        if group.is_dir()
    }
    listed = "\n".join(f"{group}: {', '.join(options)}" for group, options in groups.items() if options)
    return Template(template).substitute(APP_CONFIG_GROUPS=listed, CONFIG=OmegaConf.to_yaml(config))


def asks_for_help() -> bool:
    """Return whether the command line does; if so, print it."""
    flags = {"--help", "-h"}
    if not flags.intersection(sys.argv[1:]):
        return False
    try:
        print(help_text([word for word in sys.argv[1:] if not word.startswith("-")]))
    except HydraException as error:
        sys.exit(str(error))
    return True
