"""Activation checkpointing gives the same numbers with less memory."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mtlkit import BALANCERS, EncoderInfo
from mtlkit.config.schema import LoraConfig
from mtlkit.engine.checkpointing import checkpoint_activations
from mtlkit.engine.freeze import freeze
from mtlkit.engine.lora import add_lora
from mtlkit.engine.model import MultiTaskModel, build_encoder

OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}
PAIRS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]


def block(inputs, outputs):
    """A block with all that a second computation could change: statistics, their count, and random numbers."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.Tanh(), nn.Dropout(0.2)
    )


@pytest.fixture(scope="module")
def make_encoder(toys):
    class Blocks(toys.ToyEncoder):
        """A toy encoder that computes its blocks again."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = block(3, 4), block(4, 6)
            self.info = EncoderInfo(channels=(4, 6), strides=(2, 4))
            self.again = False

        @property
        def last_layer(self) -> nn.Module:
            return self.second[0]

        def set_checkpointing(self) -> None:
            self.again = True

        def forward(self, image):
            levels = []
            for part in (self.first, self.second):
                image = checkpoint(part, image, use_reentrant=False) if self.again else part(image)
                levels.append(image)
            return levels

    return Blocks


def state(engine):
    parts = (engine.network, engine.balancer)
    return {f"{i}.{name}": value.clone() for i, part in enumerate(parts) for name, value in part.state_dict().items()}


@pytest.mark.parametrize(("method", "space"), PAIRS)
def test_every_method_has_the_same_numbers_with_and_without(toys, make_encoder, method, space):
    options = OPTIONS.get(method, {}) | ({"space": space} if len(BALANCERS.get(method).spaces) > 1 else {})
    found = []
    for change in (lambda model: None, checkpoint_activations):
        engine = toys.make_engine(method, options=options, encoder=make_encoder, shard=change, accumulation=2)
        for number in range(4):
            engine.train_step(toys.make_batch(number))
        found.append(state(engine))
    plain, again = found
    assert int(plain["0.encoder.first.1.num_batches_tracked"]) >= 4
    assert plain.keys() == again.keys()
    assert [name for name in plain if not torch.equal(plain[name].nan_to_num(7), again[name].nan_to_num(7))] == []


def bytes_kept(call):
    """Returns the result of a call, and how many bytes autograd keeps for the backward pass."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return result, sum(kept)


CHANGES = {
    "whole": lambda model: None,
    "a stage frozen": lambda model: freeze(model, 1),
    "lora": lambda model: add_lora(model, LoraConfig(rank=2, targets=("qkv", "fc1"), dropout=0.5)),
}


# How much of the memory is left: a stem, the ends of blocks, and for frozen parts what there was.
@pytest.mark.parametrize(
    ("name", "change", "left"),
    [
        ("test_resnet", "whole", 0.75),
        ("test_vit", "whole", 0.3),
        ("test_efficientnet", "whole", 0.5),
        ("test_resnet", "a stage frozen", 1.0),
        ("test_vit", "lora", 0.5),
    ],
)
def test_encoders_of_timm_keep_fewer_bytes_and_have_the_same_numbers(name, change, left):
    if change == "lora":
        pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = MultiTaskModel(build_encoder(name, image_size=(64, 64)), {})
    CHANGES[change](plain)
    again = copy.deepcopy(plain)
    checkpoint_activations(again)
    image, kept, results = torch.rand(2, 3, 64, 64), [], []
    for model in (plain, again):
        torch.manual_seed(1)
        features, count = bytes_kept(lambda model=model: model.train().encoder(image))
        kept.append(count)
        (features[-1].square().sum() + features[0].sum()).backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([*features, *gradients, *model.buffers(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert kept[1] <= left * kept[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet", "LeNet cannot compute its activations again"),
        ("segnet_vgg16", "SegNetVGG16Encoder cannot compute its activations again"),
        ("hrnet_w18_small", "timm's 'hrnet_w18_small' cannot compute its activations again"),
    ],
)
def test_encoders_that_cannot_are_named(name, message):
    model = MultiTaskModel(build_encoder(name, image_size=(64, 64)), {})
    with pytest.raises(ValueError, match=rf"model\.checkpointing: {message}.* to false|checkpointing=false"):
        checkpoint_activations(model)
