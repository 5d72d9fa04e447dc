"""The entry point `python -m tpo.verify`: whether artifacts and runs are what they say (`tpo.store.verify`)."""

import sys

from tpo.store.ending import one_sentence
from tpo.store.verify import main

if __name__ == "__main__":
    with one_sentence("", then="nothing was changed; the same command begins anew"):
        sys.exit(main())
