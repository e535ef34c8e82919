"""The commands `mtlkit export` and `mtlkit push`, for models that leave mtlkit or this machine."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtlkit.cli.output import print_lines
from mtlkit.cli.runs import add_run, trust
from mtlkit.run_folder import CONFIG, check_run

EXPORT = "Write a model as a file that works without mtlkit: ONNX, torch.export, or the encoder's weights."
PUSH = (
    "Upload a run to the Hugging Face hub, with a model card. config.yaml and metrics.jsonl go with it: look at them."
)


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands. `add(name, command, text)` returns a parser."""
    sub = add("export", export_command, EXPORT)
    add_run(sub)
    sub.add_argument("--format", choices=("onnx", "pt2"), help="of --out: ONNX, or a program of torch.export")
    sub.add_argument("--out", metavar="FILE", type=Path, help="the file to write: image in, predictions out")
    sub.add_argument(
        "--dynamic-size", action="store_true", help="it takes images of any size, not only the trained one"
    )
    sub.add_argument(
        "--check",
        metavar="IMAGES",
        nargs="+",
        type=Path,
        help="compare with the model on these files and folders (default: the run's validation data)",
    )
    sub.add_argument("--encoder", metavar="FILE", type=Path, help="write the encoder's weights alone, as safetensors")
    sub = add("push", push_command, PUSH)
    add_run(sub)
    sub.add_argument("repository", metavar="USER/NAME", help="the model's name on the hub")
    sub.add_argument("--licence", metavar="NAME", help="the hub's name of the model's licence, such as cc-by-4.0")
    sub.add_argument("--private", action="store_true", help="nobody else can see the new model")
    sub.add_argument("--update", action="store_true", help="add a version to a model that is on the hub already")
    sub.add_argument("--training-state", action="store_true", help="also upload training.pt, to continue the training")


def export_command(arguments: argparse.Namespace, result: Any) -> None:
    """Writes the files and prints how much the exported program differs from the model."""
    _check_words(arguments)
    check_run(arguments.run, CONFIG)
    trust(arguments, arguments.run)
    from mtlkit.run.export import check_export, export_encoder, export_model
    from mtlkit.run.trained import load_run

    out, format_, encoder = arguments.out, arguments.format, arguments.encoder
    for path, kind in ((out, format_), (encoder, None)):
        if path is not None:
            check_export(path, kind)
    model = load_run(arguments.run, arguments.checkpoint, "cpu")
    if encoder is not None:
        print_lines([f"{encoder}: the encoder's weights; {export_encoder(model, encoder)}."])
    if out is None:
        return
    done = export_model(model, out, format_, dynamic_size=arguments.dynamic_size, check=arguments.check or ())
    names = ", ".join(done.differences)
    print_lines([f"{out}: image (B, {model.description.channels}, H, W) in [0, 1] -> {names}"])
    if (precision := model.config.trainer.precision) != "fp32":
        why = f"The run computed in {precision}, and this file computes in float32: predictions differ by the rounding."
        print_lines([why])
    if done.why_not:
        why = f"The run's validation data could not be opened ({done.why_not}). --check IMAGES takes other images."
        print_lines([why])
    print_lines([f"Largest difference to the model on {done.images} (of class numbers: the share that differs):"])
    for name, (difference, most) in done.differences.items():
        print_lines([f"  {name}: {difference:.2g} (allowed: {most:g})"])


def _check_words(arguments: argparse.Namespace) -> None:
    out = arguments.out
    if (out is None) != (arguments.format is None):
        raise ValueError("--out FILE and --format onnx|pt2 go together.")
    if out is None and arguments.encoder is None:
        raise ValueError("There is nothing to write: say --format onnx|pt2 --out FILE, or --encoder FILE, or both.")
    for word, given in (("--dynamic-size", arguments.dynamic_size), ("--check", arguments.check)):
        if given and out is None:
            raise ValueError(f"{word} goes with --out.")


def push_command(arguments: argparse.Namespace, result: Any) -> None:
    """Uploads the run and prints where it is."""
    check_run(arguments.run, CONFIG)
    trust(arguments, arguments.run)
    from mtlkit.run.hub import push_run

    address, files = push_run(
        arguments.run,
        arguments.repository,
        arguments.checkpoint,
        licence=arguments.licence,
        private=arguments.private,
        update=arguments.update,
        training_state=arguments.training_state,
    )
    print_lines([address, *(f"  {file}" for file in files)])
