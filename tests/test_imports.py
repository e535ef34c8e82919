"""A command imports only what it needs, so that help, lists and errors about words come without delay.

A fresh interpreter for each case would take many seconds. So one interpreter is started, and every case runs in a
process that is forked from it. The cases that must work without torch come first. The others run after it has imported
torch and nothing else. No test asserts a time.
"""

import json
import subprocess
import sys

import pytest

import mtlkit

TRAINING = ["accelerate", "timm", "segmentation_models_pytorch", "torchvision", "albumentations"]
PICTURES = ["matplotlib", "scipy", "cv2", "torchmetrics", "torch._dynamo"]
HEAVY = [*TRAINING, *PICTURES, "torchjd"]
HYDRA = ["hydra", "omegaconf"]
ALL = ["torch", "numpy", *HEAVY, *HYDRA]
METRICS = [package for package in HEAVY if package in (*TRAINING[:3], "albumentations", "torchjd")]

#: Words of the command, its exit status, a part of what it prints, and the packages that it must not import. Cases
#: that must not import torch come first.
COMMANDS = [
    (["--help"], 0, "mtlkit list experiments", ALL),
    ([], 2, "mtlkit list experiments", ALL),
    (["train", "--help"], 0, "--resume", ALL),
    (["data", "prepare", "--help"], 0, "{train,val,test}", ALL),
    (["lst"], 2, "Did you mean 'list'?", ALL),
    (["train"], 2, "EXPERIMENT is missing", ALL),
    (["train", "scenes", "--lr", "1"], 2, "dashes: trainer.lr=1", ALL),
    (["list", "experiments"], 0, "multimnist", ALL),
    (["evaluate", "nowhere"], 2, "nowhere is not the folder of a run", ALL),
    (["predict", "nowhere", "1.png", "--out", "out"], 2, "nowhere is not the folder of a run", ALL),
    (["report", "nowhere"], 2, "nowhere is not the folder of a run", ALL),
    (["explain", "nowhere"], 2, "nowhere is not the folder of a run", ALL),
    (["export", "nowhere", "--encoder", "e"], 2, "nowhere is not the folder of a run", ALL),
    (["export", "nowhere"], 2, "There is nothing to write", ALL),
    (["push", "nowhere", "a/b"], 2, "nowhere is not the folder of a run", ALL),
    (["completion", "bash"], 0, "_ARGCOMPLETE", ALL),
    (["describe"], 2, "WHAT is missing", ALL),
    (["describe", "trainer.lr"], 0, "the learning rate of the decoders", TRAINING),
    (["list", "balancers"], 0, "rotograd", [*HEAVY, *HYDRA]),
    (["list", "kinds"], 0, "multilabel", [*HEAVY, *HYDRA]),
    (["list", "encoders"], 0, "timm", [*HEAVY, *HYDRA]),
    (["list", "decoders"], 0, "unet", [*HEAVY, *HYDRA]),
    (["list", "datasets"], 0, "nyuv2", [*TRAINING, "matplotlib", "scipy", "torchmetrics", "torch._dynamo", *HYDRA]),
    (["list", "tasks"], 0, "normals", [*METRICS, *HYDRA]),
    (["train", "scnes"], 2, "Did you mean 'scenes'?", HEAVY),
    (["data", "show", "scnes"], 2, "Did you mean 'scenes'?", HEAVY),
    (["train", "scenes", "balancer=gradnrm"], 2, "'gradnorm'", HEAVY),
    (["train", "multimnist", "trainer.lrr=1"], 2, "trainer.lr", METRICS),
    (["train", "multimnist", "balancer=gradnorm", "balancer.alpa=1"], 2, "alpha", METRICS),
]

PROGRAM = """
import contextlib, io, json, os, sys, tempfile, traceback
sys.path.append(os.getcwd())
os.environ["OMP_NUM_THREADS"] = "1"

def case(words, known):
    import mtlkit
    from mtlkit.cli.main import main
    said, status = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
    return {"status": status, "said": said.getvalue(), "imported": [name for name in known if name in sys.modules]}

def attributes(words, known):
    import mtlkit
    before = [name for name in known if name in sys.modules]
    found = {name: getattr(mtlkit, name).__class__.__name__ for name in words}
    return {"before": before, "found": found, "imported": [name for name in known if name in sys.modules]}

cases, known = json.loads(sys.stdin.read())
for function, words, base in cases:
    if base:
        __import__(base)
    with tempfile.TemporaryFile("w+") as file:
        if not (child := os.fork()):
            json.dump(globals()[function](words, known), file)
            file.flush()
            os._exit(0)
        os.waitpid(child, 0)
        file.seek(0)
        print(file.read() or "null", flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Returns the answers of all cases: those of `COMMANDS` by their words, and `attributes`."""
    # `Experiment` and `load` import all that a model needs. `Balanced` imports a part of torch that every training loop
    # imports.
    names = [name for name in mtlkit.__all__ if name not in ("Experiment", "Balanced", "load")]
    cases = [
        ("attributes", names, ""),
        ("attributes", ["Balanced"], ""),
        *(("case", words, "" if "torch" in never else "torch") for words, *_, never in COMMANDS),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([cases, ALL]),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("empty"),
    )
    assert not done.stderr
    keys = ["attributes", "balanced", *(" ".join(words) for words, *_ in COMMANDS)]
    return dict(zip(keys, map(json.loads, done.stdout.splitlines()), strict=True))


def test_importing_mtlkit_imports_nothing_and_its_names_import_little(answers):
    found = answers["attributes"]
    assert found["before"] == []
    assert set(found["imported"]) == {"torch", "numpy"}
    assert found["found"]["BALANCERS"] == found["found"]["ENCODERS"] == "Registry"


def test_balanced_imports_torch_alone(answers):
    assert set(answers["balanced"]["imported"]) <= {"torch", "numpy", "torch._dynamo"}


def test_mtlkit_names_what_it_has():
    assert set(mtlkit.__all__) <= set(dir(mtlkit))
    assert mtlkit.Experiment.__module__ == "mtlkit.run.experiment"
    with pytest.raises(AttributeError, match="has no attribute 'BALANCER'"):
        mtlkit.BALANCER  # noqa: B018


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[0]))
def test_a_command_imports_no_more_than_it_needs(answers, command):
    words, status, part, never = command
    answer = answers[" ".join(words)]
    assert answer["status"] == status, answer["said"]
    assert part in answer["said"]
    assert not set(never) & set(answer["imported"])
