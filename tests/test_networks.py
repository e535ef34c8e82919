"""Encoders and decoders: resolutions, gradients, weights from files, and error messages."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mtlkit.network import DECODERS, ENCODERS, EncoderInfo
from mtlkit.networks import LeNet, TimmEncoder

LITE0 = Path(__file__).parents[2] / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"

# encoder and (width, height), encoder options, the dense decoders that suit it
SUITED = [
    ("resnet18", (64, 48), {}, ["conv", "unet", "fpn", "deeplabv3plus", "segformer"]),
    ("test_resnet", (75, 50), {}, ["conv", "unet", "fpn", "deeplabv3plus", "segformer"]),
    ("test_resnet", (64, 64), {"output_stride": 16}, ["conv", "unet", "deeplabv3plus", "segformer"]),
    ("test_resnet", (64, 64), {"levels": [-1]}, ["conv", "segformer", "dpt"]),
    ("test_resnet", (64, 64), {"levels": [1, 3]}, ["conv", "unet", "deeplabv3plus", "segformer"]),
    ("test_convnext", (96, 72), {}, ["conv", "unet", "fpn", "deeplabv3plus", "segformer"]),
    ("test_efficientnet", (96, 72), {}, ["conv", "unet", "fpn", "deeplabv3plus", "segformer"]),
    ("test_mambaout", (64, 64), {}, ["conv", "unet", "fpn", "deeplabv3plus", "segformer"]),  # uses NHWC internally
    ("test_vit", (96, 80), {}, ["conv", "segformer", "dpt"]),
    ("test_vit", (48, 64), {"levels": [-1]}, ["conv", "segformer", "dpt"]),
]
PAIRS = [
    pytest.param(name, size, options, decoder, id=f"{name}-{size[0]}x{size[1]}-{list(options.values())}-{decoder}")
    for name, size, options, decoders in SUITED
    for decoder in decoders
]
SLIM = {"conv": {"width": 16}, "fpn": {"width": 64}, "deeplabv3plus": {"width": 16}, "segformer": {"width": 16}}
SLIM |= {"dpt": {"width": 16}, "unet": {}, "linear": {}}


def encode(encoder, size, batch=2):
    return encoder(torch.rand(batch, 3, size[1], size[0]))


def parameters_without_gradient(*modules):
    return [name for m in modules for name, p in m.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(("name", "size", "options", "decoder"), PAIRS)
def test_decoder_gives_a_map_and_a_gradient_to_every_parameter(name, size, options, decoder):
    encoder = TimmEncoder(name, image_size=size, **options)
    network = DECODERS.build(decoder, encoder.info, 3, **SLIM[decoder])
    assert network.dense
    output = network(encode(encoder, size))
    assert output.shape[:2] == (2, 3)
    # The map covers the whole image: its sides have the image's proportion, except for the rounding of the levels.
    stride = size[1] / output.shape[2]
    assert abs(output.shape[3] - size[0] / stride) <= 32 / stride + 1
    output.square().sum().backward()
    assert parameters_without_gradient(encoder, network) == []


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "lenet"])
def test_linear_gives_a_vector(name):
    size = (28, 28) if name == "lenet" else (64, 64)
    encoder = LeNet() if name == "lenet" else TimmEncoder(name, image_size=size)
    decoder = DECODERS.build("linear", encoder.info, 7, dropout=0.1)
    output = decoder(encode(encoder, size))
    assert output.shape == (2, 7)
    assert not decoder.dense
    output.sum().backward()
    assert parameters_without_gradient(encoder, decoder) == []


def test_linear_averages_the_positions_of_the_deepest_level():
    decoder = DECODERS.build("linear", EncoderInfo((2, 3), (2, 4)), 1)
    maps = [torch.rand(2, 2, 8, 8), torch.rand(2, 3, 4, 4)]
    torch.testing.assert_close(decoder(maps), decoder.linear(maps[1].mean((2, 3))))


@pytest.mark.parametrize(
    ("decoder", "channels", "strides", "suited"),
    [
        ("conv", (25,), (0,), "'linear'"),
        ("segformer", (25,), (0,), "'linear'"),
        ("unet", (64, 64), (16, 16), "'dpt'"),
        ("unet", (64, 64), (14, 28), "'conv'"),
        ("fpn", (64,) * 4, (16,) * 4, "'dpt'"),
        ("fpn", (64,) * 4, (4, 8, 16, 16), "'unet'"),
        ("fpn", (64,) * 3, (8, 16, 32), "'unet'"),
        ("deeplabv3plus", (64,) * 2, (8, 16), "'unet'"),
        ("deeplabv3plus", (64,) * 3, (16,) * 3, "'dpt'"),
        ("dpt", (64,) * 4, (4, 8, 16, 32), "'unet'"),
        ("dpt", (64,) * 5, (16,) * 5, "'segformer'"),
    ],
)
def test_unsuited_features_are_refused_and_a_suited_decoder_named(decoder, channels, strides, suited):
    with pytest.raises(ValueError, match=f"{decoder!r} needs .* but the encoder gives .*{suited}"):
        DECODERS.build(decoder, EncoderInfo(channels, strides), 3)


@pytest.mark.parametrize(("decoder", "strides"), [("segformer", (7, 14)), ("dpt", (14, 14)), ("dpt", (8,) * 4)])
def test_uncommon_strides(decoder, strides):
    network = DECODERS.build(decoder, EncoderInfo((8,) * len(strides), strides), 2, width=16)
    assert network([torch.rand(2, 8, 84 // s, 112 // s) for s in strides]).shape[:2] == (2, 2)


def test_dpt_reads_patches_in_place():
    """For patches of 14 and of 16 pixels, maps have the same number of pixels per patch."""
    for stride in (14, 16):
        network = DECODERS.build("dpt", EncoderInfo((8,) * 4, (stride,) * 4), 1, width=16)
        assert network([torch.rand(2, 8, 4, 6)] * 4).shape == (2, 1, 4 * 8, 6 * 8)


def test_options_of_decoders_are_checked():
    info = EncoderInfo((8, 16, 32, 64), (4, 8, 16, 32))
    with pytest.raises(ValueError, match="multiple of 64"):
        DECODERS.build("fpn", info, 3, width=96)
    with pytest.raises(ValueError, match="needs 5 channels"):
        DECODERS.build("unet", info, 3, channels=[32, 16])
    with pytest.raises(ValueError, match=r"no option 'widht'. Did you mean 'width'"):
        DECODERS.build("conv", info, 3, widht=3)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", (75, 50), {}),
        ("resnet18", (64, 64), {"output_stride": 8}),
        ("test_convnext", (64, 96), {}),
        ("test_mambaout", (64, 96), {}),
        ("test_vit", (64, 96), {}),
        ("tf_efficientnet_lite0", (64, 64), {"levels": [-2, 1]}),
    ],
)
def test_info_says_what_comes_out(name, size, options):
    encoder = TimmEncoder(name, image_size=size, **options).eval()
    features = encode(encoder, size, batch=1)
    assert [f.shape[1] for f in features] == list(encoder.info.channels)
    for level, stride in zip(features, encoder.info.strides, strict=True):
        assert all(
            got in (side // stride, -(-side // stride)) for got, side in zip(level.shape[2:], size[::-1], strict=True)
        )
    assert list(encoder.info.strides) == sorted(encoder.info.strides)


@pytest.mark.parametrize(
    ("name", "options", "last"),
    [
        ("resnet18", {}, "layer4.1.conv2"),
        ("resnet18", {"levels": [1, 2]}, "layer2.1.conv2"),
        ("test_convnext", {}, "stages_3.blocks.1.mlp.fc2"),
        ("test_vit", {}, "model.blocks.5.mlp.fc2"),
        ("test_vit", {"levels": [0, 2]}, "model.blocks.2.mlp.fc2"),
        ("test_efficientnet", {"levels": [1]}, "blocks.1.0.conv"),
    ],
)
def test_last_layer(name, options, last):
    encoder = TimmEncoder(name, image_size=(64, 64), **options)
    names = [name for name, module in encoder.net.named_modules() if module is encoder.last_layer]
    assert len(names) == 1
    assert names[0].startswith(last)
    # No layer runs after it, and it changes the deepest level.
    encoder.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for p in encoder.parameters():
            if p.ndim == 1:  # timm scales some residual branches by 0 at the start
                p.fill_(1)
        before = encoder(image)
        encoder.last_layer.weight.mul_(2)
    after = encoder(image)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True] * (len(before) - 1) + [False]


def test_nothing_behind_the_deepest_level_is_kept():
    for name in ("resnet18", "test_vit", "test_efficientnet", "mobilenetv3_small_050", "test_convnext"):
        encoder = TimmEncoder(name, levels=[0, 1], image_size=(64, 64))
        sum(level.sum() for level in encode(encoder, (64, 64))).backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None] == [], name


def test_what_timm_cannot_drop_is_frozen():
    """HRNet computes all resolutions up to its end, whichever levels are shared."""
    encoder = TimmEncoder("hrnet_w18_small", levels=[0], image_size=(64, 64))
    encode(encoder, (64, 64))[0].sum().backward()
    assert parameters_without_gradient(encoder) == []
    assert not all(p.requires_grad for p in encoder.parameters())


def test_building_leaves_no_trace():
    """The pass that finds the last layer changes no statistics and no mode, and leaves no gradient and no hook."""
    encoder = TimmEncoder("test_resnet", image_size=(64, 64))
    encoder.check_size(96, 96)
    assert all(module.training for module in encoder.modules())
    assert all(p.grad is None for p in encoder.parameters())
    assert not any(module._forward_hooks for module in encoder.modules())
    assert all(m.num_batches_tracked == 0 for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))


def test_same_seed_same_weights():
    def build():
        torch.manual_seed(3)
        return TimmEncoder("test_resnet", image_size=(64, 64)).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_normalisation_is_that_of_the_pretrained_weights():
    for name in ("resnet18", "tf_efficientnet_lite0"):
        encoder = TimmEncoder(name, image_size=(64, 64))
        config = timm.get_pretrained_cfg(name)
        assert encoder.mean.flatten().tolist() == pytest.approx(config.mean)
        assert encoder.std.flatten().tolist() == pytest.approx(config.std)
        assert not {"mean", "std"} & set(encoder.state_dict())
    seen = []
    encoder.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.rand(1, 3, 64, 64)
    encoder.eval()(image)
    torch.testing.assert_close(seen[0], (image - 0.5) / 0.5)  # EfficientNet-Lite's mean and deviation are 0.5


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("test_vit", (64, 40), "multiples of 16, such as 64x48"),
        ("test_vit", (8, 8), "such as 16x16"),
        ("test_maxvit", (96, 72), "cannot take images of 96x72.* multiples of 32 .*160x160 does"),
        ("test_convnext", (20, 20), "cannot take images of 20x20.* multiples of 32 .*160x160 does"),
        ("resnet18", (64, 0), "cannot take images of 64x0"),
    ],
)
def test_image_sizes_are_refused_when_building(name, size, said):
    if not timm.is_model(name):
        pytest.skip(f"this release of timm has no {name}")
    with pytest.raises(ValueError, match=said):
        TimmEncoder(name, image_size=size)


def test_image_sizes_are_refused_afterwards():
    vit = TimmEncoder("test_vit", image_size=(64, 48))
    vit.check_size(64, 48)
    with pytest.raises(ValueError, match=r"built for images of 64x48 .* got 48x64: .*image_size=\(48, 64\)"):
        vit.check_size(48, 64)
    convnext = TimmEncoder("test_convnext", image_size=(64, 48))
    convnext.check_size(48, 64)
    with pytest.raises(ValueError, match="cannot take images of 20x20"):
        convnext.check_size(20, 20)


def test_names_and_options_are_refused():
    with pytest.raises(LookupError, match=r"called 'resnet81'. Did you mean 'resnet18'"):
        TimmEncoder("resnet81")
    with pytest.raises(ValueError, match=r"no features of 'resnet18.foo'.*tag"):
        TimmEncoder("resnet18.foo")
    with pytest.raises(ValueError, match=r"levels 0 to 4 \(or -5 to -1\), got levels=\[5\]"):
        TimmEncoder("resnet18", levels=[5])
    with pytest.raises(ValueError, match=r"got levels=\[\]"):
        TimmEncoder("resnet18", levels=[])
    for name in ("test_vit", "dla34"):
        with pytest.raises(ValueError, match=f"cannot build '{name}' with .*output_stride=8"):
            TimmEncoder(name, output_stride=8)
    with pytest.raises(ValueError, match=r"no option 'level'. Did you mean 'levels'"):
        ENCODERS.build("timm", architecture="resnet18", level=[1])


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weight files of whole timm models, with their heads, by architecture."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    for name in ("test_resnet", "test_vit", "test_efficientnet", "resnet18", "resnet34"):
        torch.manual_seed(7)
        model = timm.create_model(name)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_()
        files[name] = folder / f"{name}.safetensors"
        save_file(model.state_dict(), files[name])
    return files


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_file_is_loaded(weights, name, tmp_path):
    """The encoder gives the same features as the whole model before its head; .pth files also load."""
    torch.manual_seed(0)
    encoder = TimmEncoder(name, pretrained=str(weights[name]), image_size=(64, 64)).eval()
    model = timm.create_model(name).eval()
    model.load_state_dict(load_file(weights[name]))
    image = torch.rand(2, 3, 64, 64)
    expected = model.forward_intermediates((image - encoder.mean) / encoder.std, intermediates_only=True)
    for got, want in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(got, want)
    torch.save({"state_dict": load_file(weights[name])}, tmp_path / "weights.pth")
    again = TimmEncoder(name, pretrained=tmp_path / "weights.pth", image_size=(64, 64))
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), encoder.state_dict().values(), strict=True)
    )


def test_file_of_a_vit_is_loaded_at_another_size(weights):
    encoder = TimmEncoder("test_vit", pretrained=weights["test_vit"], image_size=(64, 96))
    state = load_file(weights["test_vit"])
    torch.testing.assert_close(encoder.last_layer.weight, nn.Parameter(state["blocks.5.mlp.fc2.weight"]))
    assert state["pos_embed"].shape[1] != encoder.net.model.pos_embed.shape[1] == 4 * 6 + 1
    assert encode(encoder, (64, 96))[0].shape == (2, 64, 6, 4)


def test_file_without_head_is_loaded(weights, tmp_path):
    state = {name: t for name, t in load_file(weights["test_resnet"]).items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "backbone.safetensors")
    encoder = TimmEncoder("test_resnet", pretrained=tmp_path / "backbone.safetensors", image_size=(64, 64))
    torch.testing.assert_close(encoder.net.conv1[0].weight, nn.Parameter(state["conv1.0.weight"]))


def test_bad_files_are_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent.safetensors"):
        TimmEncoder("test_resnet", pretrained=tmp_path / "absent.safetensors")
    whole = weights["test_resnet"].read_bytes()
    for name, content in (("cut", whole[:-100]), ("header", whole[:20]), ("empty", b"")):
        for suffix in ("safetensors", "pth"):
            file = tmp_path / f"{name}.{suffix}"
            file.write_bytes(content)
            with pytest.raises(
                ValueError, match=rf"{name}.{suffix} cannot be loaded into 'test_resnet': expected a whole"
            ):
                TimmEncoder("test_resnet", pretrained=file)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"half.pth cannot be loaded"):
        TimmEncoder("test_resnet", pretrained=tmp_path / "half.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    with pytest.raises(ValueError, match=r"pickled.pth cannot be loaded"):
        TimmEncoder("test_resnet", pretrained=tmp_path / "pickled.pth")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("resnet18", "resnet34"),  # every tensor of the smaller is in the larger, in the same shape
        ("resnet34", "resnet18"),
        ("test_resnet", "test_vit"),
        ("test_vit", "test_resnet"),
        ("test_efficientnet", "test_resnet"),
    ],
)
def test_file_of_another_architecture_is_refused(weights, name, other):
    with pytest.raises(
        ValueError, match=f"{other}.safetensors (does not hold the weights of|cannot be loaded into) '{name}'"
    ):
        TimmEncoder(name, pretrained=weights[other], image_size=(64, 64))


def test_file_that_lacks_one_tensor_is_refused(weights, tmp_path):
    state = load_file(weights["test_efficientnet"])
    del state["blocks.1.0.bn1.running_var"]
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match=r"it lacks blocks.1.0.bn1.running_var\."):
        TimmEncoder("test_efficientnet", pretrained=tmp_path / "lacking.safetensors")


def test_refused_file_leaves_torch_as_it_was(weights):
    before = nn.Module.load_state_dict
    with pytest.raises(ValueError, match="does not hold"):
        TimmEncoder("resnet18", pretrained=weights["resnet34"])
    assert nn.Module.load_state_dict is before


def test_real_weights():
    if not LITE0.is_file():
        pytest.skip(f"the real weights are not at {LITE0}")
    encoder = TimmEncoder("tf_efficientnet_lite0", pretrained=LITE0, image_size=(64, 64))
    state = load_file(LITE0)
    for name, tensor in encoder.net.state_dict().items():
        torch.testing.assert_close(tensor, state[name])
    with pytest.raises(ValueError, match=r"tf_efficientnet_lite0.safetensors (does not hold|cannot be loaded)"):
        TimmEncoder("efficientnet_b0", pretrained=LITE0, image_size=(64, 64))


def test_weights_that_cannot_be_downloaded_are_refused(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(
        ValueError, match=r"weights of 'resnet18' cannot be had \(OSError: no route.* weight file, or to false"
    ):
        TimmEncoder("resnet18", pretrained=True)


def test_lenet():
    encoder = LeNet()
    assert encoder.info == EncoderInfo((25,), (0,))
    assert encoder.last_layer is encoder.linear
    assert encoder.linear.in_features == 4 * 4 * 8
    grey = torch.rand(2, 1, 28, 28)
    (vector,) = encoder(grey.expand(-1, 3, -1, -1))
    assert vector.shape == (2, 25)
    assert (vector >= 0).all()
    x = (grey - 0.1307) / 0.3081
    for conv in (encoder.conv1, encoder.conv2):
        x = nn.functional.max_pool2d(conv(x).relu(), 2)
    torch.testing.assert_close(vector, encoder.linear(x.flatten(1)).relu())
    big = LeNet(channels=[10, 20], features=50, image_size=(36, 32))
    assert encode(big, (36, 32))[0].shape == (2, 50)


def test_lenet_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"built for images of 28x28 .* got 32x28"):
        LeNet().check_size(32, 28)
    with pytest.raises(ValueError, match="16x16 and more, got 15x28"):
        LeNet(image_size=(15, 28))
    with pytest.raises(ValueError, match="two channel numbers"):
        LeNet(channels=[4])
    assert encode(LeNet(image_size=(16, 17)), (16, 17))[0].shape == (2, 25)
