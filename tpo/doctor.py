"""The entry point `python -m tpo.doctor`: what a run needs, what of it is here, what it costs (`tpo.plan.doctor`)."""

import sys

from tpo.plan.doctor import main
from tpo.store.ending import one_sentence

if __name__ == "__main__":
    with one_sentence("", then="nothing was computed"):
        sys.exit(main())
