"""Runs the tests with the arithmetic of older and newer processors, because rounding depends on the vector length.

    python tools/portable.py                       # the whole suite, once per instruction set
    python tools/portable.py tests/test_space.py   # with these arguments for pytest

torch's own kernels, oneDNN, MKL and OpenBLAS (numpy and scipy) each have a variable that limits the instructions they
use. The program leaves out a set that this processor lacks, and prints this.
"""

import os
import subprocess
import sys

import torch

# torch's name of the set: the variables
SETS = {
    "DEFAULT": {  # SSE4
        "ATEN_CPU_CAPABILITY": "default",
        "DNNL_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "NEHALEM",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "HASWELL",
    },
    "AVX512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "DNNL_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_CBWR": "AVX512",
        "OPENBLAS_CORETYPE": "SKYLAKEX",
    },
}
PYTEST = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal"]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    names = list(SETS)
    best = torch.backends.cpu.get_cpu_capability()
    able = names[: names.index(best) + 1] if best in names else []
    if not able:
        raise SystemExit(f"torch computes with {best} here; the sets are {', '.join(names)}. There is nothing to run.")
    failed = []
    for name, variables in SETS.items():
        if name not in able:
            say(f"\n== {name}: left out, this processor has {best} at most")
            continue
        say(f"\n== {name}: {' '.join(f'{key}={value}' for key, value in variables.items())}")
        environment = os.environ | variables | {"OMP_NUM_THREADS": "1"}
        if subprocess.run([*PYTEST, *sys.argv[1:]], env=environment).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"The tests fail with {', '.join(failed)}.")


if __name__ == "__main__":
    main()
