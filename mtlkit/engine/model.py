"""The model: one shared encoder, one decoder per task."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mtlkit.engine.parts import part
from mtlkit.engine.shared import call_with_late, check_late, shared_parameters
from mtlkit.network import ENCODERS, Decoder, Encoder, EncoderInfo, Features
from mtlkit.registry import options_of, suggest

BATCH_NORM_MODES = ("local", "sync", "frozen")


class MultiTaskModel(nn.Module):
    """A shared encoder and a decoder for every task.

    `encoder` and `decoders` (a `ModuleDict` by task name) are its only children. The balancer stands between them only
    through the `share` of `forward`. A plain call runs nothing of it.

    >>> from mtlkit.network import DECODERS
    >>> encoder = build_encoder("test_resnet", image_size=(64, 48), pretrained=False)
    >>> model = MultiTaskModel(encoder, {"depth": DECODERS.build("conv", encoder.info, 1, width=16)}).eval()
    >>> tuple(model(torch.rand(2, 3, 48, 64))["depth"].shape)
    (2, 1, 48, 64)
    """

    def __init__(self, encoder: Encoder, decoders: Mapping[str, Decoder]) -> None:
        super().__init__()
        for name in decoders:  # torch's own error would not say that a task must be renamed
            if hasattr(nn.ModuleDict, name):
                raise ValueError(f"A task cannot be called {name!r}: torch's ModuleDict needs that name. Rename it.")
        check_late(encoder, decoders)
        self.encoder = encoder
        self.decoders = nn.ModuleDict(decoders)
        self.frozen_batch_norm = False  #: set by `set_batch_norm`
        self.channels_last = False  #: set by `mtlkit.engine.faster`
        self.compiled = False  #: set by `mtlkit.engine.faster`
        self.frozen: tuple[nn.Module, ...] = ()  #: modules that stay in eval mode, set by `mtlkit.engine.freeze`

    @property
    def encoder_info(self) -> EncoderInfo:
        """The encoder's `info` with the number of parameters that the tasks share up to the features."""
        return replace(self.encoder.info, parameters=sum(p.numel() for p in shared_parameters(self.encoder)))

    def forward(
        self,
        image: Tensor,
        share: Callable[[Features], Mapping[str, Features]] | None = None,
        sizes: Mapping[str, tuple[int, int] | None] | None = None,
        late: Callable[[str], Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Returns the outputs of all tasks for the image (B, C, H, W) in [0, 1].

        `share` gives every task its own features; without it, all tasks get the encoder's. It does not see the guides:
        they go to the decoders that are guided. `late` is called after it and gives every task its own parameters of
        the encoder's late module. Without it, or where it gives none, all tasks get the module's. A dense output is
        resized (bilinear) to the task's entry in `sizes`, (height, width), or without one to the size of the image. An
        entry None leaves it as the decoder gives it.
        """
        # Encoder, balancer and decoders run in one forward call of one module. DDP, FSDP and DeepSpeed prepare the sums
        # of gradients there; a decoder that is called outside would keep its gradients on its own process without a
        # word.
        with part("encoder"):
            laid = image.contiguous(memory_format=torch.channels_last) if self.channels_last else image
            features = self.encoder(laid)
        levels = len(features) - self.encoder.info.guides
        # Detached: a gradient through a guide would reach the encoder without passing the balancer.
        features, guides = features[:levels], [guide.detach() for guide in features[levels:]]
        shared = {} if share is None else share(features)
        outputs = {}
        # Every decoder runs, also for a task without labels: otherwise processes would have different graphs.
        for name, decoder in self.decoders.items():
            given = features if share is None else shared[name]
            arguments: tuple[Any, ...] = (given, guides) if decoder.guided else (given,)
            with part(f"head/{name}"):
                if decoder.late:
                    own = {} if late is None else late(name)
                    assert isinstance(self.encoder.late, nn.Module)
                    output = call_with_late(decoder, arguments, self.encoder.late, own)
                else:
                    output = decoder(*arguments)
                if decoder.dense:
                    size = (sizes or {}).get(name, image.shape[-2:])
                    if size is not None and output.shape[-2:] != tuple(size):
                        output = F.interpolate(output, size=size, mode="bilinear", align_corners=False)
            outputs[name] = output
        return outputs

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Sets the mode as usual, but what is frozen stays in eval mode, whoever calls `train`."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        if self.frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restores buffers such as batch-norm statistics at the end of the block."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def set_batch_norm(model: MultiTaskModel, mode: str) -> None:
    """Sets how all BatchNorm layers of the model, also of the decoders, take their statistics in training.

    `local`: from the process's part of the batch. `sync`: from the whole batch over all processes (CUDA only).
    `frozen`: always the running ones, which never change; scale and shift stay trainable. Raises `ValueError`
    for an unknown mode and for `sync` on a machine without CUDA.
    """
    if mode not in BATCH_NORM_MODES:
        raise ValueError(f"No batch_norm mode is called {mode!r}. {suggest(mode, BATCH_NORM_MODES)}")
    if mode == "sync":
        if not torch.cuda.is_available():
            raise ValueError(
                "batch_norm: sync needs CUDA, and torch finds no CUDA device. Take batch_norm: local or frozen, "
                "or an encoder without BatchNorm such as convnext_tiny."
            )
        convert_sync_batchnorm(model)  # timm's: torch's own would drop the activation inside timm's BatchNormAct2d
    model.frozen_batch_norm = mode == "frozen"
    model.train(model.training)  # applies the mode now, as nobody has to call `train` before the first step


def build_encoder(
    name: str,
    *,
    image_size: tuple[int, int],
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    **options: Any,
) -> Encoder:
    """Builds the encoder of that name, or the timm architecture, for images of `image_size` (width, height).

    `pretrained` is true, false or a weight file. Encoders that have the options `pretrained`, `image_size` and
    `in_channels` (of the images) get them. Raises `LookupError` for an unknown name and `ValueError` for an unknown
    option, an image size that the encoder cannot take, and for `pretrained` or for `in_channels` other than 3 where the
    encoder has no such option.

    >>> build_encoder("lenet", image_size=(28, 28)).info
    EncoderInfo(channels=(25,), strides=(0,))
    >>> build_encoder("lenett", image_size=(28, 28))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    LookupError: No encoder and no timm architecture is called 'lenett'. Did you mean 'lenet' or ...
    """
    if name not in ENCODERS.names():  # our own names come first, so that a new timm version cannot change them
        name, options = "timm", {"architecture": name, **options}
    known = options_of(ENCODERS.get(name))
    if "image_size" in known:
        options["image_size"] = image_size
    if "in_channels" in known:
        options["in_channels"] = in_channels
    elif in_channels != 3:
        able = [other for other in ENCODERS.names() if "in_channels" in options_of(ENCODERS.get(other))]
        raise ValueError(
            f"The encoder {name!r} takes images of 3 channels, and those of the data set have {in_channels}. Encoders "
            f"that take any number: {', '.join(able)} (with timm, every model that timm.list_models() names)."
        )
    if "pretrained" in known:
        options["pretrained"] = pretrained
    elif pretrained:
        raise ValueError(
            f"The encoder {name!r} takes no pretrained weights: set pretrained to false, not {pretrained}."
        )
    encoder = ENCODERS.build(name, **options)
    encoder.check_size(*image_size)  # now, and not as a shape error deep in a layer in the first step
    return encoder
