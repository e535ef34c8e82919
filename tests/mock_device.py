"""A second device without hardware. It asks of the code what a GPU asks, and counts how often a GPU would have to wait.

`install()` registers the device `mock` through PyTorch's Python backend interface, which is experimental. It replaces
functions of torch and cannot be undone, so it belongs in a process of its own: `device_worker.py` is one.

A tensor on `mock` holds a tensor of the CPU, and every operation runs there. So results equal those of the CPU. As with
CUDA, an error is raised

- where a tensor on `mock` meets one of the CPU. Allowed are a CPU's single number (no dimensions) in an elementwise
  operation, indices on the CPU, and copies;
- where an operation would write into a tensor of the CPU;
- where a tensor on `mock` is drawn by a generator of the CPU, and where NumPy is to read it.

Autocast, safetensors, pickling, `copy.deepcopy` and second derivatives work. Known limits: a tensor is loaded to the
CPU and moved then, one process has the device for itself, and Accelerate has no loss scaler for it.
"""

import collections
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._mode_utils
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_iter, tree_map

DEVICE = "mock"
aten = torch.ops.aten

# `operations`, and the two kinds for which a GPU's queue is emptied: `reads` of values (`item`, `tolist`, copies to
# the CPU), and `sizes`, results whose size depends on values (`nonzero`, an index that is a mask).
COUNTS: collections.Counter[str] = collections.Counter()

READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
SIZES = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
JOINING = {"aten::cat", "aten::stack"}  # not elementwise: CUDA takes no number of the CPU there

# What CUDA computes in half precision under autocast, and what it computes in float32.
HALF = """conv1d conv2d conv3d conv_transpose2d linear matmul mm mv bmm addmm baddbmm scaled_dot_product_attention"""
SINGLE = """acos cosh exp expm1 log log10 log1p log2 pow reciprocal rsqrt softplus layer_norm group_norm norm cumsum
    cumprod sum prod softmax log_softmax cross_entropy_loss nll_loss mse_loss l1_loss smooth_l1_loss huber_loss kl_div
    binary_cross_entropy_with_logits poisson_nll_loss cosine_similarity"""


class MockTensor(Tensor):
    """A tensor on the device; `raw` is that of the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "MockTensor":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(DEVICE, 0),
            requires_grad=False,
        )

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def __repr__(self, **_: Any) -> str:
        return f"{DEVICE}({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, args, kwargs or {})

    def __getitem__(self, index: Any) -> Any:  # C++ would make a tensor on the device of a list
        return super().__getitem__(_without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_without_lists(index), value)

    def tolist(self) -> Any:
        COUNTS["reads"] += 1
        return self.raw.detach().tolist()

    def untyped_storage(self) -> Any:  # safetensors finds parameters that share memory by it
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> "MockTensor":
        if id(self) not in memo:
            memo[id(self)] = copied = MockTensor(self.raw.detach().clone()).requires_grad_(self.requires_grad)
            copied.grad = copy.deepcopy(self.grad, memo)
            copied.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k != "raw"})
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:  # as if it were loaded with `map_location="cpu"`
        COUNTS["reads"] += 1
        return self.raw.detach().requires_grad_(self.requires_grad).__reduce_ex__(protocol)


def _without_lists(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_without_lists(i) if isinstance(i, list) else i for i in index)
    return torch.tensor(index) if isinstance(index, list) else index


def run(op: Any, args: Any, kwargs: Any) -> Any:
    """Runs an operation on the CPU's tensors inside, after the checks."""
    name = op._schema.name
    COUNTS["operations"] += 1
    COUNTS["reads"] += name in READS
    if name == "aten::copy_":
        target, source = args[0], args[1]
        _raw(target).copy_(_raw(source))
        COUNTS["reads"] += not isinstance(target, MockTensor)
        return target
    if name == "aten::_to_copy":
        device = kwargs.get("device")
        out = aten._to_copy.default(_raw(args[0]), **{k: v for k, v in kwargs.items() if k != "device"})
        stays = isinstance(args[0], MockTensor) if device is None else device.type == DEVICE
        COUNTS["reads"] += not stays
        return MockTensor(out) if stays else out
    _check_places(name, args, kwargs)
    COUNTS["sizes"] += name in SIZES or (name in INDEXING and any(_is_mask(i) for i in args[1]))
    if name == "aten::_efficientzerotensor":  # one without memory, which loses its mark inside a wrapper
        op = aten.zeros.default
    out = op(*tree_map(_inside, args), **tree_map(_inside, kwargs))
    if torch.Tag.inplace_view in op.tags:  # squeeze_, t_, ...: the wrapper's shape follows
        with torch.utils._mode_utils.no_dispatch():
            op(*args, **kwargs)
    written = _written(op, args, kwargs)
    if written:
        return written[0] if len(written) == 1 else tuple(written)
    return tree_map(lambda value: MockTensor(value) if isinstance(value, Tensor) else value, out)


