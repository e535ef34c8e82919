"""Makes an encoder from every timm architecture that can return features.

timm takes seconds to import. So a function that needs it imports it, and a list of encoders or a check of a
configuration does not need it.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtlkit.network import ENCODERS, Encoder, EncoderInfo, Features
from mtlkit.networks.timm_layers import layer_numbers
from mtlkit.networks.weights import load_pretrained, refused_as
from mtlkit.registry import suggest

POOLS = ("avg", "flatten")


@ENCODERS.register("timm")
class TimmEncoder(Encoder):
    """A timm model without its head (`features_only`), CNN or ViT, on images normalised as in its pretraining.

    Args:
        architecture: timm's name. `timm.list_models()` lists all names. A tag may follow (`resnet18.a1_in1k`).
        pretrained: true downloads timm's weights (or takes them from its cache). A file name loads this .safetensors or
            .pth file with timm's key names. false starts from random weights.
        levels: the levels to share, by timm's index, -1 for the deepest. Without it, a pyramid shares all of its levels
            and a ViT shares four blocks spread evenly over its depth. Layers after the deepest shared level are
            removed.
        output_stride: the largest allowed stride of the deepest level (8 or 16, by dilation).
        image_size: (width, height) of the images. Architectures with position embeddings or windows are built for this
            size and take no other. The others take any size at which every level has at least one pixel.
        pool: makes the deepest level a vector, stride 0: `avg` takes its mean over positions (B, C), `flatten` takes
            all its values (B, C * H * W) and works only for `image_size`. Without `levels`, only this vector is shared.
        normalise: false uses images as they are, as some published protocols do.
        in_channels: the channels of the images. For others than 3, timm adapts pretrained weights: it sums the first
            layer's weights of the three colours for 1 channel, and repeats them, scaled, for more. The mean and
            deviation of the normalisation are averaged for 1 channel and repeated for more in the same way.

    The input is an image (B, in_channels, H, W) in [0, 1]. The output is a list of maps (B, channels[i],
    about H / strides[i], W / strides[i]).
    Raises `LookupError` for an unknown architecture, `FileNotFoundError` for a missing file, and `ValueError` for
    anything else that does not fit, such as a damaged file or a file of another architecture.

    >>> encoder = TimmEncoder("test_resnet", levels=[1, -1])
    >>> encoder.info
    EncoderInfo(channels=(32, 96), strides=(4, 32))
    >>> [tuple(level.shape) for level in encoder(torch.rand(2, 3, 48, 64))]
    [(2, 32, 12, 16), (2, 96, 2, 2)]
    >>> TimmEncoder("resnet18", image_size=(64, 64), pool="flatten").info  # 512 * 2 * 2
    EncoderInfo(channels=(2048,), strides=(0,))
    >>> TimmEncoder("test_vit", image_size=(64, 40))
    Traceback (most recent call last):
    ValueError: 'test_vit' cannot take images of 64x40 (width x height): both must be multiples of 16, such as 64x48.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: str,
        pretrained: bool | str | Path = False,
        levels: Sequence[int] | None = None,
        output_stride: int | None = None,
        image_size: tuple[int, int] | None = None,
        pool: Literal["avg", "flatten"] | None = None,
        normalise: bool = True,
        in_channels: int = 3,
    ) -> None:
        import timm
        from timm.models.efficientnet import EfficientNetFeatures
        from timm.models.mobilenetv3 import MobileNetV3Features

        super().__init__()
        if not timm.is_model(architecture):
            raise LookupError(_unknown(architecture))
        if pool not in (None, *POOLS):
            raise ValueError(f"The encoder {architecture!r} has no pool {pool!r}. {suggest(str(pool), POOLS)}")
        self.architecture, self.pool = architecture, pool
        options: dict[str, Any] = {"in_chans": in_channels, "features_only": True}
        with torch.device("meta"):  # computes shapes only
            probe = refused_as(f"timm has no features of {architecture!r}", timm.create_model, architecture, **options)
        options["out_indices"] = _chosen(architecture, probe, [-1] if pool and levels is None else levels)
        if output_stride is not None:
            options["output_stride"] = output_stride
        config = probe.pretrained_cfg
        self.fixed_size = bool(config.get("fixed_input_size"))
        own = (config["input_size"][2], config["input_size"][1])
        self.own_size = f"{own[0]}x{own[1]}"
        width, height = image_size or own
        self.image_size = (width, height)
        if self.fixed_size:  # timm's convention: such architectures have the option img_size
            self._check_patches(width, height, probe.feature_info.reduction()[0])
            options["img_size"] = (height, width)
        self.net = load_pretrained(architecture, pretrained, options)
        if isinstance(self.net, EfficientNetFeatures | MobileNetV3Features):  # these keep all their blocks
            deepest = self.net.feature_info.get_dicts()[-1]["stage"]
            self.net.blocks = self.net.blocks[:deepest]
        strides = self.net.feature_info.reduction()
        self._stride = strides[-1]
        if output_stride is not None and self._stride > output_stride:
            raise ValueError(f"{architecture!r} cannot be dilated to output_stride {output_stride}: leave it out.")
        self._channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        for name, plain in (("mean", (0.0, 0.0, 0.0)), ("std", (1.0, 1.0, 1.0))):
            values = config[name] if normalise else plain
            self.register_buffer(name, _for_channels(values, in_channels), persistent=False)
        self._last_layer, widths = self._prepare(width, height)
        self.info = EncoderInfo(widths, (*strides[:-1], 0) if pool else tuple(strides))

    @property
    def last_layer(self) -> nn.Module:
        """The last layer with weights (matrix or kernel), in order of execution, that the deepest level depends on."""
        return self.net.get_submodule(self._last_layer)

    def forward(self, image: Tensor) -> Features:
        features: Features = self.net((image - self.mean) / self.std)
        if self._channels_last:
            features = [level.permute(0, 3, 1, 2).contiguous() for level in features]
        if self.pool is not None:
            *finer, deepest = features
            features = [*finer, deepest.flatten(1) if self.pool == "flatten" else deepest.mean(dim=(2, 3))]
        return features

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        own = {name: name.removeprefix("net.") for name, _ in self.named_parameters()}
        number = layer_numbers(self.architecture, list(own.values()), coarse)
        return lambda name: number[own[name]]

    def set_checkpointing(self) -> None:
        from timm.layers import set_reentrant_ckpt

        set_reentrant_ckpt(False)  # the other kind cannot give single gradients, which some balancers ask for
        net = self.net if hasattr(self.net, "set_grad_checkpointing") else self.net.model  # ViT: timm wraps it
        try:
            net.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            what = f"timm's {self.architecture!r} cannot compute its activations again ({error})"
            raise ValueError(f"model.checkpointing: {what}. Set it to false, or take another encoder.") from error

    def check_size(self, width: int, height: int) -> None:
        if (width, height) == self.image_size:
            return
        if self.fixed_size or self.pool == "flatten":
            own = "x".join(map(str, self.image_size))
            raise ValueError(
                f"The encoder {self.architecture!r} was built for images of {own} (width x height), got "
                f"{width}x{height}: resize the images, or build it with image_size=({width}, {height})."
            )
        self._try(width, height)

    def portable_weights(self) -> tuple[dict[str, Tensor], str]:
        """Returns the weights under timm's names: those of `timm.create_model(architecture)`, without its head."""
        import timm

        options: dict[str, Any] = {"img_size": self.image_size[::-1]} if self.fixed_size else {}
        with torch.device("meta"):
            whole = timm.create_model(self.architecture, **options).state_dict()
        # `features_only` wraps the whole model (model.blocks.0), or splits its stages (stages_0 for stages.0).
        timms = {f"model.{name}": name for name in whole} | {name.replace(".", "_", 1): name for name in whole}
        timms |= {name: name for name in whole}
        named = {timms.get(name, name): value for name, value in self.net.state_dict().items()}
        if wrong := [n for n, value in named.items() if n not in whole or whole[n].shape != value.shape]:
            raise ValueError(f"timm's {self.architecture!r} has no weights of this shape under the name {wrong[0]}.")
        return named, f"the names are timm's, of {self.architecture!r}"

    def _check_patches(self, width: int, height: int, patch: int) -> None:
        if width < patch or height < patch or width % patch or height % patch:
            near = "x".join(str(max(patch, -(-side // patch) * patch)) for side in (width, height))
            raise ValueError(
                f"{self.architecture!r} cannot take images of {width}x{height} (width x height): "
                f"both must be multiples of {patch}, such as {near}."
            )

    def _try(self, width: int, height: int) -> Features:
        """Returns the features of one black image, in eval mode. Raises `ValueError` if the model rejects the size."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return refused_as(
                f"{self.architecture!r} cannot take images of {width}x{height} (width x height); multiples of "
                f"{self._stride} that are not too small do as a rule, its own {self.own_size} does",
                self,
                self.mean.new_zeros(1, len(self.mean), height, width),
            )
        finally:
            for module, mode in modes:
                module.training = mode

    @torch.enable_grad()
    def _prepare(self, width: int, height: int) -> tuple[str, tuple[int, ...]]:
        """Freezes layers that no shared level uses. Returns the last layer's name and the widths. One forward pass."""
        ran: list[str] = []
        handles = [
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, module in self.net.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim > 1
        ]
        features = self._try(width, height)
        for handle in handles:
            handle.remove()
        names, parameters = zip(*self.net.named_parameters(), strict=True)
        deepest = torch.autograd.grad(features[-1].sum(), parameters, allow_unused=True, retain_graph=True)
        anywhere = torch.autograd.grad(
            torch.stack([level.sum() for level in features]).sum(), parameters, allow_unused=True
        )
        for parameter, grad in zip(parameters, anywhere, strict=True):
            if grad is None:  # rare: side branches that timm cannot remove; DDP would wait for their gradients
                parameter.requires_grad_(False)
        used = {name for name, grad in zip(names, deepest, strict=True) if grad is not None}
        last = [name for name in ran if f"{name}.weight" in used][-1]
        return last, tuple(level.shape[1] for level in features)


def _for_channels(values: Sequence[float], channels: int) -> Tensor:
    """Returns the mean or deviation (channels, 1, 1) from that of red, green and blue, as timm adapts its weights."""
    colours = torch.tensor(values)
    spread = colours.mean(0, keepdim=True) if channels == 1 else colours.repeat(-(-channels // 3))[:channels]
    return spread.view(-1, 1, 1)


def _unknown(name: str) -> str:
    import timm

    close = difflib.get_close_matches(name, [*ENCODERS.names(), *timm.list_models()], n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return (
        f"No encoder and no timm architecture is called {name!r}. {hint}"
        f"Known: {', '.join(ENCODERS.names())} and all that timm.list_models() names."
    )


def _chosen(architecture: str, probe: Any, levels: Sequence[int] | None) -> list[int]:
    """Returns timm's indices of the shared levels, finest first."""
    count = len(probe.feature_info.info)
    if levels is None:
        if count > 4 and len({level["reduction"] for level in probe.feature_info.info}) == 1:
            return [count * part // 4 - 1 for part in (1, 2, 3, 4)]  # as in DPT (arXiv 2103.13413)
        return list(probe.feature_info.out_indices)
    wrong = [level for level in levels if not -count <= level < count]
    if wrong or not levels:
        raise ValueError(
            f"{architecture!r} has the levels 0 to {count - 1} (or -{count} to -1), got levels={list(levels)}."
        )
    return sorted({level % count for level in levels})
