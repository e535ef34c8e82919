"""The networks of published protocols: their sizes and layers, pooling and its places, and training."""

from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from tolerances import SINGLE_SUM
from torch import nn
from torch.nn import functional as F

from mtlkit import BALANCERS, DECODERS, TASKS
from mtlkit.config.composition import compose
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.network import EncoderInfo
from mtlkit.networks import CelebACNN, MTANDecoder, SegNetDecoder, SegNetEncoder, SegNetVGG16Encoder, TimmEncoder
from mtlkit.networks.segnet import unpool
from mtlkit.run.build import make_accelerator

SLIM = [4, 6, 8, 10, 12]  # five different widths, so that a stage in the wrong place fails
VGG = EncoderInfo((512,), (32,), guides=5)
OUTPUTS = {"segmentation": 13, "depth": 1, "normals": 3}  # output channels of NYUv2's tasks in the published network


def count(module):
    return sum(p.numel() for p in module.parameters())


def without_gradient(*modules):
    return [name for module in modules for name, p in module.named_parameters() if p.grad is None]


@pytest.fixture(scope="module")
def vgg():
    """An encoder that is built once, because timm first makes the classifier's 120 million numbers."""
    torch.manual_seed(0)
    return SegNetVGG16Encoder()


# -- timm's networks, as the protocols' files set them ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "channels", "stride"),
    [
        ("nyuv2_libmtl", (128, 96), 2048, 8),  # a third of the protocol's image size
        ("chestxray14", (224, 224), 1024, 0),
        ("celeba_rotograd", (64, 64), 2048, 0),
    ],
)
def test_the_encoder_of_a_protocol(name, size, channels, stride):
    config = compose(name).model
    encoder = build_encoder(config.encoder, image_size=size, **config.options).eval()
    assert encoder.info == EncoderInfo((channels,), (stride,))
    width, height = size
    with torch.no_grad():
        (features,) = encoder(torch.rand(1, 3, height, width))
    assert features.shape == ((1, channels, height // stride, width // stride) if stride else (1, channels))


def test_rotograd_turns_three_quarters_of_the_2048_features_of_celeba():
    options = compose("celeba_rotograd").balancer.options
    balancer = BALANCERS.build("rotograd", tasks=("a", "b"), **options)
    balancer.setup({}, EncoderInfo((2048,), (0,)))
    z = torch.randn(3, 2048)
    (turned,) = balancer.adapter("a", [z])
    assert torch.equal(turned[:, 1536:], z[:, 1536:])
    torch.testing.assert_close(turned[:, :1536].norm(dim=1), z[:, :1536].norm(dim=1), rtol=SINGLE_SUM, atol=0)


# -- MTAN's SegNet ------------------------------------------------------------------------------------------------


def test_segnet_with_a_head_has_the_published_number_of_parameters():
    """lorenmt/mtan divides every model's parameter count by that of its single-task SegNet with 13 classes."""
    with torch.device("meta"):
        encoder = SegNetEncoder()
        head = DECODERS.build("head", encoder.info, 13)
    assert count(encoder) + count(head) == 24_981_069


def test_mtan_has_the_published_number_of_parameters():
    """The number of SegNetMtan in AvivNavon/nash-mtl. The paper's table says 1.77 times a single-task network."""
    config = compose("nyuv2_mtan")
    with torch.device("meta"):
        encoder = build_encoder(config.model.encoder, image_size=(384, 288), **config.model.options)
        decoders = [DECODERS.build(config.task[t].decoder, encoder.info, n) for t, n in OUTPUTS.items()]
        model = MultiTaskModel(encoder, dict(zip(OUTPUTS, decoders, strict=True)))
    assert count(model) == 44_229_073
    assert round(count(model) / 24_981_069, 2) == 1.77
    masks = count(decoders[0].down_masks) + count(decoders[0].up_masks)
    # The numbers of the docstring. A balancer sees the first: SegNet's single-task number without the head.
    assert (model.encoder_info.parameters, count(encoder.late), masks) == (24_943_296, 10_220_160, 2_984_576)


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
def test_segnet_shares_what_its_info_says(size):
    for levels in ("last", "all"):
        encoder = build_encoder("segnet", image_size=size, levels=levels, channels=SLIM)
        features = encoder(torch.rand(2, 3, size[1], size[0]))
        assert [f.shape[1] for f in features] == list(encoder.info.channels)
        assert [tuple(f.shape[2:]) for f in features] == [(size[1] // s, size[0] // s) for s in encoder.info.strides]
    assert encoder.info.strides == (1,) * 4 + (2,) * 4 + (4,) * 4 + (8,) * 4 + (16,) * 4
    assert encoder.info.channels == (4, 4, 4, 4, 6, 6, 6, 4, 8, 8, 8, 6, 10, 10, 10, 8, 12, 12, 12, 10)


def test_segnets_levels_are_the_maps_of_its_layers_in_order():
    encoder = SegNetEncoder("all", channels=SLIM)
    seen = {}
    for way in ("down", "up"):
        for number, stage in enumerate(getattr(encoder, way)):
            stage.register_forward_hook(lambda _, given, got, key=(way, number): seen.update({key: (given[0], *got)}))
    features = encoder(torch.rand(2, 3, 32, 32))
    for stage in range(5):
        first, last, unpooled, up = features[4 * stage : 4 * stage + 4]
        assert first is seen["down", stage][1]
        assert last is seen["down", stage][2]
        assert unpooled is seen["up", stage][0]
        assert up is seen["up", stage][2]
        pooled, places = F.max_pool2d(last, 2, return_indices=True)
        below = features[4 * stage + 7] if stage < 4 else pooled
        assert torch.equal(unpooled, F.max_unpool2d(below, places, 2))


def test_segnets_last_map_is_that_of_its_last_layer():
    image = torch.rand(2, 3, 32, 32)
    whole, last = SegNetEncoder("all", channels=SLIM).eval(), SegNetEncoder("last", channels=SLIM).eval()
    last.load_state_dict({name: value for name, value in whole.state_dict().items() if not name.startswith("late.")})
    (before,) = last(image)
    assert torch.equal(whole(image)[3], before)
    assert last.last_layer is last.up[0].rest[0][0]
    with torch.no_grad():
        whole.last_layer.weight.mul_(2)
    assert not torch.equal(whole(image)[3], before)


def test_segnet_takes_the_image_as_it_is_and_starts_from_xaviers_weights():
    encoder = SegNetEncoder()
    first = encoder.down[0].first[0]
    seen = []
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.rand(1, 3, 32, 32)
    encoder(image)
    torch.testing.assert_close(seen[0], image, rtol=0, atol=0)
    weight = encoder.down[4].first[0].weight
    # For 2.4 and 1.2 million draws, 2 % is far more than the random error, and less than the effect of another formula.
    assert weight.std().item() == pytest.approx((2 / (9 * (512 + 512))) ** 0.5, rel=0.02)
    assert all(not m.bias.any() for m in encoder.modules() if isinstance(m, nn.Conv2d))
    head = DECODERS.build("head", EncoderInfo((256,), (1,)), 13)
    # As above.
    assert head.convolutions[0].weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)


def test_mtan_is_its_formula():
    """Every stage equals the paper's equations. The test uses training mode, where BatchNorm keeps values large."""
    torch.manual_seed(0)
    encoder = SegNetEncoder("all", channels=SLIM)
    decoder, late = MTANDecoder(encoder.info, 2), encoder.late
    maps = encoder(torch.rand(2, 3, 64, 64))
    passed = None
    for stage in range(5):
        first, last = maps[4 * stage : 4 * stage + 2]
        mask = decoder.down_masks[stage](first if passed is None else torch.cat([first, passed], 1))
        assert 0 < mask.min() < mask.max() < 1
        passed = F.max_pool2d(late.down[stage](mask * last), 2)
    for stage in (4, 3, 2, 1, 0):
        unpooled, up = maps[4 * stage + 2 : 4 * stage + 4]
        size = [2 * side for side in passed.shape[2:]]
        doubled = F.interpolate(passed, size=size, mode="bilinear", align_corners=True)
        passed = decoder.up_masks[stage](torch.cat([unpooled, late.up[stage](doubled)], 1)) * up
    three, one = decoder.head
    expected = F.conv2d(F.conv2d(passed, three.weight, three.bias, padding=1), one.weight, one.bias)
    output = decoder(maps, late)
    assert output.shape == (2, 2, 64, 64)
    assert expected.std() > 0.1
    torch.testing.assert_close(output, expected)


def test_segnets_and_mtans_options_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"no levels 'al'. Did you mean 'all'"):
        SegNetEncoder("al")
    for channels in ([64, 128], [1, 2, 3, 4, 0]):
        with pytest.raises(ValueError, match="needs five positive channel numbers, got"):
            SegNetEncoder(channels=channels)
    for size, near in (((384, 284), "384x288"), ((16, 33), "32x64")):
        with pytest.raises(ValueError, match=rf"'segnet' cannot take images of .*multiples of 32, such as {near}\."):
            build_encoder("segnet", image_size=size, channels=SLIM)
    with pytest.raises(ValueError, match="takes no pretrained weights"):
        build_encoder("segnet", image_size=(32, 32), pretrained=True)
    last, full = SegNetEncoder(channels=SLIM).info, SegNetEncoder("all", channels=SLIM).info
    swapped = EncoderInfo((*full.channels[:18], 10, 12), full.strides)
    shorter = EncoderInfo(full.channels[:16], full.strides[:16])
    for info in (last, swapped, shorter, EncoderInfo((25,), (0,))):
        with pytest.raises(ValueError, match=r"'mtan' needs the 20 maps .* levels: all, but the encoder gives a "):
            MTANDecoder(info, 3)


def test_head_is_linear_and_refuses_more_than_one_map():
    decoder = DECODERS.build("head", EncoderInfo((8,), (4,)), 3)
    x = torch.randn(2, 8, 6, 5)
    output = decoder([x])
    assert output.shape == (2, 3, 6, 5)
    torch.testing.assert_close(decoder([3 * x]) - decoder([0 * x]), 3 * (output - decoder([0 * x])))  # linear
    with pytest.raises(ValueError, match=r"'head' needs a single map, but the encoder gives .* \(model.levels\)"):
        DECODERS.build("head", EncoderInfo((8, 8), (4, 8)), 3)
    with pytest.raises(ValueError, match=r"'head' needs maps, but the encoder gives a vector"):
        DECODERS.build("head", EncoderInfo((8,), (0,)), 3)


# -- CosReg's SegNet ----------------------------------------------------------------------------------------------


def test_unpool_is_torchs_and_allowed_where_torchs_is_not():
    x = torch.rand(1, 2, 4, 6)
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    torch.testing.assert_close(unpool(pooled, places), F.max_unpool2d(pooled, places, 2), rtol=0, atol=0)
    pooled = pooled.double().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            F.max_unpool2d(pooled, places, 2)
        assert torch.autograd.gradcheck(lambda p: unpool(p, places), pooled)
        assert torch.autograd.gradgradcheck(lambda p: unpool(p, places).square(), pooled)
    finally:
        torch.use_deterministic_algorithms(False)


def test_vgg_is_the_published_one_and_its_guides_are_the_places_of_its_maxima(vgg):
    widths = [3, 64, 64, 128, 128, 256, 256, 256] + [512] * 6
    assert count(vgg) == sum(9 * a * b + b + 2 * b for a, b in pairwise(widths))
    assert (vgg.info.channels, vgg.info.strides, vgg.info.guides) == ((512,), (32,), 5)
    assert vgg.last_layer is vgg.net["features_40"]
    before = []
    handles = [
        layer.register_forward_pre_hook(lambda _, given: before.append(given[0]))
        for layer in vgg.net.values()
        if isinstance(layer, nn.MaxPool2d)
    ]
    image = torch.rand(2, 3, 32, 64)
    level, *guides = vgg.eval()(image)
    for handle in handles:
        handle.remove()
    assert level.shape == (2, 512, 1, 2)
    assert len(guides) == len(before) == 5
    for stage, (x, places) in enumerate(zip(before, guides, strict=True)):
        pooled, expected = F.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(places, expected)
        assert tuple(places.shape[2:]) == (16 >> stage, 32 >> stage)
    torch.testing.assert_close(level, pooled, rtol=0, atol=0)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (image - mean) / std
    for layer in vgg.net.values():
        x = F.max_pool2d(x, 2) if isinstance(layer, nn.MaxPool2d) else layer(x)
    torch.testing.assert_close(level, x)


def test_vgg_loads_a_file_with_timms_names(vgg, tmp_path):
    state = {name.removeprefix("net.").replace("features_", "features."): t for name, t in vgg.state_dict().items()}
    save_file(state, tmp_path / "vgg.safetensors")
    other = build_encoder("segnet_vgg16", image_size=(64, 32), pretrained=str(tmp_path / "vgg.safetensors"))
    assert all(torch.equal(t, vgg.state_dict()[name]) for name, t in other.state_dict().items())
    with pytest.raises(ValueError, match=r"'segnet_vgg16' cannot take images of 320x240 .* such as 320x256\."):
        other.check_size(320, 240)
    other.check_size(320, 320)


@pytest.mark.parametrize(("out_stride", "stages"), [(1, 5), (2, 4), (4, 3)])
def test_segnets_decoder_mirrors_the_encoder(out_stride, stages):
    with torch.device("meta"):
        decoder = SegNetDecoder(VGG, 7, out_stride=out_stride)
    found = [[(m.in_channels, m.out_channels) for m in s.modules() if isinstance(m, nn.Conv2d)] for s in decoder.stages]
    whole = [
        [(512, 512), (512, 512), (512, 512)],
        [(512, 512), (512, 512), (512, 256)],
        [(256, 256), (256, 256), (256, 128)],
        [(128, 128), (128, 64)],
        [(64, 64), (64, 7)],
    ]
    expected = whole[:stages]
    expected[-1][-1] = (expected[-1][-1][0], 7)
    assert found == expected
    norms = [m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == sum(map(len, expected)) - 1  # the last convolution gives the outputs
    assert isinstance(decoder.stages[-1][-1], nn.Conv2d)


@pytest.mark.parametrize("out_stride", [1, 4])
def test_segnets_decoder_unpools_to_the_places_of_the_maxima(vgg, out_stride):
    decoder = SegNetDecoder(vgg.info, 3, out_stride=out_stride)
    level, *guides = vgg.train()(torch.rand(2, 3, 64, 32))
    output = decoder([level], guides)
    assert output.shape == (2, 3, 64 // out_stride, 32 // out_stride)
    output.square().sum().backward()
    assert without_gradient(vgg, decoder) == []
    vgg.zero_grad()
    decoder.eval()
    x = level
    for stage, number in zip(decoder.stages, (4, 3, 2, 1, 0), strict=False):
        x = stage(F.max_unpool2d(x, guides[number], 2))
    torch.testing.assert_close(decoder([level], guides), x)


def test_segnets_decoder_refuses_encoders_without_its_guides():
    for info in (EncoderInfo((512,), (32,)), EncoderInfo((64, 512), (4, 32), guides=5)):
        with pytest.raises(ValueError, match=r"needs the last map of the encoder 'segnet_vgg16' .* gives .* guides\."):
            SegNetDecoder(info, 3)
    with pytest.raises(ValueError, match="out_stride of 1, 2 or 4, got 8"):
        SegNetDecoder(VGG, 3, out_stride=8)
    encoder = TimmEncoder("test_resnet", levels=[-1], image_size=(64, 64))
    task = TASKS.build("depth", "depth", decoder="segnet")
    with pytest.raises(ValueError, match=r"'segnet' needs .* a map of stride 32 \(96 channels\) and 0 guides"):
        task.decoder(encoder.info)


# -- DeepLabV3 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_deeplabv3_is_the_published_head(stride, rates):
    decoder = DECODERS.build("deeplabv3", EncoderInfo((8, 2048), (4, stride)), 13)
    dilations = [m.dilation[0] for m in decoder.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
    assert dilations == rates
    branches = 2 * 2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 2 * 256
    assert count(decoder) == branches + 5 * 256 * 256 + 512 + 9 * 256 * 256 + 512 + 256 * 13 + 13


def test_deeplabv3_on_a_dilated_resnet():
    encoder = build_encoder("resnet18", image_size=(64, 48), output_stride=8, levels=[-1])
    decoder = DECODERS.build("deeplabv3", encoder.info, 3)
    output = decoder(encoder(torch.rand(2, 3, 48, 64)))
    assert output.shape == (2, 3, 6, 8)
    output.square().sum().backward()
    assert without_gradient(encoder, decoder) == []
    with pytest.raises(ValueError, match=r"'deeplabv3' needs a deepest map of stride 8, 16 or 32, .* 'conv' suits it"):
        DECODERS.build("deeplabv3", EncoderInfo((8,), (4,)), 3)
    with pytest.raises(ValueError, match="'deeplabv3' needs maps"):
        DECODERS.build("deeplabv3", EncoderInfo((8,), (0,)), 3)


# -- vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
def test_timm_pools_the_deepest_level(name):
    encoder = TimmEncoder(name, image_size=(96, 64), levels=[-1]).eval()
    image = torch.rand(2, 3, 64, 96)
    (level,) = encoder(image)
    _, channels, height, width = level.shape
    expected = {"avg": level.mean((2, 3)), "flatten": level.flatten(1)}
    assert encoder.info.channels == (channels,)
    for pool, vector in expected.items():
        pooled = build_encoder(name, image_size=(96, 64), pool=pool)
        assert pooled.info == EncoderInfo((channels * (1 if pool == "avg" else height * width),), (0,))
        pooled.eval().load_state_dict(encoder.state_dict())
        (found,) = pooled(image)
        torch.testing.assert_close(found, vector)
        names = [[n for n, m in e.named_modules() if m is e.last_layer] for e in (encoder, pooled)]
        assert names[0] == names[1]
        found.square().sum().backward()
        assert without_gradient(pooled) == []


def test_rotograds_resnet18_shares_2048_values():
    encoder = TimmEncoder("resnet18", image_size=(64, 64), pool="flatten")
    assert encoder.info == EncoderInfo((2048,), (0,))
    with pytest.raises(ValueError, match=r"built for images of 64x64 .* got 64x96: .*image_size=\(64, 96\)"):
        encoder.check_size(64, 96)
    averaged = TimmEncoder("resnet18", image_size=(64, 64), pool="avg")
    averaged.check_size(64, 96)
    with pytest.raises(ValueError, match="multiples of 32 that are not too small"):
        averaged.check_size(64, 0)
    assert averaged(torch.rand(2, 3, 96, 64))[0].shape == (2, 512)


def test_pool_leaves_the_other_levels_as_they_are():
    encoder = TimmEncoder("test_resnet", image_size=(64, 64), levels=[1, -1], pool="avg")
    assert encoder.info == EncoderInfo((32, 96), (4, 0))
    assert [tuple(level.shape) for level in encoder(torch.rand(2, 3, 64, 64))] == [(2, 32, 16, 16), (2, 96)]
    with pytest.raises(ValueError, match=r"no pool 'average'. Did you mean 'avg'"):
        TimmEncoder("test_resnet", pool="average")
    with pytest.raises(ValueError, match=r"'conv' needs maps, .* 'linear' suits it"):
        DECODERS.build("conv", encoder.info, 3)


def test_celeba_cnn():
    encoder = build_encoder("celeba_cnn", image_size=(64, 64))
    assert encoder.info == EncoderInfo((512,), (0,))
    layers = [m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [m.weight.shape[0] for m in layers] == [64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert all(m.bias is None for m in layers)
    assert encoder.last_layer is layers[-1]
    seen, first = [], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    encoder.convolutions[0].register_forward_hook(lambda module, given, got: first.append(got))
    image = torch.rand(2, 3, 64, 64)
    (vector,) = encoder(image)
    assert torch.equal(seen[0], image)
    assert torch.equal(seen[1], F.max_pool2d(first[0], 2))
    assert [x.shape[2] for x in seen[:7]] == [64, 32, 32, 16, 16, 8, 8]
    assert [tuple(x.shape) for x in seen[7:]] == [(2, 512)] * 2
    assert vector.min() == 0 < vector.max()
    vector.square().sum().backward()
    assert without_gradient(encoder) == []
    assert CelebACNN().eval()(torch.rand(1, 3, 8, 9))[0].shape == (1, 512)
    with pytest.raises(ValueError, match="images of 8x8 and more, got 64x7"):
        build_encoder("celeba_cnn", image_size=(64, 7))


def test_celeba_cnn_with_the_statistics_of_the_batch():
    """The encoder acts like a network that is always in training mode. Nothing reads its running statistics."""
    torch.manual_seed(0)
    plain = CelebACNN().train()
    torch.manual_seed(0)
    encoder = CelebACNN(batch_statistics=True).eval()
    images = torch.rand(6, 3, 16, 16)
    for start in (0, 3):  # the same again after another batch
        assert torch.equal(encoder(images[start : start + 3])[0], plain(images[start : start + 3])[0])
    assert [*encoder.buffers()] == []
    assert [name for name, _ in encoder.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not torch.equal(plain.eval()(images)[0], encoder(images)[0])
    with pytest.raises(ValueError, match=r"batch_statistics=true .* here is only one image"):
        encoder(images[:1])


# -- training -----------------------------------------------------------------------------------------------------


def train(encoder, decoders, balancer="uniform", size=(32, 32), target=(32, 32), steps=2, **options):
    """Trains two steps with the engine. Returns the names of the matrices and kernels that did not move."""
    torch.manual_seed(0)
    kinds = {"segmentation": ("segmentation", ("a", "b", "c")), "depth": ("depth", ()), "marks": ("multilabel", ("p",))}
    tasks = {name: TASKS.build(kinds[name][0], name, kinds[name][1], decoder=given) for name, given in decoders.items()}
    model = MultiTaskModel(encoder, {name: task.decoder(encoder.info) for name, task in tasks.items()})
    method = BALANCERS.build(balancer, tasks=tuple(tasks), **options)
    method.setup(tasks, model.encoder_info)
    config = TrainerConfig(max_steps=steps, lr=1e-3)
    engine = Engine(
        model, list(tasks.values()), method, config, accelerator=make_accelerator(config), steps_per_epoch=2
    )
    targets = {
        "segmentation": torch.randint(-1, 3, (2, *target)),
        "depth": torch.rand(2, 1, *target),
        "marks": torch.tensor([[0.0], [1.0]]),
    }
    batch = {"image": torch.rand(2, 3, *size), "targets": {name: targets[name] for name in tasks}}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    results = [engine.train_step(batch) for _ in range(steps)]
    still = [n for n, p in model.named_parameters() if p.ndim > 1 and torch.equal(p, before[n])]
    assert len(results) == steps
    assert all(torch.isfinite(p).all() for p in model.parameters())
    return still


@pytest.mark.parametrize("balancer", ["uniform", "nash", "rotograd"])
@pytest.mark.parametrize(("levels", "decoder"), [("last", "head"), ("all", "mtan")])
def test_segnet_trains(balancer, levels, decoder):
    encoder = SegNetEncoder(levels, channels=SLIM)
    assert train(encoder, {"segmentation": decoder, "depth": decoder}, balancer) == []


def test_cosreg_trains_segnet_on_quarter_size_targets(vgg):
    """The double backward pass goes through unpooling at the encoder's last layer. One task uses no guides."""
    decoder = {"name": "segnet", "out_stride": 4}
    decoders = {"segmentation": decoder, "depth": decoder, "marks": "linear"}
    assert train(vgg, decoders, "cosreg", size=(64, 32), target=(16, 8)) == []


def test_cagrad_over_the_parameters_trains_deeplabv3():
    encoder = build_encoder("test_resnet", image_size=(64, 64), output_stride=16, levels=[-1])
    decoders = {"segmentation": "deeplabv3", "depth": "deeplabv3"}
    assert train(encoder, decoders, "cagrad", size=(64, 64), space="parameters") == []


@pytest.mark.parametrize("build", [CelebACNN, lambda: TimmEncoder("test_resnet", image_size=(32, 32), pool="flatten")])
def test_vectors_train(build):
    assert train(build(), {"marks": "linear"}) == []
