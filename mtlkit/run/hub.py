"""Runs on the Hugging Face hub: `mtlkit push` uploads one, and `mtlkit.load` downloads one.

Importing huggingface_hub takes a moment. Only code that goes to the hub imports this module.
"""

import shutil
import tempfile
from pathlib import Path
from typing import cast

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from mtlkit.run import checkpoint, checksums
from mtlkit.run.card import model_card
from mtlkit.run.checkpoint import BALANCER, TRAINING, WEIGHTS
from mtlkit.run.trained import load_run
from mtlkit.run_folder import CONFIG, DATA, LOG

CARD = "README.md"
CONFLICT = 409  #: HTTP's number for "exists already"
#: What can go wrong between here and the hub. Which library speaks HTTP depends on the release of huggingface_hub, and
#: the errors of that library are a base of its own.
TROUBLE = cast(tuple[type[Exception], ...], (OSError, HFValidationError, *HfHubHTTPError.__bases__))


def download(repository: str) -> Path:
    """Downloads a model, "user/name", and returns its folder in the cache of huggingface_hub.

    It asks only for the configuration, the description and the weights, none of which holds code.

    Raises:
        FileNotFoundError: it cannot be had, or it is no run of mtlkit. The message says why.
    """
    files = [CONFIG, DATA, *(f"checkpoints/*/{name}" for name in (WEIGHTS, BALANCER, checksums.CHECKSUMS))]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=files))
    except TROUBLE as error:
        raise FileNotFoundError(
            f"{repository} is no folder here, and the Hugging Face hub does not give a model of that name: "
            f"{_reason(error)}"
        ) from error
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    wanted = {
        CONFIG: CONFIG in found,
        DATA: DATA in found,
        f"checkpoints/best/{WEIGHTS} or last": any(path.endswith(f"/{WEIGHTS}") for path in found),
    }
    if absent := [name for name, there in wanted.items() if not there]:
        raise FileNotFoundError(
            f"{repository} on the Hugging Face hub has no {' and no '.join(absent)}, so it is no run that "
            f"`mtlkit push` has uploaded. Of a run's files it has {', '.join(found) or 'none'}."
        )
    return folder


def push_run(
    run: Path,
    repository: str,
    name: str | None = None,
    *,
    licence: str | None = None,
    private: bool = False,
    update: bool = False,
    training_state: bool = False,
) -> tuple[str, list[str]]:
    """Uploads a run, with a model card. Returns its address and the names of the files.

    The files are config.yaml, data.json, metrics.jsonl, the weights of one checkpoint (model and balancer) with their
    checksums, and the card. huggingface_hub finds out who you are (`hf auth login`).

    Args:
        repository: "user/name".
        name: the checkpoint; None: the one that the run's results belong to.
        licence: the hub's name of a licence, such as cc-by-4.0. Without it, the card says that none was given.
        private: nobody else can see it. It is for a new model only.
        update: add a version to a model that is there already. Without it, that is an error.
        training_state: also upload training.pt, with which others can continue the training.

    Raises:
        FileNotFoundError: there is no such run or checkpoint.
        FileExistsError: the hub has the model already, and `update` is not set.
        ValueError: the run is damaged, a file of the checkpoint is missing, or `repository` is no name for a model.
        OSError: the hub cannot be reached, or refuses.
    """
    model = load_run(run, name, "cpu")  # what cannot be loaded is not uploaded
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = Path("checkpoints", model.checkpoint.name.removesuffix(".old"))
        (folder / weights).mkdir(parents=True)
        (folder / CARD).write_text(model_card(run, model, repository, licence), encoding="utf-8")
        for file in (CONFIG, DATA, LOG):
            if (run / file).exists():  # a log may be lost; the card says so
                shutil.copyfile(run / file, folder / file)
        files = (WEIGHTS, BALANCER, *([TRAINING] if training_state else []))
        checkpoint.check(model.checkpoint, files, checkpoint.USE)
        for file in files:
            shutil.copyfile(model.checkpoint / file, folder / weights / file)
        if sums := checksums.read_list(model.checkpoint):  # those of then, so that what is copied wrongly is noticed
            checksums.write_list(folder / weights, {file: sums[file] for file in files})
        address = _upload(folder, repository, private=private, update=update)
        return address, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _upload(folder: Path, repository: str, *, private: bool, update: bool) -> str:
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private or None, exist_ok=update)
        # A checkpoint of another name that an earlier version had would be taken for this one's.
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload a run of mtlkit",
            delete_patterns=["checkpoints/*"],
        )
    except TROUBLE as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == CONFLICT:
            raise FileExistsError(
                f"{repository} is on the Hugging Face hub already. --update adds a version to it; or choose another "
                "name."
            ) from error
        raise OSError(f"{repository} could not be uploaded to the Hugging Face hub: {_reason(error)}") from error
    return str(address)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
