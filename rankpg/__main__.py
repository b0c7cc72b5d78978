"""`python -m rankpg`."""

import sys

from rankpg.cli import main

if __name__ == "__main__":
    sys.exit(main())
