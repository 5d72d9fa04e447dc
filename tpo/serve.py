"""Serve a policy: `python -m tpo.serve policy=runs/<run>`.

Speaks OpenAI's protocol at http://127.0.0.1:8000/v1; writes nothing but a log. `tpo.use.serve` does it.
"""

from typing import Any

from tpo.config.check import check_use
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import ServeConfig
from tpo.config.streams import say
from tpo.use.inherit import settings_for_use

ABOUT = """\
Serve a policy with OpenAI's protocol: chat completions, streamed or not, thought and answer apart.

python -m tpo.serve policy=runs/<run>                    a run's last policy, for this machine, at port 8000
python -m tpo.serve policy=runs/<run> engine=vllm        on vLLM
python -m tpo.serve policy=seed port=8001 name=untrained another one beside it
TPO_API_KEY=... python -m tpo.serve policy=runs/<run> host=0.0.0.0   for others, who need the key
"""


def work(config: ServeConfig, hydra: Any) -> Outcome:
    """Serve as a job was started."""
    say(f"loading {config.policy} ...")  # before the imports, which take seconds too
    from tpo.use.serve.run import serve

    serve(config)
    return Outcome(None)


if __name__ == "__main__":
    run_entry(
        ServeConfig,
        about=ABOUT,
        check=check_use,
        work=work,
        find_under=settings_for_use,
        kept="",
        then="nothing is served",
    )
