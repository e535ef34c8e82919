"""Small trainable adapters in a frozen encoder (LoRA, arXiv 2106.09685): `model.lora`.

A layer with the weight W computes with W + (alpha / rank) B A. Only A and B learn, and the tasks share them. `peft`
puts them in. It takes seconds to import, and only these runs need it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtlkit.config.schema import LoraConfig
from mtlkit.engine.freeze import keep_still
from mtlkit.engine.model import MultiTaskModel
from mtlkit.registry import suggest

BASE, DOWN, UP = "base_layer", "lora_A.default", "lora_B.default"  #: how peft names the parts of a layer


def add_lora(model: MultiTaskModel, config: LoraConfig) -> None:
    """Puts adapters into the encoder's layers with the names `config.targets`, and freezes all else of the encoder.

    The adapters start as B = 0, so the features are those of the encoder without them. The random numbers of whatever
    is made later do not change.

    Raises:
        ValueError: a target matches no linear layer or convolution, or peft is not installed.
    """
    layers = _chosen(model.encoder, config)
    try:
        from peft import LoraConfig as Settings
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"model.lora needs peft. Call: pip install 'mtlkit[lora]' ({error})") from error
    settings = Settings(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,
        lora_dropout=config.dropout,
        target_modules=layers,
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(settings, model.encoder)  # it also freezes the rest
    keep_still(model)


def lora_in_words(model: MultiTaskModel, config: LoraConfig | None) -> list[str]:
    """Returns a sentence about the adapters. Without them there is none."""
    if config is None:
        return []
    layers = [name.removesuffix(f".{BASE}") for name, _ in model.encoder.named_modules() if name.endswith(BASE)]
    learn = sum(p.numel() for p in model.encoder.parameters() if p.requires_grad)
    found = (f"{sum(_matches(name, target) for name in layers)} called {target}" for target in config.targets)
    return [f"LoRA of rank {config.rank} in {len(layers)} layers ({', '.join(found)}): {learn:,} parameters learn."]


@torch.no_grad()
def merge_lora(encoder: nn.Module) -> None:
    """Replaces each layer with an adapter by one plain layer, with the weight W + (alpha / rank) B A and its own name.

    An encoder without adapters stays as it is. The outputs are the same up to rounding.
    """
    for name, layer in list(encoder.named_modules()):
        if isinstance(getattr(layer, BASE, None), nn.Module):
            layer.merge()
            encoder.set_submodule(name, layer.get_base_layer())


def merged(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Does the same with saved tensors; `scale` is alpha / rank."""
    found = {}
    for name, tensor in tensors.items():
        root, inside, last = name.partition(f".{BASE}.")
        if f".{DOWN}." in name or f".{UP}." in name:
            continue
        if inside and last == "weight":
            down, up = tensors[f"{root}.{DOWN}.weight"], tensors[f"{root}.{UP}.weight"]
            tensor = tensor + scale * (up.flatten(1) @ down.flatten(1)).view_as(tensor)
        found[f"{root}.{last}" if inside else name] = tensor
    return found


def with_base_names(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns plain tensors under the names that they have in a model with adapters, whose tensors are `own`."""
    renamed = {name.replace(f".{BASE}.", "."): name for name in own}
    return {renamed.get(name, name): tensor for name, tensor in tensors.items()}


def _chosen(encoder: nn.Module, config: LoraConfig) -> list[str]:
    """Returns the names of the layers that get adapters."""
    layers = [name for name, part in encoder.named_modules() if _takes_an_adapter(part)]
    for target in config.targets:
        if not any(_matches(name, target) for name in layers):
            known = {name.rpartition(".")[2] for name in layers if not name.rpartition(".")[2].isdigit()}
            raise ValueError(
                f"model.lora.targets: no linear layer or convolution of this encoder is called {target!r}. "
                f"{suggest(target, known)} A longer end of a name, such as attn.proj, works, too."
            )
    return [name for name in layers if any(_matches(name, target) for target in config.targets)]


def _takes_an_adapter(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1)


def _matches(name: str, target: str) -> bool:
    """Returns whether a layer is called like the target, as peft decides it: by the end of its name."""
    return name == target or name.endswith(f".{target}")
