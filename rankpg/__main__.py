"""`python -m rankpg`."""

from __future__ import annotations

import sys

from rankpg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
