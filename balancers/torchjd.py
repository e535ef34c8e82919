"""The weightings of the TorchJD package as balancers."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer, generator
from mtlkit.gram import check_gram_shape
from mtlkit.registry import check_options, suggest

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("torchjd")
class TorchJD(GramBalancer):
    """Weighs the task gradients by a weighting of the TorchJD package.

    w = weighting(M), where M is the Gram matrix. A weighting that takes a Jacobian gets the symmetric J for which J J =
    M. TorchJD's constants such as norm_eps are absolute: gradients that are small compared with them count as zero.
    mtlkit's own methods of the same names have no such thresholds.

    A weighting is called with the tasks in alphabetical order and draws random numbers from a seed that is saved. So it
    gives the same weights on all processes, in all micro-batches and after a resume. Weightings that keep a state from
    step to step are refused, because no checkpoint would hold that state. Aggregators that give no weights of the
    gradients, such as those that look at single coordinates, are refused too.

    Source: Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232, and the papers that
    TorchJD's documentation names for each method. Needs `pip install "torchjd[full]>=0.18"`.

    Decoders: plain, as by TorchJD's `mtl_backward`.

    Differs from the published experiments: TorchJD compares gradients over all shared parameters, which
    `space=parameters` gives. The options of a weighting have TorchJD's defaults.

    Args:
        weighting: the name of a weighting or aggregator in `torchjd.aggregation`, in any case.
        options: the arguments of its constructor. Give a vector as task: number, with all tasks, and `projector` as
            norm_eps and reg_eps of TorchJD's QuadprogProjector.
        space: `features` or `parameters`.

    Raises:
        LookupError: TorchJD has no weighting or aggregator of that name.
        ValueError: TorchJD or a package that the weighting needs is not installed, the weighting is refused, or
            `options` do not fit it.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    >>> options = {"weights": {"a": 1.0, "b": 2.0}}
    >>> BALANCERS.build("torchjd", tasks=("a", "b"), weighting="constant", options=options).weights(gram).tolist()
    [1.0, 2.0]
    """

    seed: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        weighting: str = "UPGrad",
        options: Mapping[str, Any] | None = None,
        space: str = "features",
    ) -> None:
        super().__init__(tasks, space=space)
        self.register_buffer("seed", torch.randint(2**31, ()))
        self._aggregator = find(weighting)
        self._options = dict(options or {})
        name = self._aggregator.__name__
        check_options(f"weighting {name!r}", self._aggregator, self._options)
        try:  # so that wrong options are refused now, not in the first step
            inspect.signature(self._aggregator).bind(**self._options)
            self.weights(torch.eye(len(self.tasks), dtype=torch.float64))
        except (AttributeError, TypeError, ValueError, ImportError) as error:
            raise ValueError(f"balancer.options for TorchJD's {name}: {error}") from error

    def weights(self, gram: Tensor, tasks: Sequence[str] | None = None, number: int = 0) -> Tensor:
        """Returns the weights for the Gram matrix of the named tasks (None: all), with the random numbers of a step."""
        tasks = self.tasks if tasks is None else tasks
        check_gram_shape(gram, tasks)
        order = sorted(range(len(tasks)), key=lambda row: tasks[row])
        with torch.random.fork_rng(devices=[]):  # TorchJD draws from torch's own generator
            torch.random.set_rng_state(generator(self.seed, number).get_state())
            found = self._weigh(gram[order][:, order].cpu(), [tasks[row] for row in order])
        weights = torch.empty_like(gram[0])
        weights[order] = found.to(weights)
        return weights

    def combine(self, step: "Step") -> Tensor:
        return self.weights(step.gram, step.tasks, step.number)

    def _weigh(self, gram: Tensor, tasks: Sequence[str]) -> Tensor:
        from torchjd.aggregation import GramianWeightedAggregator

        values = {key: self._argument(key, value, tasks) for key, value in self._options.items()}
        aggregator = self._aggregator(**values)
        if isinstance(aggregator, GramianWeightedAggregator):
            return aggregator.gramian_weighting(gram)
        values, vectors = torch.linalg.eigh(gram)
        return aggregator.weighting((vectors * values.clamp_min(0).sqrt()) @ vectors.T)

    def _argument(self, key: str, value: Any, tasks: Sequence[str]) -> Any:
        if key == "projector":
            from torchjd.linalg import QuadprogProjector

            return QuadprogProjector(**value)
        if isinstance(value, Mapping):
            if wrong := sorted(set(value) ^ set(self.tasks)):
                raise ValueError(f"{key} must have a number for each task. Look at {wrong[0]!r}.")
            return torch.tensor([value[task] for task in tasks], dtype=torch.float64)
        if isinstance(value, list | tuple):
            raise ValueError(f"{key} must be given by name, as task: number, for tasks may be absent from a step.")
        return value


def find(name: str) -> type[Any]:
    """Returns TorchJD's class for the name of an aggregator or weighting."""
    try:
        from torchjd import Stateful, aggregation
    except ImportError as error:
        raise ValueError(f'The balancer torchjd needs TorchJD: pip install "torchjd[full]>=0.18". ({error})') from error
    bases = (aggregation.Aggregator, aggregation.Weighting)
    weighted = (aggregation.GramianWeightedAggregator, aggregation.WeightedAggregator)
    classes = [getattr(aggregation, entry) for entry in aggregation.__all__]
    classes = [cls for cls in classes if issubclass(cls, bases) and cls not in (*bases, *weighted)]
    # Aggregators come last, so that `known` keeps them where a weighting has the same name.
    classes.sort(key=lambda cls: issubclass(cls, aggregation.Aggregator))
    known = {cls.__name__.lower().removesuffix("weighting"): cls for cls in classes}
    found = known.get(name.lower().removesuffix("weighting"))
    if found is None:
        usable = [key for key, cls in known.items() if issubclass(cls, weighted) and not issubclass(cls, Stateful)]
        raise LookupError(f"TorchJD has no weighting {name!r}. {suggest(name.lower(), usable)}")
    hint = "See whether mtlkit has the method itself: mtlkit list balancers."
    if issubclass(found, Stateful):
        raise ValueError(f"TorchJD's {found.__name__} keeps a state that no checkpoint would hold. {hint}")
    if not issubclass(found, weighted):
        raise ValueError(f"TorchJD's {found.__name__} gives no weights of the gradients. {hint}")
    return found
