"""`mtlkit train` as a file, for launchers: `accelerate launch tools/train.py EXPERIMENT key=value ...`."""

import sys

from mtlkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
