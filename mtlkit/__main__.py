"""`python -m mtlkit`: the same as the command `mtlkit`."""

import sys

from mtlkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
