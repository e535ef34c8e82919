"""Delta-m: how much better a multi-task method is than single-task training, in each of its published definitions.

Different definitions give different rankings for the same figures. A value therefore means nothing without its
definition. A `DeltaM` is a definition, and its results carry the definition with them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from statistics import fmean, median, stdev
from typing import Any, Literal

from mtlkit.option_checks import check_choice
from mtlkit.registry import suggest
from mtlkit.study.measured import BySeed, Figures, Measured, figures_of

__all__ = ["PUBLISHED", "DeltaM", "Measured", "Published", "Result", "figures_of"]


@dataclass(frozen=True)
class Published:
    """A set of single-task figures that published tables divide by, instead of by figures of their own runs."""

    label: str
    figures: Figures


NYUV2 = (
    "segmentation/miou",
    "segmentation/pixel_accuracy",
    "depth/abs",
    "depth/rel",
    "normals/mean",
    "normals/median",
    "normals/within_11",
    "normals/within_22",
    "normals/within_30",
)

#: By name. Rates are fractions, `depth/rel` is the ratio itself (27.77: of inverse depths next to 0).
PUBLISHED = {
    "cagrad_nyuv2": Published(
        "single-task figures written into the code of CAGrad, Nash-MTL, FAMO and FairGrad",
        dict(zip(NYUV2, (0.3830, 0.6376, 0.6754, 0.2780, 25.01, 19.21, 0.3014, 0.5720, 0.6915), strict=True)),
    ),
    "cagrad_cityscapes": Published(
        "single-task figures written into the code of CAGrad, Nash-MTL, FAMO and FairGrad",
        dict(zip(NYUV2[:4], (0.7401, 0.9316, 0.0125, 27.77), strict=True)),
    ),
    "recon_nyuv2": Published(
        "single-task figures of Recon (ICLR 2023)",
        dict(zip(NYUV2, (0.3867, 0.6427, 0.6881, 0.2788, 24.87, 18.99, 0.3043, 0.5781, 0.6970), strict=True)),
    ),
}


@dataclass(frozen=True)
class Result:
    """A value of delta-m with everything that it was computed from. The definition decides the sign of a gain.

    Attributes:
        value: delta-m in percent.
        definition: a text that says what was computed, with the baseline.
        per_metric, per_task: the gains in percent whose mean is the value.
        by_seed: the value per seed. It is empty if the definition has none.
    """

    value: float
    definition: str
    per_metric: dict[str, float]
    per_task: dict[str, float]
    by_seed: dict[int, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median over tasks. One task alone cannot decide it."""
        return median(self.per_task.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds. None if there are fewer than two seeds."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def without(self) -> dict[str, float]:
        """The mean over all other tasks, per left-out task. It shows how much the value depends on that task."""
        tasks = self.per_task
        return {left: fmean(v for t, v in tasks.items() if t != left) for left in tasks if len(tasks) > 1}

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        parts = ", ".join(f"{task} {gain:+.2f}" for task, gain in self.per_task.items())
        return f"Δm {self.value:+.2f}{spread} % ({self.definition}); {parts}"


@dataclass(frozen=True)
class DeltaM:
    """A definition of delta-m = mean of 100 s (M - B) / |B|. M is a method's figure, B the baseline's, s the direction.

    Args:
        higher_is_better: the metrics that count, "<task>/<metric>", and whether higher is better.
        average: `tasks`: the mean over the metrics of each task, then over tasks (RotoGrad, LibMTL, Vandenhende);
            `metrics`: the mean over all metrics, so that a task with more metrics counts more (CAGrad, Nash-MTL, FAMO).
        better: whether a gain is `positive` (RotoGrad, LibMTL) or `negative` (CAGrad and later papers).
        seeds: `ratios`: the mean of the delta-m of each seed, which compares with the baseline of the same seed;
            `means`: delta-m of the means over seeds. The two differ if the figures of the baseline vary with the seed.
        without: tasks that do not count, such as a task whose baseline has an error near 0.

    >>> delta = DeltaM({"a/error": False, "b/accuracy": True})
    >>> result = delta({0: {"a/error": 0.9, "b/accuracy": 0.6}}, {0: {"a/error": 1.0, "b/accuracy": 0.5}})
    >>> round(result.value, 6), {task: round(gain, 6) for task, gain in result.per_task.items()}
    (15.0, {'a': 10.0, 'b': 20.0})
    """

    higher_is_better: Mapping[str, bool]
    average: Literal["tasks", "metrics"] = "tasks"
    better: Literal["positive", "negative"] = "positive"
    seeds: Literal["ratios", "means"] = "ratios"
    without: Collection[str] = ()

    def __post_init__(self) -> None:
        for option, value, known in (
            ("average", self.average, ("tasks", "metrics")),
            ("better", self.better, ("positive", "negative")),
            ("seeds", self.seeds, ("ratios", "means")),
        ):
            check_choice(f"The option {option!r} of delta-m", value, known)
        if isinstance(self.without, str):
            raise ValueError(f"The option 'without' of delta-m: expected a list of tasks, found {self.without!r}.")
        tasks = {key.split("/")[0] for key in self.higher_is_better}
        if unknown := set(self.without) - tasks:
            raise LookupError(f"DeltaM: there is no task {min(unknown)!r}. {suggest(min(unknown), tasks)}")
        if not tasks - set(self.without):
            raise ValueError("DeltaM: no task is left to count.")

    def __call__(self, method: BySeed | Measured, baseline: BySeed | Measured | Published) -> Result:
        """Compares a method's figures, per seed, with figures of single-task runs of the same seeds or published ones.

        Raises `ValueError` if a figure or seed is missing on one side, if a figure of the baseline is 0, and if the
        figures are of different kinds, such as validation and test figures.
        """
        kinds = [side.kind for side in (method, baseline) if isinstance(side, Measured)]
        decoders = method.decoders if isinstance(method, Measured) else ""
        name = baseline.name if isinstance(baseline, Measured) else ""
        if len(set(kinds)) > 1:
            raise ValueError(f"DeltaM: the method has {kinds[0]}, the baseline {kinds[1]}; compare like with like.")
        method = method.by_seed if isinstance(method, Measured) else method
        baseline = baseline.by_seed if isinstance(baseline, Measured) else baseline
        if not method:
            raise ValueError("DeltaM: there is no run of the method.")
        if isinstance(baseline, Published):
            label, base = baseline.label, dict.fromkeys(method, baseline.figures)
        else:
            label, base = name or "own single-task runs of the same seeds", dict(baseline)
        if self.seeds == "ratios" and (missing := sorted(set(method) - set(base))):
            raise ValueError(f"DeltaM: the baseline has no run of seed {missing[0]}; seeds='means' compares means.")
        if self.seeds == "means":
            gains, by_seed = self._gains(_means(method, self._keys), _means(base, self._keys)), {}
        else:
            each = {seed: self._gains(figures, base[seed]) for seed, figures in method.items()}
            gains = {key: fmean(found[key] for found in each.values()) for key in self._keys}
            by_seed = {seed: self._mean(found) for seed, found in each.items()}
        runs = f"of {len(method)} {'run' if len(method) == 1 else 'runs'}"
        definition = self._definition(", ".join(filter(None, [*kinds[:1], runs, decoders])), label)
        return Result(self._mean(gains), definition, gains, self._tasks(gains), by_seed)

    @property
    def _keys(self) -> list[str]:
        return [key for key in self.higher_is_better if key.split("/")[0] not in self.without]

    def _gains(self, new: Figures, old: Figures) -> dict[str, float]:
        sign = 1 if self.better == "positive" else -1
        found = {}
        for key in self._keys:
            for side, figures in (("method", new), ("baseline", old)):
                if figures.get(key) is None:
                    raise ValueError(f"DeltaM: the {side} has no figure {key!r}. {suggest(key, figures)}")
            if old[key] == 0:
                raise ValueError(f"DeltaM: the baseline's {key!r} is 0, and nothing is relative to that.")
            gain = new[key] - old[key] if self.higher_is_better[key] else old[key] - new[key]
            found[key] = sign * 100 * gain / abs(old[key])
        return found

    def _tasks(self, gains: Mapping[str, float]) -> dict[str, float]:
        tasks = dict.fromkeys(key.split("/")[0] for key in gains)
        return {task: fmean(v for key, v in gains.items() if key.split("/")[0] == task) for task in tasks}

    def _mean(self, gains: Mapping[str, float]) -> float:
        return fmean((self._tasks(gains) if self.average == "tasks" else gains).values())

    def _definition(self, figures: str, label: str) -> str:
        parts = [
            f"{self.better} is better",
            "mean over tasks" if self.average == "tasks" else "mean over metrics",
            figures,
            "mean of ratios" if self.seeds == "ratios" else "ratio of means",
            f"against {label}",
        ]
        return ", ".join([*parts, f"without {', '.join(sorted(self.without))}"] if self.without else parts)


def definition_of(higher_is_better: Mapping[str, bool], options: Mapping[str, Any]) -> DeltaM:
    """Returns the definition that a study asks for. `without` may be tasks joined by +, as on the command line.

    Raises `LookupError` for an option that delta-m has not, and what `DeltaM` does.
    """
    known = [one.name for one in fields(DeltaM) if one.name != "higher_is_better"]
    if unknown := [key for key in options if key not in known]:
        raise LookupError(f"delta_m: there is no option {unknown[0]!r}. {suggest(str(unknown[0]), known)}")
    without = options.get("without", ())
    own = {"without": tuple(without.split("+") if isinstance(without, str) else without)}
    return DeltaM(higher_is_better, **{**options, **own})


def _means(by_seed: BySeed, keys: Collection[str]) -> dict[str, float]:
    """Returns the means over seeds of the figures that every seed has."""
    return {key: fmean(f[key] for f in by_seed.values()) for key in keys if all(key in f for f in by_seed.values())}
