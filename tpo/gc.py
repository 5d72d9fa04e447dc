"""The entry point `python -m tpo.gc`: what of the artifacts may be deleted, and deleting it (`tpo.store.gc`)."""

import sys

from tpo.store.ending import one_sentence
from tpo.store.gc import main

if __name__ == "__main__":
    with one_sentence("what was not deleted, and all runs,"):
        sys.exit(main())
