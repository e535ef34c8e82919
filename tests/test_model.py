"""MultiTaskModel, BatchNorm modes and building encoders by name."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mtlkit.engine.model import MultiTaskModel, build_encoder, set_batch_norm
from mtlkit.network import DECODERS, ENCODERS, Decoder, Encoder, EncoderInfo


def build(encoder="test_resnet", decoders=(("seg", "conv"), ("depth", "unet"), ("label", "linear"))):
    encoder = build_encoder(encoder, image_size=(64, 48), pretrained=False)
    return MultiTaskModel(encoder, {name: DECODERS.build(kind, encoder.info, 3) for name, kind in decoders})


@pytest.fixture
def registered():
    """Returns a function that registers an encoder."""
    return lambda cls: ENCODERS.register(cls.__name__.lower())(cls)


class Tiny(Encoder):
    """A foreign encoder without the options image_size and pretrained."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=4)
        self.info = EncoderInfo((width,), (4,))

    @property
    def last_layer(self):
        return self.conv

    def forward(self, image):
        return [self.conv(image)]


class Guiding(Tiny):
    """Has two guides after the level: one of integers, and one through which a gradient could pass."""

    def __init__(self):
        super().__init__()
        self.info = EncoderInfo((4,), (4,), guides=2)

    def forward(self, image):
        level = self.conv(image)
        return [level, level.argmax(1), 3 * level]


class Guided(Decoder):
    dense = True
    guided = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features, guides):
        places, values = guides
        assert places.dtype == torch.int64
        return self.scale * (sum(features) + values)


@pytest.mark.parametrize("size", [(48, 64), (72, 96), (50, 75)])
def test_outputs_have_the_targets_sizes(size):
    model = build()
    image = torch.rand(2, 3, *size)
    outputs = model(image)
    assert {name: tuple(o.shape) for name, o in outputs.items()} == {
        "seg": (2, 3, *size),
        "depth": (2, 3, *size),
        "label": (2, 3),
    }
    outputs = model(image, sizes={"depth": (37, 111), "label": (5, 5)})
    assert outputs["seg"].shape[2:] == size
    assert outputs["depth"].shape[2:] == (37, 111)
    assert outputs["label"].shape == (2, 3)


