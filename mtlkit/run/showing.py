"""What a run leaves to look at: pictures with losses and numbers, tables over the split, and the report."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.data import DataLoader

from mtlkit.data.samples import Samples
from mtlkit.data.summary import spread
from mtlkit.engine.engine import Engine
from mtlkit.engine.shards import is_split
from mtlkit.report import save_pictures, write_report
from mtlkit.report.details import save_details
from mtlkit.report.samples import FILE, LARGEST, Look, Role, Sample, as_json
from mtlkit.run.drawing import PICTURES, draw
from mtlkit.run.survey import Survey, best_and_worst, survey


def show(engine: Engine, samples: Samples, batches: DataLoader, folder: Path, ending: Mapping[str, object]) -> None:
    """Writes pictures, `details.json` and the report, on the main process.

    `ending` says how the run ended, which is not in its log yet. `batches` are the main process's share of an
    evaluation on the `samples`. The other processes wait. A model that is split over them cannot compute on one process
    alone: then there is only the report, and a note in the log says so.
    """
    if is_split(engine.predictor.model):
        engine.note({"incident": "There are no pictures: no process has the whole model, which is split over them."})
    else:
        batch_indices = [[index for _, index in batch] for batch in batches.batch_sampler]  # type: ignore[union-attr]
        count = sum(map(len, batch_indices))
        engine.observer.phase(f"Looking at {count} of {len(samples)} samples once more, for the report")
        found = survey(engine.predictor, batches, batch_indices)
        _show_samples(engine, samples, found, folder)
        save_details(folder, found.details(len(samples)))
    write_report(folder, ending=ending)


def _show_samples(engine: Engine, samples: Samples, found: Survey, folder: Path) -> None:
    best, worst = best_and_worst(found.losses)
    chosen: dict[Role, list[int]] = {"spread": spread(len(samples), PICTURES), "best": best, "worst": worst}
    roles = [(role, index) for role, indices in chosen.items() for index in indices]
    drawn = draw(engine.predictor, samples, [index for _, index in roles])
    look = Look(
        [
            Sample(role, samples.dataset.label(index), _finite(found.losses.get(index, {})), numbers=numbers)
            for (role, index), numbers in zip(roles, drawn.numbers, strict=True)
        ],
        drawn.legends,
        len(found.losses),
        len(samples),
        _rule(len(chosen["spread"]), len(best), len(found.losses), len(samples)),
    )
    save_pictures(folder, drawn.rows, {FILE: as_json(look)})
    engine.observer.pictures(engine.step, drawn.rows[: len(chosen["spread"])])


def _finite(losses: dict[str, float]) -> dict[str, float]:
    return {task: loss for task, loss in losses.items() if abs(loss) <= LARGEST}


def _rule(even: int, ends: int, ranked: int, size: int) -> str:
    """Says how the samples were chosen."""
    first = f"{even} samples are evenly spread over the {size} of the split."
    if not ends:
        return first
    among = f"the {size} samples" if ranked == size else f"{ranked} of the {size} samples, evenly spread"
    return (
        f"{first} The best {ends} and the worst {ends} are those with the lowest and the highest mean rank among "
        f"{among}: they are ranked by their own loss in each task, and the ranks "
        "of a sample are averaged over the tasks of which it has a label."
    )
