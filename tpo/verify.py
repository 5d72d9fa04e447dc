"""The entry point `python -m tpo.verify`: whether artifacts and runs are what they say (`tpo.store.verify`)."""

import sys

from tpo.store.verify import main

if __name__ == "__main__":
    sys.exit(main())
