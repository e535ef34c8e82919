"""The contract of a balancer: how K task losses become one training step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlkit.contract import check_adapted, check_hooks, check_weights
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_number
from mtlkit.registry import Registry, suggest
from mtlkit.state import stay
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step


#: The names that a balancer may declare in `needs`, and what it then gets.
NEEDS = {
    "gram": "the Gram matrix of the task gradients, in `combine`",
    "jacobian": "`step.jacobian`: the whole gradients over the parameters, in the space `parameters`",
    "create_graph": "differentiable `step.gram` and `step.local_gradients` in `objective`; rules out `combine`",
    "second_batch": "`step.cross_gram`, from two halves of the batch, in the space `parameters`",
    "second_forward": "`step.losses_after` in `after_model`: the losses of the same batch once the model has moved",
    "indicators": "`step.indicators`: how well each task does, in [0, 1]",
}


class Balancer(nn.Module, ABC):
    """Turns K task losses and their gradients at the shared features into one update.

    The engine calls the hooks in this order, for every micro-batch:

        features = encoder(image)
        outputs[k] = decoder_k(adapter(k, features))        # `adapters` calls it for all tasks
        objective(step).backward():                      # the losses are known
            combine(step) -> weights of the K gradients  # inside the backward pass, the gradients are known
        # at the end of an accumulation window the model's optimizer moves
        after_model(step)
        # the balancer's own optimizer moves
        after_step(step)

    A resumed run gets the balancer's parameters and buffers back. `mtlkit.state` has the state that most methods need:
    `per_task` for one tensor per task, under the task's name, and `Kept` for a running average per task or per pair of
    tasks. A task that is absent for a while loses nothing. Use `step.note` for values that live only for one optimizer
    step.

    The balancer's own Adam trains its parameters. The rate is `lr`, times `lr_decay` to the number of steps, times the
    factor of the model's schedule (without it if `trainer.balancer_schedule` is `constant`). The gradients are those
    that autograd leaves in `.grad`, or that `combine` adds with `step.add_gradient`. Everything in a `Step` is equal on
    all processes unless its name starts with `local_`. So every process takes the same decisions.

    Values per task are on the host (the CPU), whatever the training device is: those of a `Step`, weights, and state.
    A parameter or buffer of the balancer itself stays there if its shape is (), (K,) or (K, K) with K tasks, as do
    `Kept` and numbers in `per_task`. Larger tensors, and modules inside the balancer, move to the training device.

    Args:
        tasks: the names of all tasks.
        space: the place where task gradients are compared, one of the class's `spaces`: `features` (the shared
            features), `parameters` (the encoder's parameters, by one encoder backward pass per task) or `last_layer`
            (the weights of the encoder's last layer).
        lr: the learning rate of the balancer's own parameters.
        lr_decay: the factor of that rate per step.
    """

    #: What the engine must provide: names of `NEEDS`.
    needs: ClassVar[frozenset[str]] = frozenset()
    spaces: ClassVar[tuple[str, ...]] = ("features",)
    #: Whether the method with these options equals plain summing, up to a common factor. The kit checks this.
    equals_uniform: bool = False
    #: What each decoder gets in the paper or, if the paper does not say it, in its authors' code: the gradient of its
    #: own loss (`plain`), or this gradient times the task's weight (`weighted`). If options decide, an instance sets
    #: it.
    decoders: Literal["plain", "weighted"] = "plain"
    seeks_pareto: bool = True  #: stops only where no step helps all tasks; if it is false, say why

    def __init__(
        self, tasks: Sequence[str], *, space: str = "features", lr: float = 1e-3, lr_decay: float = 1.0
    ) -> None:
        super().__init__()
        if isinstance(tasks, str):
            raise ValueError(f"A balancer needs a tuple of task names, such as ({tasks!r},), got {tasks!r}.")
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"A balancer needs at least one task and distinct names, got {tuple(tasks)}.")
        if isinstance(self.needs, str) or not isinstance(self.needs, Collection):
            raise ValueError(f"{type(self).__name__}.needs must be a set of names, such as frozenset({{'gram'}}).")
        if unknown := sorted(set(self.needs) - NEEDS.keys()):
            raise ValueError(f"{type(self).__name__}.needs has {unknown[0]!r}. {suggest(unknown[0], NEEDS)}")
        if space not in self.spaces:
            raise ValueError(
                f"{type(self).__name__} does not work in the space {space!r}. {suggest(space, self.spaces)}"
            )
        check_number("balancer.lr", lr, "[0, 1e6]")
        check_number("balancer.lr_decay", lr_decay, "(0, 1]")
        self.tasks = tuple(tasks)
        self.space = space
        self.lr = lr
        self.lr_decay = lr_decay

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [base for base in cls.__mro__ if base.__module__ == __name__])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Balancer":
        sizes = {(), (len(self.tasks),), (len(self.tasks),) * 2}
        super()._apply(lambda own: stay(own, fn) if own.shape in sizes else fn(own), recurse=False)
        for module in self.children():
            module._apply(fn, recurse)
        return self

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        """Prepares the balancer. It is called once before training, with the tasks and the shape of the features."""

    def operations(self, encoder: EncoderInfo, samples: int) -> dict[str, float]:
        """Returns the operations (flops) of the method itself per step, under "", and of cheaper words, if many."""
        return {}

    def settling_steps(self, steps_per_epoch: int) -> int:
        """Returns the number of first steps that are not yet those of the method, such as a warm-up. Most have none."""
        return 0

    def adapter(self, task: str, features: Features) -> Features:
        """Returns the features that a task's decoder gets, made from the shared ones, in training and in evaluation."""
        return features

    def adapters(self, features: Mapping[str, Features]) -> dict[str, Features]:
        """Returns `adapter` of each task. A method that can compute all tasks at once overrides this, beside `adapter`.

        All tasks have the same features, as different tensors, so that their gradients arrive apart.
        """
        return {task: self.adapter(task, own) for task, own in features.items()}

    def objective(self, step: "Step") -> Tensor:
        """Returns the scalar to minimise, from `step.losses`. Its derivatives by them weigh the encoder's gradient."""
        return step.losses.sum()

    def combine(self, step: "Step") -> Tensor | Features:
        """Returns the weights (k,) of the present tasks in the encoder's gradient. They multiply those of `objective`.

        Methods that work elementwise return the gradient itself instead: in the space `features` that of this process,
        one tensor per level, and in the space `parameters` that of all processes, in a list of one tensor (P,).
        """
        return step.losses.new_ones(len(step.tasks))

    def after_model(self, step: "Step") -> None:
        """Sets the `.grad` of parameters that learn from the result of the step.

        It is called after the model has moved and before the balancer's own optimizer moves.
        """

    def after_step(self, step: "Step") -> None:
        """Updates the balancer, after both optimizers have moved. It gets the step of the last micro-batch."""

    def adapt(self, features: Features) -> dict[str, Features]:
        """Returns every task's adapted features. The model's `forward` takes this function in evaluation."""
        found = self.adapters(dict.fromkeys(self.tasks, features))
        return {t: check_adapted(self, t, found.get(t), features) for t in self.tasks}


class LossBalancer(Balancer):
    """A method that weighs the losses and uses nothing else."""

    decoders = "weighted"

    @abstractmethod
    def weights(self, losses: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        """Returns the weights (k,), constant in the gradient, for the losses (k,) of the named tasks (None: all)."""

    def objective(self, step: "Step") -> Tensor:
        weights = check_weights(
            self, self.weights(step.losses.detach(), step.tasks), step.losses, step.tasks, "weights"
        )
        return (weights.detach() * step.losses).sum()


class GramBalancer(Balancer):
    """A method that needs only the inner products of the task gradients.

    A class with parameters of its own takes `lr` and `lr_decay` in its constructor and passes them on:
    `super().__init__(tasks, space=space, lr=lr, lr_decay=lr_decay)`. Without parameters there is nothing to train, so a
    class that does not name these two does not have them as options.
    """

    needs = frozenset({"gram"})
    spaces = ("features", "parameters")

    def __init__(self, tasks: Sequence[str], *, space: str = "features", **_rates: float) -> None:
        super().__init__(tasks, space=space, **_rates)

    @abstractmethod
    def weights(self, gram: Tensor) -> Tensor:
        """Returns the weights (k,) for the Gram matrix (k, k) of the present tasks' gradients, both in float64.

        It is a pure function and works without an engine.
        """

    def combine(self, step: "Step") -> Tensor:
        return check_weights(self, self.weights(step.gram), step.gram, step.tasks, "weights")


BALANCERS: Registry[Balancer] = Registry("balancer", Balancer, own="balancers")


def has_adapters(balancer: Balancer | type[Balancer]) -> bool:
    """Returns whether a method may hand decoders other features than the shared ones. Then they belong to the model.

    >>> has_adapters(BALANCERS.get("rotograd")), has_adapters(BALANCERS.get("gradnorm"))
    (True, False)
    """
    cls = balancer if isinstance(balancer, type) else type(balancer)
    return cls.adapter is not Balancer.adapter or cls.adapters is not Balancer.adapters


def random_orders(seed: Tensor, number: int, tasks: Sequence[str], names: Sequence[str]) -> Tensor:
    """Returns (k, k - 1): for each task, the rows of the others in a random order, which is new in every step.

    It is drawn for the sorted `names` of all tasks, so neither the order of the tasks nor an absent task changes it.

    >>> random_orders(torch.tensor(0), 0, ("b", "a"), ("a", "b")).tolist()
    [[1], [0]]
    """
    names = sorted(names)
    rows = torch.tensor([names.index(task) for task in tasks])
    draws = torch.rand(len(names), len(names), generator=generator(seed, number))[rows][:, rows]
    return draws.fill_diagonal_(2).argsort(dim=1)[:, :-1]


def generator(seed: Tensor, number: int) -> torch.Generator:
    """Returns a generator for step `number` that is the same on all processes, in all micro-batches and after a resume.

    `seed` is a buffer that the balancer's constructor draws: `register_buffer("seed", torch.randint(2**31, ()))`.

    >>> a, b, c = (torch.rand(2, generator=generator(torch.tensor(seed), 7)) for seed in (5, 5, 6))
    >>> torch.equal(a, b), torch.equal(a, c)
    (True, False)
    """
    # Torch's generator on the CPU uses only the lower 32 bits. An odd factor keeps the steps of a run different.
    return torch.Generator().manual_seed((int(seed) + 2654435761 * number) % 2**32)
