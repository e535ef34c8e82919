"""Evaluates a finished run on a split of its data. `trained.py` loads its model, `predicting.py` predicts for files."""

from collections.abc import Sequence
from pathlib import Path
from warnings import warn

from mtlkit import distributed
from mtlkit.data.dataset import Split
from mtlkit.data.loader import eval_loader
from mtlkit.engine.evaluation import evaluate_model as evaluate_model
from mtlkit.log import class_key
from mtlkit.run.build import build_dataset, build_samples, make_accelerator
from mtlkit.run.resume import evaluated
from mtlkit.run.trained import load_run as load_run
from mtlkit.run_folder import CONFIG, check_run


def evaluate_run(
    run: Path,
    split: Split | None = None,
    name: str | None = None,
    words: Sequence[str] = (),
    *,
    classes: bool = False,
) -> dict[str, float | None]:
    """Returns `loss/<task>` and `<task>/<metric>` of a run's checkpoint on a split of its data.

    Without a split, it uses the split that the run validated on. Without a name, it uses the checkpoint of the results.
    `words` are overrides, such as `data.root=PATH`, of the keys that may change (`mtlkit.run.resume.MAY_CHANGE`). With
    `classes`, there are also the figures of single classes, `<task>/<metric>/<class>`.

    With the same data and number of processes, the figures equal those that training logged for that model, to the last
    digit.
    """
    check_run(run, CONFIG)
    config = evaluated(run, words)
    device = make_accelerator(config.trainer).device  # of this process, of which a launcher may have started several
    predictor = load_run(run, name, device).predictor
    samples = build_samples(config, build_dataset(config, split or config.data.validation))
    batches = eval_loader(
        samples,
        config.data.eval_batch_size or config.data.batch_size,
        workers=config.data.workers,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    found = evaluate_model(batches, predictor)
    if incident := found.pop("incident", None):
        warn(incident, stacklevel=2)
    found.pop("left_out", None)
    return {key: value for key, value in found.items() if classes or not class_key(key)}
