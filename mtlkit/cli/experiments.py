"""The experiments that come with mtlkit."""

import importlib.resources


def experiments() -> dict[str, str]:
    """Returns the experiments that come with mtlkit, each with the first comment of its file."""
    folder = importlib.resources.files("mtlkit.configs") / "experiment"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): _first_comment(file.read_text(encoding="utf-8")) for file in files}


def _first_comment(text: str) -> str:
    comments = (line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    return next((comment for comment in comments if comment and not comment.startswith("@package")), "")
