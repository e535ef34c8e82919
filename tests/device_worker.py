"""Runs the checks of `on_device.py` in a process that has the second device of `mock_device.py`.

python tests/device_worker.py [arguments of pytest]
"""

import sys
from pathlib import Path

import mock_device

NO_INTERFACE = 77  #: the exit status where torch lacks the interface; the reason is on stdout


def main() -> int:
    try:
        mock_device.install()  # before anything else: other packages take functions of torch that it replaces
    except (RuntimeError, AttributeError, TypeError) as error:
        sys.stdout.write(f"{error}\n")
        return NO_INTERFACE
    import pytest

    checks = str(Path(__file__).with_name("on_device.py"))
    return pytest.main(["-p", "no:xdist", "-p", "no:cacheprovider", "-q", checks, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
