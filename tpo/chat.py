"""Talk with a policy: `python -m tpo.chat policy=runs/<run>`.

Reads the terminal, or one instruction from standard input; writes the terminal, or one line of JSON. `tpo.use` does it.
"""

import signal
import sys
from typing import Any

from tpo.config.check import check_use
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import ChatConfig
from tpo.config.streams import say
from tpo.use.inherit import settings_for_use

ABOUT = """\
Talk with a policy in the terminal; /help there lists what can be typed beside words.

python -m tpo.chat policy=runs/<run>                         a run's last policy; runs/<run>@1 after iteration 1
python -m tpo.chat policy=seed                               the untrained model
python -m tpo.chat policy=runs/<run> sample.temperature=0    its likeliest words
python -m tpo.chat policy=runs/<run> engine=vllm             on vLLM
echo "Name three rivers." | python -m tpo.chat policy=seed   one answer as JSON, with its thought and numbers
"""


def talk(config: ChatConfig) -> None:
    """Talk until the user has enough, or answer what standard input holds.

    Raises:
        TpoError: If the policy cannot be found, loaded or asked.
    """
    from transformers.utils.logging import disable_progress_bar

    from tpo.use.chat import Speaker, Talk
    from tpo.use.chat_terminal import Terminal, answer_once
    from tpo.use.opened import open_policies

    disable_progress_bar()  # of loading weights, which takes a second
    with open_policies(config) as policies:
        begun = Talk(Speaker(policies.name, policies.load()), seed=config.seed)
        if not sys.stdin.isatty():
            answer_once(begun)
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)  # at the prompt it ends the talk, and says nothing
        Terminal(begun, lambda text: Speaker(*policies.load_other(text))).run()


def work(config: ChatConfig, hydra: Any) -> Outcome:
    """Talk as a job was started."""
    say(f"loading {config.policy} ...")  # before the imports, which take seconds too
    talk(config)
    return Outcome(None)


if __name__ == "__main__":
    run_entry(
        ChatConfig,
        about=ABOUT,
        check=check_use,
        work=work,
        find_under=settings_for_use,
        kept="",
        then="what was said is kept only where /save wrote it",
    )
