"""The small networks of the experiments on digits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.network import DECODERS, ENCODERS, EncoderInfo
from mtlkit.networks.lenet import LeNet
from mtlkit.task import TASKS

VECTOR, MAP = EncoderInfo((50,), (0,)), EncoderInfo((20,), (4,))


def without_gradient(*modules):
    return [name for module in modules for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


# LeNet's dropout


def test_lenet_without_dropout_draws_no_random_number_and_gives_what_it_gave():
    torch.manual_seed(3)
    encoder, image = LeNet(), torch.rand(4, 3, 28, 28)
    assert list(encoder.state_dict()) == [f"{n}.{p}" for n in ("conv1", "conv2", "linear") for p in ("weight", "bias")]
    state = torch.get_rng_state()
    features = encoder(image)[0]
    assert torch.equal(torch.get_rng_state(), state)
    x = (image.mean(1, keepdim=True) - 0.1307) / 0.3081
    x = F.max_pool2d(encoder.conv1(x), 2).relu()
    x = F.max_pool2d(encoder.conv2(x), 2).relu()
    assert torch.equal(features, encoder.linear(x.flatten(1)).relu())


def test_lenets_start_is_hes_or_torchs_own():
    torch.manual_seed(3)
    plain = [torch.nn.Conv2d(1, 10, 5), torch.nn.Conv2d(10, 20, 5), torch.nn.Linear(320, 50)]
    torch.manual_seed(3)
    encoder = LeNet([10, 20], 50, start="default")
    for ours, own in zip((encoder.conv1, encoder.conv2, encoder.linear), plain, strict=True):
        assert torch.equal(ours.weight, own.weight)
        assert torch.equal(ours.bias, own.bias)
    he = LeNet([10, 20], 50)
    assert not any(layer.bias.any() for layer in (he.conv1, he.conv2, he.linear))
    # The variance of 16,000 normal numbers is exact to 1.1 %. PyTorch's default start has a sixth of it.
    assert float(he.linear.weight.detach().var(correction=0)) == pytest.approx(2 / 320, rel=0.05)
    assert float(encoder.linear.weight.detach().var(correction=0)) == pytest.approx(2 / 320 / 6, rel=0.05)
    with pytest.raises(ValueError, match=r"'start' of the encoder 'lenet' cannot be 'hee'. Did you mean 'he'"):
        LeNet(start="hee")


def test_lenet_drops_single_outputs_of_the_second_convolution():
    encoder, image, seen = LeNet([10, 20], 50, dropout=0.4), torch.rand(8, 3, 28, 28), []
    encoder.conv2.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    encoder.dropout.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    encoder(image)
    before, after = seen
    assert before.shape == (8, 20, 8, 8)
    zero = after == 0
    assert 0.35 < zero.float().mean() < 0.45
    assert not zero.flatten(2).all(2).any()  # dropout acts on single values, not on whole channels
    torch.testing.assert_close(after[~zero], before[~zero] / 0.6)
    encoder.eval()
    assert torch.equal(encoder(image)[0], encoder(image)[0])


# Convolutions with strides


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 64), (30, 41)])
@pytest.mark.parametrize("with_batch_norm", [False, True])
def test_strided_networks_fit_together_at_any_size(width, height, with_batch_norm):
    encoder = build_encoder("strided", image_size=(width, height), with_batch_norm=with_batch_norm, dropout=0.1)
    decoder = DECODERS.build(
        "strided", encoder.info, 5, image_size=[width, height], with_batch_norm=with_batch_norm, dropout=0.1
    )
    features = encoder(torch.rand(8, 3, height, width))
    assert [level.shape for level in features] == [(8, 20, -(-height // 4), -(-width // 4))]
    output = decoder(features)
    assert output.shape == (8, 5)
    assert not decoder.dense
    output.square().sum().backward()
    assert without_gradient(encoder, decoder) == []


def test_convolutions_have_no_bias_and_black_stays_zero():
    encoder = ENCODERS.build("strided")
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in convolutions] == [(20, 1, 5, 5), (20, 20, 5, 5)]
    assert all(c.bias is None for c in convolutions)
    assert encoder.last_layer is convolutions[1]
    assert encoder(torch.zeros(1, 3, 64, 64))[0].count_nonzero() == 0
    (convolution,) = (m for m in DECODERS.build("strided", MAP, 5).modules() if isinstance(m, nn.Conv2d))
    assert (convolution.weight.shape, convolution.bias) == ((20, 20, 5, 5), None)


def test_strided_networks_are_what_they_say():
    encoder, decoder = ENCODERS.build("strided"), DECODERS.build("strided", MAP, 5)
    image = torch.rand(2, 1, 64, 64)
    weights = [m.weight for module in (encoder, decoder) for m in module.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in decoder.modules() if isinstance(m, nn.Linear)]
    x = image
    for weight in weights:
        x = F.conv2d(x, weight, stride=2, padding=2).relu()
    assert x[0].numel() == linear[0].in_features == 1280
    expected = linear[1](linear[0](x.flatten(1)).relu())
    torch.testing.assert_close(decoder(encoder(image.expand(2, 3, 64, 64))), expected)


def test_options_of_the_strided_networks():
    encoder = ENCODERS.build("strided", width=8, with_batch_norm=True)
    assert encoder.info == EncoderInfo((8,), (4,))
    assert [m.num_features for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)] == [8, 8]
    decoder = DECODERS.build("strided", encoder.info, 3, width=6, hidden=7, with_batch_norm=True)
    assert [m.num_features for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)] == [6]
    assert [m.out_features for m in decoder.modules() if isinstance(m, nn.Linear)] == [7, 3]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ENCODERS.build("strided").modules())


@pytest.mark.parametrize(
    ("registry", "name", "info", "shape"),
    [
        (ENCODERS, "strided", None, (2, 3, 64, 64)),
        (DECODERS, "strided", MAP, (2, 20, 16, 16)),
        (DECODERS, "mlp", VECTOR, (2, 50)),
        (DECODERS, "image", VECTOR, (2, 50)),
    ],
)
def test_dropout_is_at_work_in_training_only(registry, name, info, shape):
    if registry is ENCODERS:
        network, x = registry.build(name, dropout=0.5), torch.rand(shape)
    else:
        network, x = registry.build(name, info, 3, dropout=0.5), [torch.rand(shape)]
    one, two = (next(iter(network(x))) for _ in range(2))
    assert not torch.equal(one, two)
    network.eval()
    one, two = (next(iter(network(x))) for _ in range(2))
    assert torch.equal(one, two)


def test_maps_of_another_size_are_refused():
    decoder = DECODERS.build("strided", MAP, 5, image_size=(64, 48))
    assert decoder([torch.rand(1, 20, 12, 16)]).shape == (1, 5)
    message = (
        r"built for images of 64x48 and so for maps of 16x12 \(width x height\), got maps of 12x16: set its image_"
    )
    with pytest.raises(ValueError, match=message):
        decoder([torch.rand(1, 20, 16, 12)])


# Decoders of a vector


def test_mlp():
    decoder = DECODERS.build("mlp", VECTOR, 10, width=40)
    x = torch.rand(3, 50)
    first, second = (m for m in decoder.modules() if isinstance(m, nn.Linear))
    assert (first.out_features, decoder.dense) == (40, False)
    torch.testing.assert_close(decoder([x]), second(first(x).relu()))


def test_image_lays_out_channels_rows_and_columns():
    decoder = DECODERS.build("image", VECTOR, 2, size=[5, 3], width=8)
    nn.init.zeros_(decoder.layers[-1].weight)
    decoder.layers[-1].bias.data = torch.arange(30.0)
    output = decoder([torch.rand(4, 50)])
    assert decoder.dense
    assert output.shape == (4, 2, 3, 5)
    assert output[3, 1, 2].tolist() == [25, 26, 27, 28, 29]
    assert output[0, 0, 1, 0] == 5


def test_image_is_by_default_that_of_cl_rr():
    decoder = DECODERS.build("image", VECTOR, 1)
    assert [tuple(m.weight.shape) for m in decoder.modules() if isinstance(m, nn.Linear)] == [(256, 50), (784, 256)]


@pytest.mark.parametrize(
    ("decoder", "info", "message"),
    [
        ("mlp", MAP, r"'mlp' needs a vector, .* gives a map of stride 4 \(20 channels\)\. The decoder 'linear' suits"),
        ("image", MAP, "'image' needs a vector, .* The decoder 'conv' suits it"),
        ("strided", VECTOR, r"'strided' needs maps, .* gives a vector \(50 channels\)"),
    ],
)
def test_unsuited_features_are_refused_and_a_suited_decoder_named(decoder, info, message):
    with pytest.raises(ValueError, match=message):
        DECODERS.build(decoder, info, 3)


def test_the_networks_of_cl_rr_in_a_model():
    tasks = {
        "classify": TASKS.build(
            "classification", "classify", tuple("0123456789"), decoder={"name": "mlp", "dropout": 0.2}
        ),
        "reconstruct": TASKS.build("reconstruction", "reconstruct", ("grey",), decoder="image"),
    }
    encoder = build_encoder("lenet", image_size=(28, 28), channels=[10, 20], features=50, dropout=0.2)
    model = MultiTaskModel(encoder, {name: task.decoder(encoder.info) for name, task in tasks.items()})
    outputs = model(torch.rand(2, 3, 28, 28))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "classify": (2, 10),
        "reconstruct": (2, 1, 28, 28),
    }
    sum(output.square().sum() for output in outputs.values()).backward()
    assert [p.grad is None for p in model.parameters()] == [False] * 14
