"""What a balancer sees of a step: losses, task gradients, their Gram matrix. How they come about is the engine's."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from mtlkit import contract
from mtlkit.distributed import join_over_ranks, sum_over_ranks
from mtlkit.gradients import Row
from mtlkit.network import Features
from mtlkit.state import Kept

Window = defaultdict[Hashable, list[Any]]  # what the micro-batches of one optimizer step leave for its end


class TaskGradients(ABC):
    """The K task gradients of one backward pass, in the space where the balancer compares them.

    Raises `ValueError` from each method while the gradients are not there: before the backward pass, and after it.
    """

    @abstractmethod
    def gram(self) -> Tensor:
        """(k, k) float64: their inner products over all processes. They stay known after the backward pass."""

    @abstractmethod
    def cross_gram(self) -> Tensor:
        """(k, k) float64: those of g_i on one half of the batch with g_j on the other."""

    @abstractmethod
    def jacobian(self) -> Tensor:
        """(k, P): the gradients over the shared parameters, over all processes."""

    @abstractmethod
    def local_gradients(self) -> list[Row]:
        """The gradients at this process's features: one row per task, one tensor per level (None: not used)."""

    @abstractmethod
    def local_features(self) -> Features:
        """The features of this process's samples, one tensor per level."""


class Step:
    """What one micro-batch's step knows. Equal on all processes unless the name starts with `local_`.

    Attributes:
        number, epoch: how many optimizer steps and epochs came before.
        rate: the balancer's learning rate in this step.
        tasks: the names of the tasks with at least one valid label on any process; the rows of all below.
        losses: (k,) means over all valid elements of all processes; differentiable in `objective`.
        raw_losses: name -> the loss as a number, before it is divided by the first losses.
        coefficients: (k,) derivatives of the objective by the losses, known from the backward pass on.
        weights: (k,) factors of the task gradients in the encoder's gradient (None for elementwise methods).
        decoder_weights: (k,) the decoders' factors, where they get any; `combine` may set it (None: `weights`).
        finite: whether the task gradients are finite; if not, `combine` was not asked.
        extras: further scalars to log, by name; a balancer may add some.

    A balancer reads further values below. Each is there only where the balancer declares that it needs it, and only
    at its time; reading it otherwise raises a `ValueError` that says what to write.
    """

    def __init__(
        self,
        balancer: contract.Declares,
        *,
        number: int = 0,
        epoch: int = 0,
        rate: float = 0.0,
        accumulation: int = 1,
        window: Window | None = None,
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.rate = rate
        self.tasks: tuple[str, ...] = ()
        self.losses = torch.empty(0)
        self.raw_losses: dict[str, float] = {}
        self.coefficients: Tensor | None = None
        self.weights: Tensor | None = None
        self.decoder_weights: Tensor | None = None
        self.finite = True
        self.extras: dict[str, Tensor] = {}
        # What the engine puts in as soon as it is known.
        self.gradients: TaskGradients | None = None
        self.seed = torch.ones(())  # what the backward pass begins with: the loss scale over the accumulation steps
        # By name: `losses_after` and `indicators` for the properties below. For the log: `gram`, if it is known, and
        # `products`, of a gradient that the balancer gave itself: with the tasks' gradients and with itself.
        self.found: dict[str, Tensor] = {}
        self._balancer = balancer
        self._accumulation = accumulation
        self._window = defaultdict(list) if window is None else window

    @property
    def gram(self) -> Tensor:
        """(k, k) float64: inner products of the gradients of `losses` in the balancer's space, over all processes."""
        contract.check_declared(self._balancer, "gram", "gram", "create_graph")
        return self._gradients("gram").gram()

    @property
    def norms(self) -> Tensor:
        """(k,) float64: lengths of the task gradients."""
        return self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def cross_gram(self) -> Tensor:
        """(k, k) float64: entry ij is the inner product of g_i on one half of the batch and g_j on the other."""
        contract.check_declared(self._balancer, "cross_gram", "second_batch")
        contract.check_space(self._balancer, "cross_gram", "parameters")
        return self._gradients("cross_gram").cross_gram()

    @property
    def jacobian(self) -> Tensor:
        """(k, P): the gradients over the shared parameters, over all processes, in the space `parameters`."""
        contract.check_space(self._balancer, "jacobian", "parameters")
        return self._gradients("jacobian").jacobian()

    @property
    def local_gradients(self) -> list[Row]:
        """d loss_k / d features on this process's samples: one row per task, one tensor per level (None: not used)."""
        return self._gradients("local_gradients").local_gradients()

    @property
    def local_features(self) -> Features:
        """The shared features of this process's samples, one tensor per level."""
        return self._gradients("local_features").local_features()

    @property
    def losses_after(self) -> Tensor:
        """(k,) the losses of the same batch once the model has moved: in `after_model`, for `second_forward`."""
        contract.check_declared(self._balancer, "losses_after", "second_forward")
        return contract.known(self.found.get("losses_after"), "losses_after", "`after_model`")

    @property
    def indicators(self) -> Tensor:
        """(k,) how well each task does on the batch, in [0, 1], for `indicators`."""
        contract.check_declared(self._balancer, "indicators", "indicators")
        return contract.known(self.found.get("indicators"), "indicators", "`objective`")

    @property
    def scale(self) -> Tensor:
        """The loss scale of mixed precision: what the gradients of the balancer's parameters are too large by."""
        return self.seed * self._accumulation

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        """Adds to the gradient of a parameter of the balancer's, on the same scale as the backward pass does."""
        # The engine divides all of them by the scale at the end, those that autograd made included.
        gradient = gradient.to(parameter.dtype) * self.seed.to(parameter.dtype)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def add_change(self, state: Tensor, change: Tensor) -> None:
        """Adds to what a kept state moves by after the step: the mean over its micro-batches."""
        self.add_gradient(state, change)

    def keep(self, state: Kept, values: Tensor) -> None:
        """Offers a kept state this micro-batch's values for the present tasks; NaN for what it says nothing of.

        Raises `ValueError` for values that are not (k,) or (k, k), as the state has one axis or two.
        """
        expected = (len(self.tasks),) * state.value.dim()
        if values.shape != expected:
            raise ValueError(
                f"{type(self._balancer).__name__} keeps values of the shape {tuple(values.shape)}, where the state "
                f"needs {expected}: one entry per axis for each of {', '.join(self.tasks)}."
            )
        self._window[state].append((self.tasks, values))

    def note(self, key: Hashable, value: Any) -> None:
        """Leaves a value for the end of the optimizer step; `noted` gives those of all its micro-batches."""
        self._window[key].append(value)

    def noted(self, key: Hashable) -> list[Any]:
        """What the micro-batches of this optimizer step have noted so far, in order. A skipped step leaves nothing."""
        return self._window[key]

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over processes of something `local_`."""
        return sum_over_ranks(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of something `local_` of all processes, in order of rank; equally many on each."""
        return join_over_ranks(tensor)

    def _gradients(self, name: str) -> TaskGradients:
        return contract.known(self.gradients, name, "`combine`")
