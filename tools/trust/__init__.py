"""Harnesses of trust: what kills, damaged files and nonsense do to mtlkit. `make trust` runs them all.

Each part is a function that takes an empty folder, a seed and the number of cases, and returns a `Result`. The parts
run in process, so that thousands of cases take minutes; `make test` runs a few cases of each.
"""
