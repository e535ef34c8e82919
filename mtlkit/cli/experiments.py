"""The experiments and the presets that come with mtlkit."""

import importlib.resources
from itertools import takewhile


def experiments() -> dict[str, str]:
    """Returns the experiments that come with mtlkit, each with the first comment of its file."""
    return _files("experiment")


def presets() -> dict[str, str]:
    """Returns the presets that come with mtlkit, each with the first comment of its file."""
    return _files("balancer_preset")


def studies() -> dict[str, str]:
    """Returns the studies that come with mtlkit, each with the first comment of its file."""
    return _files("study")


def preset_comments() -> dict[str, str]:
    """Returns the presets that come with mtlkit, each with the whole comment at the start of its file."""
    return {name: "\n".join(lines).strip() for name, lines in _comments("balancer_preset").items()}


def file_names(group: str) -> list[str]:
    """Returns the names of the files in a group of configs/."""
    return list(_comments(group))


def _files(group: str) -> dict[str, str]:
    lines = _comments(group).items()
    return {name: next((line for line in found if line and line[0] != "@"), "") for name, found in lines}


def _comments(group: str) -> dict[str, list[str]]:
    """Returns the lines of the comment at the start of each file of a group."""
    folder = importlib.resources.files("mtlkit.configs") / group
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    texts = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8").splitlines() for file in files}
    return {
        name: [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
        for name, lines in texts.items()
    }
