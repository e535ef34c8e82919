"""Runs the command `mtlkit` as `python -m mtlkit`."""

import sys

from mtlkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