def test_resizing_is_bilinear_between_pixel_centres():
    model = build(decoders=[("seg", "conv")]).eval()
    image = torch.rand(1, 3, 48, 64)
    small = model.decoders["seg"](model.encoder(image))
    expected = nn.functional.interpolate(small, size=(48, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(image)["seg"], expected)


def test_every_parameter_takes_part():
    model = build()
    sum(output.square().sum() for output in model(torch.rand(2, 3, 48, 64)).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_share_gives_every_task_its_own_features():
    model = build(decoders=[("a", "linear"), ("b", "linear")]).eval()
    image = torch.rand(2, 3, 48, 64)
    plain = model(image)
    outputs = model(image, share=lambda levels: {"a": levels, "b": [2 * level for level in levels]})
    torch.testing.assert_close(outputs["a"], plain["a"])
    bias = model.decoders["b"].linear.bias
    torch.testing.assert_close(outputs["b"], 2 * (plain["b"] - bias) + bias)


def test_guides_pass_by_the_balancer_and_carry_no_gradient():
    encoder = Guiding()
    model = MultiTaskModel(encoder, {"guided": Guided(), "plain": DECODERS.build("linear", encoder.info, 3)})
    assert model.encoder_info == EncoderInfo((4,), (4,), parameters=4 * 3 * 9 + 4, guides=2)
    image = torch.rand(2, 3, 64, 64)
    seen = []

    def share(levels):
        seen.append(levels)
        return {"guided": [2 * level for level in levels], "plain": levels}

    sizes = {"guided": (16, 16)}
    outputs, plain = model(image, share, sizes), model(image, sizes=sizes)
    ((level,),) = seen  # the balancer sees one level
    torch.testing.assert_close(outputs["guided"], 5 * level)
    torch.testing.assert_close(plain["guided"], 4 * level)
    torch.testing.assert_close(outputs["plain"], plain["plain"])
    (gradient,) = torch.autograd.grad(plain["guided"].sum(), encoder.conv.bias)
    torch.testing.assert_close(gradient, torch.full((4,), 2.0 * 16 * 16))  # of the level, not of the guide


def test_without_share_nothing_but_encoder_and_decoders_runs():
    """A plain forward pass in eval mode has only the operations of encoder, decoders and resizing."""

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls.append(str(func))
            return func(*args, **(kwargs or {}))

    model = build(decoders=[("seg", "conv"), ("label", "linear")]).eval()
    image = torch.rand(1, 3, 48, 64)
    with torch.no_grad(), Count() as whole, FlopCounterMode(display=False) as flops:
        model(image)
    with torch.no_grad(), Count() as parts, FlopCounterMode(display=False) as part_flops:
        features = model.encoder(image)
        seg = model.decoders["seg"](features)
        nn.functional.interpolate(seg, size=(48, 64), mode="bilinear", align_corners=False)
        model.decoders["label"](features)
    assert whole.calls == parts.calls
    assert flops.get_total_flops() == part_flops.get_total_flops() > 0


def test_task_names_that_torch_needs_are_refused():
    with pytest.raises(ValueError, match="cannot be called 'values'"):
        build(decoders=[("values", "linear")])


def statistics(model):
    return {n: b.clone() for n, b in model.named_buffers() if "running" in n or "batches" in n}


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale():
    model = build()
    set_batch_norm(model, "frozen")
    before, scale = statistics(model), model.encoder.net.bn1.weight.clone()
    assert before
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for wrapped in (model, nn.Sequential(model)):  # a wrapper such as DDP also passes train() on
        wrapped.eval()
        wrapped.train()
        assert model.decoders["depth"].training
        assert model.encoder.net.conv1.training
        sum(output.square().mean() for output in model(torch.rand(2, 3, 48, 64)).values()).backward()
        optimizer.step()
    after = statistics(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(scale, model.encoder.net.bn1.weight)


def test_frozen_batch_norm_gives_in_training_what_it_gives_in_eval():
    model = build(decoders=[("seg", "conv")])
    image = torch.rand(2, 3, 48, 64)
    assert not torch.allclose(model.train()(image)["seg"], model.eval()(image)["seg"])
    set_batch_norm(model, "frozen")
    torch.testing.assert_close(model.train()(image)["seg"], model.eval()(image)["seg"])


def test_local_batch_norm_updates_its_statistics():
    model = build()
    set_batch_norm(model, "local")
    before = statistics(model)
    model(torch.rand(2, 3, 48, 64))
    after = statistics(model)
    assert not any(torch.equal(before[name], after[name]) for name in before if "batches" in name)


def test_local_thaws_again():
    model = build()
    set_batch_norm(model, "frozen")
    set_batch_norm(model, "local")
    assert all(module.training for module in model.modules())


def test_sync_batch_norm_is_refused_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"sync needs CUDA.*local or frozen"):
        set_batch_norm(build(), "sync")


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet"]
)  # the second has its activations inside BatchNorm
def test_sync_batch_norm_changes_the_layers_and_not_the_function(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = build(name).eval()
    image = torch.rand(2, 3, 48, 64)
    before, names = model(image), list(model.state_dict())
    set_batch_norm(model, "sync")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert list(model.state_dict()) == names
    for task, output in model(image).items():
        torch.testing.assert_close(output, before[task])


def test_unknown_batch_norm_mode_is_refused():
    with pytest.raises(ValueError, match=r"called 'forzen'. Did you mean 'frozen'"):
        set_batch_norm(build(), "forzen")


def test_encoders_are_built_by_name():
    assert type(build_encoder("lenet", image_size=(28, 28), features=10)).__name__ == "LeNet"
    encoder = build_encoder("test_vit", image_size=(64, 48), levels=[-1])
    assert encoder.image_size == (64, 48)
    assert [tuple(f.shape) for f in encoder(torch.rand(1, 3, 48, 64))] == [(1, 64, 3, 4)]
    same = build_encoder("timm", architecture="test_vit", image_size=(64, 48), levels=[-1])
    assert same.info == encoder.info


def test_encoder_names_and_options_are_refused():
    with pytest.raises(LookupError, match=r"called 'convnext_tinny'. Did you mean .*'convnext_tiny'"):
        build_encoder("convnext_tinny", image_size=(64, 64))
    with pytest.raises(LookupError, match=r"called 'lenett'. Did you mean 'lenet'"):
        build_encoder("lenett", image_size=(64, 64))
    with pytest.raises(ValueError, match=r"no option 'feature'. Did you mean 'features'"):
        build_encoder("lenet", image_size=(28, 28), feature=3)
    with pytest.raises(ValueError, match=r"no option 'levls'. Did you mean 'levels'"):
        build_encoder("resnet18", image_size=(64, 64), levls=[1])
    with pytest.raises(ValueError, match="'lenet' takes no pretrained weights"):
        build_encoder("lenet", image_size=(28, 28), pretrained=True)
    with pytest.raises(ValueError, match="multiples of 16"):
        build_encoder("test_vit", image_size=(64, 40))


def test_a_strangers_encoder_gets_only_the_options_it_has(registered):
    registered(Tiny)
    assert build_encoder("tiny", image_size=(64, 64), pretrained=False, width=8).info.channels == (8,)
    with pytest.raises(ValueError, match="'tiny' takes no pretrained weights"):
        build_encoder("tiny", image_size=(64, 64), pretrained="weights.pth")


def test_a_strangers_encoder_refuses_its_sizes(registered):
    @registered
    class Square(Tiny):
        def check_size(self, width, height):
            if width != height:
                raise ValueError(f"Square images only, got {width}x{height}.")

    build_encoder("square", image_size=(64, 64))
    with pytest.raises(ValueError, match="Square images only, got 64x48"):
        build_encoder("square", image_size=(64, 48))