def _check_places(name: str, args: Any, kwargs: Any) -> None:
    """Raises `RuntimeError` where a CPU's tensor or generator is used on the device."""
    if name in INDEXING:  # indices may be on the CPU, if the tensor itself is on the device
        values = [args[0], *args[2:3]]
        if not isinstance(args[0], MockTensor):
            raise RuntimeError(f"{name}: a tensor of the CPU was indexed by one on {DEVICE}")
    else:
        values = [args, kwargs]
    for value in tree_iter(values):
        if isinstance(value, torch._C.Generator) and getattr(value, "place", value.device).type != DEVICE:
            raise RuntimeError(f"{name}: a generator on {value.device} cannot draw on {DEVICE}")
        if isinstance(value, Tensor) and not isinstance(value, MockTensor) and (value.dim() > 0 or name in JOINING):
            raise RuntimeError(f"{name}: a tensor of the CPU {tuple(value.shape)} met tensors on {DEVICE}")


def _written(op: Any, args: Any, kwargs: Any) -> list[Any]:
    """Returns the arguments that the operation writes to and returns. Raises `RuntimeError` for one on the CPU."""
    found = []
    for result in op._schema.returns:
        if result.alias_info is None or not result.alias_info.is_write:
            return []
        for i, argument in enumerate(op._schema.arguments):
            if argument.alias_info and argument.alias_info.before_set == result.alias_info.before_set:
                found.append(args[i] if i < len(args) else kwargs[argument.name])
                break
    if any(isinstance(value, Tensor) and not isinstance(value, MockTensor) for value in found):
        raise RuntimeError(f"{op._schema.name}: it would write numbers of {DEVICE} into a tensor of the CPU")
    return found


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, MockTensor) else value


def _inside(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == DEVICE:
        return torch.device("cpu")
    return _raw(value)


class Generator(torch.Generator):
    """A generator of the device, too; its numbers are those of the CPU."""

    place: torch.device

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.place = torch.device(device)
        return made


class _Module:
    """What `torch.mock` must offer."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:  # its numbers are drawn by the CPU's generator
        torch.default_generator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.default_generator.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.default_generator.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: Any = None) -> None: ...


_libraries: list[torch.library.Library] = []  # they end when nobody holds them


def install() -> None:
    """Registers the device, once per process. Accelerate then takes it, as it would take a GPU.

    Raises `RuntimeError` where torch has no such interface, or another one.
    """
    register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if register is None:
        raise RuntimeError(f"torch {torch.__version__} has no interface for a backend in Python")
    register(DEVICE, backend_module=_Module())
    every = torch.library.Library("_", "IMPL")
    every.fallback(lambda op, *args, **kwargs: run(op, args, kwargs), "PrivateUse1")
    _libraries.append(every)
    _install_autocast()
    _replace_constructors()
    if not isinstance(torch.ones(1).to(DEVICE) + 1, MockTensor):
        raise RuntimeError(f"torch {torch.__version__} does not run operations through the backend in Python")

    from accelerate.state import PartialState

    PartialState.default_device = property(  # type: ignore[assignment]
        lambda self: torch.device(DEVICE, 0) if torch.accelerator.is_available() else torch.device("cpu")
    )


def _install_autocast() -> None:
    every = torch.library.Library("_", "IMPL")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    casts = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, half in ((HALF, True), (SINGLE, False)):
        for name in names.split():
            packet = getattr(aten, name)
            for overload in packet.overloads():
                op = getattr(packet, overload)
                if "out" not in overload and "names" not in overload and "dimname" not in overload:
                    casts.impl(f"{name}.{overload}" if overload != "default" else name, _casting(op, half))
    _libraries.extend((every, casts))


def _casting(op: Any, half: bool) -> Any:
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(value: Any) -> Any:
        if isinstance(value, MockTensor) and value.is_floating_point() and value.dtype != torch.float64:
            return value.to(torch.get_autocast_dtype(DEVICE) if half else torch.float32)
        return value

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(below):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return call


def _replace_constructors() -> None:
    """Replaces those functions whose C++ code cannot reach a backend in Python."""
    tensor, load = torch.tensor, torch.nn.Module.load_state_dict

    def moved(make: Any) -> Any:
        def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
            out = make(*args, **kwargs)
            return out if device is None else out.to(device)

        return made

    def new_tensor(self: Tensor, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        kwargs.setdefault("dtype", self.dtype)
        return tensor(*args, **kwargs).to(self.device if device is None else device)

    torch.tensor, torch.as_tensor, torch.eye = moved(torch.tensor), moved(torch.as_tensor), moved(torch.eye)
    torch.Tensor.new_tensor = new_tensor  # type: ignore[method-assign]
    torch.Generator = Generator  # type: ignore[misc]

    # `Module.to` exchanges what is inside a parameter, which stays the same object, as on a GPU. `load_state_dict`
    # would do so, too, and the parameter would lose its hooks: there, it must copy.
    def load_state_dict(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        torch.__future__.set_swap_module_params_on_conversion(False)
        try:
            return load(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(True)

    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]


@contextmanager
def no_device() -> Iterator[None]:
    """Within the block, everybody finds the CPU only: for results to compare with.

    Accelerate keeps one device for all of a process. So engines of one side cannot train on the other.
    """
    from accelerate.state import AcceleratorState

    found = torch.accelerator.is_available, torch.accelerator.current_accelerator
    torch.accelerator.is_available = lambda: False
    torch.accelerator.current_accelerator = lambda check_available=False: None
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        torch.accelerator.is_available, torch.accelerator.current_accelerator = found
        AcceleratorState._reset_state(reset_partial_state=True)
