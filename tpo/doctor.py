"""The entry point `python -m tpo.doctor`: what a run needs, what of it is here, what it costs (`tpo.plan.doctor`)."""

import sys

from tpo.plan.doctor import main

if __name__ == "__main__":
    sys.exit(main())
