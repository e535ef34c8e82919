"""The completion of words in shells: the candidates, and real shells."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mtlkit
from mtlkit.cli.completion import candidates
from mtlkit.cli.main import main
from mtlkit.config.names import option_names, registered
from mtlkit.config.reference import option_keys

REGISTRIES = ("BALANCERS", "TASKS", "DATASETS", "KINDS", "ENCODERS", "DECODERS")
PATIENCE = 120  # seconds for a shell to answer on a busy machine; nothing waits so long otherwise


@pytest.mark.parametrize("registry", REGISTRIES)
def test_the_names_in_the_files_are_those_that_are_registered(registry):
    found = getattr(mtlkit, registry)
    ours = [name for name in found.names() if found.get(name).__module__.startswith("mtlkit.")]
    assert [name for name in registered(registry) if name in ours] == ours
    assert set(registered(registry)) <= set(found.names())


@pytest.mark.parametrize("registry", ["BALANCERS", "TASKS", "DATASETS", "ENCODERS", "DECODERS"])
def test_the_options_in_the_files_exist(registry):
    found = getattr(mtlkit, registry)
    complete = 0
    for name in registered(registry):
        known, words = set(option_keys(found, name)), set(option_names(registry, name))
        assert words <= known, name
        complete += words == known
    assert complete > len(registered(registry)) / 2  # the others take options from a parent in another file


def test_candidates(tmp_path, monkeypatch):
    assert candidates("balancer=rotograd") == ["balancer=rotograd", "balancer=rotograd_procrustes"]
    assert candidates("trainer.lr") == ["trainer.lr="]
    assert "trainer.max_epochs=" in candidates("")
    assert candidates("balancer.b", ["balancer=rotograd"]) == ["balancer.burn_in="]
    assert candidates("data.cr", ["data=nyuv2"]) == ["data.crop="]
    assert candidates("model=resnet1") == ["model=resnet18"]
    assert candidates("preset=nash") == ["preset=nash_mtl"]
    assert candidates("trainer.schedule=") == [f"trainer.schedule={w}" for w in ("constant", "cosine", "poly", "step")]
    assert candidates("balancer=uniform,cag") == ["balancer=uniform,cagrad"]
    assert candidates("deterministic=t") == ["deterministic=true"]
    assert candidates("trainer.lr=0.") == candidates("nonsense=") == candidates("data.root=/nowhere/at/all/") == []
    (tmp_path / "my data" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert candidates("data.root=my") == ["data.root=my data/"]
    assert candidates(f"output_dir={tmp_path}/my data/") == [f"output_dir={tmp_path}/my data/inner/"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "_ARGCOMPLETE" in capsys.readouterr().out


def test_an_answer_imports_nothing_slow(tmp_path):
    """Torch alone takes a second to import."""
    program = (
        "import os, sys\nfrom mtlkit.cli.main import main\n"
        "os._exit = lambda status: print(sorted({'torch', 'numpy', 'hydra', 'omegaconf', 'yaml'} & set(sys.modules)))\n"
        "try: main([])\nexcept BaseException: pass\n"
    )
    line = "mtlkit train scenes balancer=cag"
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out")}
    variables |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_COMP_WORDBREAKS": " \n"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "out").read_text().strip() == "balancer=cagrad"
    assert done.stdout.splitlines()[0] == "[]"


@pytest.fixture
def environment(tmp_path):
    """The variables of a shell that finds `mtlkit` and no settings of a user."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "mtlkit"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m mtlkit "$@"\n')
    command.chmod(0o755)
    home = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "TERM": "dumb"}
    return os.environ | home | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": ""}


def shell_or_skip(name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


def after_tab(command, setup, begun, expected, environment, folder: Path):
    """Types words and TAB in an interactive shell. Returns whether the shell then shows what is expected."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment)
    seen = ""

    def wait_for(text):
        nonlocal seen
        end = time.monotonic() + PATIENCE
        while text not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 65536).decode(errors="replace")
                except OSError:  # the shell has ended
                    break
        found = text in seen
        seen = seen.partition(text)[2]
        return found

    try:
        os.write(terminal, f"{setup}; echo rea''dy\n".encode())
        assert wait_for("ready\r\n"), seen
        os.write(terminal, f"{begun}\t".encode())
        found = wait_for(expected)
    finally:
        os.write(terminal, b"\x03\x04exit\n")
        os.close(terminal)
        os.kill(process, 9)
        os.waitpid(process, 0)
    return found


BASH = ["bash", "--norc", "--noprofile", "-i"]
ZSH = ["zsh", "-f", "-i"]
SETUP = {
    "bash": 'eval "$(mtlkit completion bash)"',
    "zsh": 'autoload -U compinit; compinit -u; eval "$(mtlkit completion zsh)"',
}
TYPED = {
    "mtlkit train scenes balancer=rotograd_p": "rocrustes",
    "mtlkit train scenes trainer.warm": "up_steps=",
    "mtlkit comp": "are",
}


@pytest.mark.parametrize("begun", ["mtlkit train scenes balancer=rotograd_p", "mtlkit train scenes trainer.warm"])
@pytest.mark.parametrize("command", [BASH, ZSH], ids=["bash", "zsh"])
def test_a_real_shell_completes(command, begun, environment, tmp_path):
    shell_or_skip(command[0])
    assert after_tab(command, SETUP[command[0]], begun, TYPED[begun], environment, tmp_path)


def test_fish_completes(environment, tmp_path):
    shell_or_skip("fish")
    lines = ["mtlkit train scenes balancer=rotograd_p", "mtlkit train scenes trainer.warm"]
    program = "; ".join(["mtlkit completion fish | source", *(f"complete -C '{line}'" for line in lines)])
    done = subprocess.run(
        ["fish", "--no-config", "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["balancer=rotograd_procrustes", "trainer.warmup_steps="]
