"""The command `mtlkit`."""
