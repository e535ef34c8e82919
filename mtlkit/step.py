"""What a balancer sees of a step: losses, task gradients and their Gram matrix. The engine computes them."""

from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from mtlkit import contract
from mtlkit.gradients import Row
from mtlkit.host import Seeds, ToHost
from mtlkit.network import Features
from mtlkit.sample_group import SampleGroup
from mtlkit.state import Kept
from mtlkit.task_gradients import TaskGradients


class Window:
    """What the micro-batches of one optimizer step keep for its end.

    Attributes:
        notes: the values that the balancer noted, under their keys.
        seeds: the factors with which the backward passes started, in order.
        tasks: the tasks that had a label in any of the micro-batches.
    """

    def __init__(self) -> None:
        self.notes: defaultdict[Hashable, list[Any]] = defaultdict(list)
        self.seeds: list[Seeds] = []
        self.tasks: set[str] = set()


class Step:
    """Holds the values of one micro-batch. They are equal on all processes unless the name starts with `local_`.

    Values per task or per pair of tasks are on the host (the CPU), whatever the training device is: they are small, and
    a GPU would have to be waited for at each decision that depends on one. Gradients and features are on the training
    device. A value of the host meets them as `value.to(gradient)`, or as a Python number.

    Attributes:
        number: the number of optimizer steps before this one.
        rate: the balancer's learning rate in this step.
        tasks: the names of the tasks with at least one valid label on any process. The entries of all values below are
            in this order.
        losses: (k,) means over all valid elements of all processes. `objective` can differentiate them.
        raw_losses: name -> the loss as a number, before it is divided by the first losses.
        coefficients: (k,) derivatives of the objective by the losses; known after the backward pass has begun.
        weights: (k,) factors of the task gradients in the encoder's gradient (None for elementwise methods).
        decoder_weights: (k,) factors of the decoders' gradients, if these are weighted; `combine` may set it (None:
            `weights`).
        alike: whether all processes have equally many rows (samples and positions) of features, so that they can
            `gather` them.
        finite: whether the task gradients are finite; if not, `combine` was not called.
        extras: other scalars for the log, by name. A balancer may add some.
        window: what all micro-batches of this optimizer step keep.

    A balancer reads more values from the properties below. Each exists only if the balancer declares that it needs it,
    and only at a certain time. Otherwise, reading it raises a `ValueError` that says what to write.
    """

    def __init__(
        self,
        balancer: contract.Declares,
        *,
        number: int = 0,
        epoch: int | None = 0,
        rate: float = 0.0,
        window: Window | None = None,
        samples: SampleGroup | None = None,
    ) -> None:
        self.number = number
        self.rate = rate
        self.tasks: tuple[str, ...] = ()
        self.losses = torch.empty(0)
        self.raw_losses: dict[str, float] = {}
        self.coefficients: Tensor | None = None
        self.weights: Tensor | None = None
        self.decoder_weights: Tensor | None = None
        self.alike = True
        self.finite = True
        self.extras: dict[str, Tensor] = {}
        # The engine sets these as soon as they are known.
        self.gradients: TaskGradients | None = None
        self.seeds = Seeds(torch.ones(()), torch.ones(()))
        self.window = Window() if window is None else window
        self.samples = samples or SampleGroup()  # the processes over which samples differ
        # By name: `losses_after` and `indicators` for the properties below; for the log `gram`, if it is known, and
        # `products`, the inner products of the balancer's own gradient with those of the tasks and with itself.
        self.found: dict[str, Tensor] = {}
        self._balancer = balancer
        self._epoch = epoch

    # The values below are properties and not attributes, because they cost collectives or backward passes. Each is
    # computed when it is first read. The declaration in `needs` is checked first: a method that works by luck, because
    # the log happened to ask for the Gram matrix in this step, would fail in the next one.

    @property
    def epoch(self) -> int:
        """The number of epochs before this one."""
        if self._epoch is None:
            raise ValueError(
                f"{type(self._balancer).__name__} reads the number of the epoch, which this training loop did not "
                f"tell. Pass steps_per_epoch=N to mtlkit.Balanced, where N counts optimizer steps."
            )
        return self._epoch

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
        contract.check_declared(self._balancer, "jacobian", "jacobian")
        return self._gradients("jacobian").jacobian()

    @property
    def local_gradients(self) -> list[Row]:
        """d loss_k / d features on this process's samples: one row per task, one tensor per level (None: not used)."""
        return self._gradients("local_gradients").local_gradients()

    @property
    def local_features(self) -> Features:
        """The shared features of this process's samples, one tensor per level."""
        return self._gradients("local_features").local_features()

    def reaches(self, level: int) -> bool:
        """Returns whether any present task uses this level of the features, and the encoder learns from it."""
        return self._gradients("reaches").reaches(level)

    @property
    def losses_after(self) -> Tensor:
        """(k,) the losses of the same batch after the model has moved: in `after_model`, for `second_forward`."""
        contract.check_declared(self._balancer, "losses_after", "second_forward")
        return contract.known(self.found.get("losses_after"), "losses_after", "`after_model`")

    @property
    def indicators(self) -> Tensor:
        """(k,) how well each task does on the batch, in [0, 1], for `indicators`."""
        contract.check_declared(self._balancer, "indicators", "indicators")
        return contract.known(self.found.get("indicators"), "indicators", "`objective`")

    @property
    def seed(self) -> Tensor:
        """The factor with which the backward pass started, on the training device."""
        return self.seeds.device

    def scale(self, place: torch.device) -> Tensor:
        """Returns the factor by which gradients of the balancer's parameters there are larger than their mean.

        The mean is over the micro-batches. The factor is the loss scale of mixed precision, times the number of
        micro-batches where the caller did not divide by it.
        """
        return torch.stack([seeds.at(place) for seeds in self.window.seeds or [self.seeds]]).sum()

    def on_host(self, value: Tensor) -> Tensor:
        """Returns a copy on the host of a value that the device computed, with its graph: one wait for the device.

        An objective is a sum of terms on the host. One that depends on gradients or features is computed on the device.
        """
        copy: Tensor = ToHost.apply(lambda: self.seeds, value)
        return copy

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        """Adds to the gradient of one of the balancer's parameters, on the scale of the backward pass."""
        # The engine divides all gradients by the scale at the end, also those that autograd computed. So this one must
        # have the scale, too, or it would become too small by it.
        gradient = gradient.to(parameter) * self.seeds.at(parameter.device).to(parameter.dtype)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def add_change(self, state: Tensor, change: Tensor) -> None:
        """Adds to the change of a kept state. After the step, the state moves by the mean over the micro-batches."""
        # A change takes the way of a gradient, so that processes, micro-batches and skipped steps are treated alike.
        self.add_gradient(state, change)

    def keep(self, state: Kept, values: Tensor) -> None:
        """Offers this micro-batch's values for the present tasks to a kept state; NaN where there is no value.

        Raises `ValueError` unless the values are (k,) for a state with one axis, or (k, k) for one with two.
        """
        # Checked here, in the author's own call. `settle` would only fail at the end of the step, far from the cause.
        expected = (len(self.tasks),) * state.value.dim()
        if values.shape != expected:
            raise ValueError(
                f"{type(self._balancer).__name__} keeps values of the shape {tuple(values.shape)}, where the state "
                f"needs {expected}: one entry per axis for each of {', '.join(self.tasks)}."
            )
        # With the names: another micro-batch of this step may have other tasks.
        self.window.notes[state].append((self.tasks, values))

    def note(self, key: Hashable, value: Any) -> None:
        """Keeps a value for the end of the optimizer step. `noted` returns those of all its micro-batches."""
        self.window.notes[key].append(value)

    def noted(self, key: Hashable) -> list[Any]:
        """Returns what this step's micro-batches have noted so far, in order. A skipped step keeps nothing."""
        return self.window.notes[key]

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """Returns the sum over processes of a `local_` value."""
        return self.samples.sum(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the rows of a `local_` value of all processes, in order of rank. All must have equally many rows."""
        return self.samples.join(tensor)

    def _gradients(self, name: str) -> TaskGradients:
        return contract.known(self.gradients, name, "`combine`")
