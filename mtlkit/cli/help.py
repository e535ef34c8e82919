"""What `mtlkit --help` prints, and the examples of every command."""

from collections.abc import Mapping

START = """\
usage: mtlkit COMMAND [WORD ...]

mtlkit trains one PyTorch model on several tasks: a shared encoder and one decoder per task.
Balancers, the methods that decide how the tasks share the encoder, are exchanged by one word.

Start here:
  mtlkit list experiments                             names what can be trained as it is
  mtlkit train scenes balancer=rotograd               trains, and prints the folder of the results
  mtlkit evaluate runs/scenes_rotograd_0              prints losses and metrics of that run
  mtlkit compare scenes balancer=uniform,rotograd seed=0,1,2      compares methods
  mtlkit describe balancer=rotograd                   says what a name or a key means

The words after an experiment have three forms:
  trainer.lr=0.01          sets a key of the configuration (mtlkit describe lists the keys)
  balancer=rotograd        chooses from a group: balancer, data, model, task, preset
  seed=0,1                 makes a sweep, one run per value, in `compare` or `train --multirun`

Commands:
"""
END = """\

mtlkit COMMAND --help shows words and examples of a command. mtlkit --version prints the version.
Documentation: README.md and the folder docs of the repository.

Exit status: 0 success; 2 a mistake in words or files, or a process died or had no memory; 3 a loss
is not finite or a balancer's problem has no solution; 75 a signal stopped the run, and the same
command goes on (train: with --resume); 130 Ctrl-C; 1, with a traceback, any other error.
MTLKIT_DEBUG=1 shows every traceback.
"""

EXAMPLES = {
    "train": (
        "mtlkit train scenes balancer=rotograd 'data.size=[64,48]' trainer.max_epochs=2 output_dir=runs/a",
        "mtlkit train scenes output_dir=runs/a --resume",
        "mtlkit train scenes balancer=uniform,rotograd seed=0,1 output_dir=runs/sweep --multirun",
        "mtlkit train scenes balancer=rotograd --cfg > mine.yaml && mtlkit train mine.yaml",
        "mtlkit train my_experiment.yaml 'plugins=[my_lab.balancers]' balancer=my_balancer",
        "torchrun --nproc_per_node 4 -m mtlkit train scenes balancer=rotograd",
    ),
    "compare": (
        "mtlkit compare scenes balancer=uniform,rotograd seed=0,1,2 output_dir=studies/a",
        "mtlkit compare runs/a runs/b",
    ),
    "evaluate": ("mtlkit evaluate runs/a --split test", "mtlkit evaluate runs/a data.root=/elsewhere"),
    "predict": ("mtlkit predict runs/a photo.jpg --out predictions",),
    "report": ("mtlkit report runs/a",),
    "explain": ("mtlkit explain runs/a",),
    "export": (
        "mtlkit export runs/a --format onnx --out model.onnx",
        "mtlkit export runs/a --encoder encoder.safetensors",
    ),
    "push": ("mtlkit push runs/a somebody/my-model --licence cc-by-4.0",),
    "data": ("mtlkit data show nyuv2 data.root=/data/nyuv2",),
    "data show": ("mtlkit data show nyuv2 data.root=/data/nyuv2",),
    "data prepare": ("mtlkit data prepare nyuv2 data.root=/data/nyuv2 --out /fast/nyuv2",),
    "list": ("mtlkit list balancers", "mtlkit list experiments"),
    "describe": (
        "mtlkit describe trainer.lr",
        "mtlkit describe trainer",
        "mtlkit describe balancer=rotograd",
        "mtlkit describe encoder=segnet",
        "mtlkit describe task.depth",
    ),
    "schema": (
        "mtlkit schema > mtlkit.schema.json",
        "# The first line of experiment.yaml, for editors with the YAML language server:",
        "# yaml-language-server: $schema=mtlkit.schema.json",
    ),
    "completion": (
        'eval "$(mtlkit completion bash)"    # in ~/.bashrc',
        'eval "$(mtlkit completion zsh)"     # in ~/.zshrc',
        "mtlkit completion fish > ~/.config/fish/completions/mtlkit.fish",
    ),
}  #: by command; the first one is also in the message about missing words


def whole(commands: Mapping[str, str]) -> str:
    """Returns what `mtlkit --help` prints, for commands with their descriptions: each one on one line.

    >>> print(whole({"list": "Lists names. And more."}).splitlines()[18].strip())
    list        Lists names.
    """
    firsts = {name: text.partition(". ")[0].partition(": ")[0].rstrip(".") for name, text in commands.items()}
    lines = [f"  {name:<11} {first}.\n" for name, first in firsts.items()]
    return START + "".join(lines) + END


def examples(command: str) -> str:
    """Returns the end of a command's help, with its examples; empty for a command without any."""
    lines = EXAMPLES.get(command, ())
    return "".join(["examples:\n", *(f"  {line}\n" for line in lines)]) if lines else ""
