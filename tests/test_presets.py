"""Presets: what they set, what overrides them, and what is refused. A run's configuration keeps their values."""

import json
import warnings
from pathlib import Path

import pytest

from mtlkit.balancer import BALANCERS
from mtlkit.cli.main import main
from mtlkit.cli.preset_page import markdown
from mtlkit.config.composition import compose, read_config
from mtlkit.config.presets import load_preset, preset_names, presets_with
from mtlkit.config.sweeps import sweep
from mtlkit.run.experiment import Experiment
from mtlkit.run.resume import resumed

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "presets.md"
METHODS = [(name, method) for name in preset_names() for method in load_preset(name).methods]
#: The experiments that use each preset by default, or whose published rows it is for.
EXPERIMENTS = {
    "cagrad": ("nyuv2_mtan", "cityscapes"),
    "cosreg": ("nyuv2_cosreg", "sunrgbd"),
    "fairgrad": ("nyuv2_mtan", "cityscapes", "celeba_famo"),
    "famo": ("nyuv2_mtan", "cityscapes", "celeba_famo"),
    "libmtl": ("nyuv2_libmtl",),
    "nash_mtl": ("nyuv2_mtan", "cityscapes"),
    "rotograd": ("multimnist_parity",),
    "rotograd_mtl": ("nyuv2_rotograd",),
    "sdmgrad": ("nyuv2_mtan", "cityscapes"),
    "unitscal": ("celeba_famo", "cityscapes"),
}
KEYS = {"decoder_gradients", "clip_norm", "clip_encoder", "balancer_schedule", "normalize_losses", "normalize_again"}
MINE = """
code: my lab
trainer: {clip_norm: 3.0}
methods:
  cagrad:
    source: my_lab.py:1
    balancer: {c: 0.3}
    for_data: {nyuv2: {balancer: {rescale: c}, trainer: {clip_norm: 4.0}}}
  fixed: {source: "my_lab.py:2", balancer: {weights: {depth: 2.0}}}
"""


def published(*words: str):
    return compose("nyuv2_mtan", words)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "lab.yaml"
    path.write_text(MINE, encoding="utf-8")
    return str(path)


@pytest.fixture
def experiment(tmp_path: Path):
    """Returns a function that writes a user's own experiment, based on nyuv2_mtan."""

    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(f"defaults: [nyuv2_mtan, _self_]\n{text}", encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_method_of_every_preset_is_what_runs_and_what_is_saved(name: str, method: str, tmp_path: Path):
    wanted = load_preset(name)
    assert method in BALANCERS.names()
    for experiment in EXPERIMENTS[name]:
        config = compose(experiment, [f"balancer={method}", f"preset={name}"])
        assert (config.preset.name, config.preset.method) == (name, method)
        values = wanted.values(method, config.data.name)
        assert values["balancer"].items() <= config.balancer.options.items()
        assert {key: getattr(config.trainer, key) for key in values["trainer"]} == values["trainer"]
    config.save(tmp_path / "config.yaml")
    assert compose(str(tmp_path / "config.yaml")) == config == read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_all_methods_of_a_preset_set_the_same_keys_of_the_trainer(name: str):
    """So a change of the balancer leaves no value behind that the preset had for the old balancer."""
    preset = load_preset(name)
    assert len({frozenset(preset.values(method)["trainer"]) for method in preset.methods}) == 1
    assert preset.values(next(iter(preset.methods)))["trainer"].keys() == KEYS
    for method in preset.methods.values():
        extra = {tuple(sorted(own.get("trainer", {}))) for own in method.for_data.values()}
        assert extra <= {(), ("lr", "weight_decay")}


@pytest.mark.parametrize(
    ("experiment", "words", "expected"),
    [
        ("nyuv2_mtan", "preset=famo balancer=famo", {"gamma": 0.001, "lr": 0.025}),
        ("cityscapes", "preset=famo balancer=famo", {"gamma": 0.01, "lr": 0.025}),
        ("celeba_famo", "balancer=famo", {"gamma": 0.001}),
        ("celeba_famo", "balancer=uncertainty", {"lr": 0.0}),
        ("nyuv2_mtan", "preset=famo balancer=uncertainty", {"lr": 0.025}),
        ("nyuv2_cosreg", "", {"alpha": 10, "scale_by_loss": True, "space": "last_layer"}),
        ("sunrgbd", "", {"alpha": 10, "scale_by_loss": False, "space": "last_layer"}),
    ],
)
def test_values_by_data_set(experiment: str, words: str, expected: dict):
    assert expected.items() <= compose(experiment, words.split()).balancer.options.items()


def test_the_codes_differ_where_the_issue_says_so():
    def of(name: str, method: str):
        config = published(f"preset={name}", f"balancer={method}")
        return config.balancer.options, config.trainer

    assert [of(name, "cagrad")[0]["c"] for name in ("nash_mtl", "famo", "cagrad", "libmtl")] == [0.4, 0.4, 0.4, 0.5]
    assert [of(name, "cagrad")[1].clip_encoder for name in ("nash_mtl", "famo", "libmtl")] == [None, 1.0, None]
    assert [of(name, "nash")[0]["max_norm"] for name in ("nash_mtl", "famo", "libmtl")] == [1.0, None, 1.0]
    decoders = [of(name, "mgda")[1].decoder_gradients for name in ("nash_mtl", "famo", "cagrad", "libmtl")]
    assert decoders == ["weighted", "weighted", "plain", "plain"]
    spaces = [of(name, "graddrop")[0]["space"] for name in ("famo", "cagrad", "libmtl")]
    assert spaces == ["parameters", "parameters", "features"]
    starts = [(of(n, "uncertainty")[0]["initial"], of(n, "uncertainty")[0]["lr"]) for n in ("nash_mtl", "cagrad")]
    assert starts == [(0.0, 0.025), (-0.5, 1e-4)]
    assert of("libmtl", "uncertainty")[0]["weight_decay"] == 1e-5
    assert [of(name, "dwa")[0]["window"] for name in ("nash_mtl", "cagrad")] == [25, None]
    assert [of(n, m)[1].balancer_schedule for n, m in (("famo", "famo"), ("famo", "nash"))] == ["constant", "follow"]


def test_rotograd_on_nyuv2_and_its_row_of_plain_summing():
    config = compose("nyuv2_rotograd")
    expected = {"flatten": True, "dim": 1024, "update": "adam", "start": "random", "lr": 5e-5, "burn_in": 20}
    assert expected.items() <= config.balancer.options.items()
    assert (config.trainer.normalize_losses, config.trainer.normalize_again) == (1, 20)
    plain = compose("nyuv2_rotograd", ["balancer=uniform"]).trainer
    assert (plain.normalize_losses, plain.normalize_again) == (0, None)


def test_words_beat_a_preset_and_a_preset_beats_the_experiment():
    config = published("balancer={name: cagrad, c: 0.9}", "trainer.decoder_gradients=weighted", "preset=nash_mtl")
    assert config.balancer.options == {"c": 0.9, "rescale": "c2", "match_sum": True, "space": "parameters"}
    assert config.trainer.decoder_gradients == "weighted"
    assert published("balancer=cagrad", "trainer={clip_norm: 2.0}").trainer.clip_norm == 2.0
    beaten = compose("celeba_rotograd", ["preset=rotograd"]).balancer.options  # its file has lr=5e-4 and dim=1536
    assert (beaten["lr"], beaten["dim"]) == (None, 1536)


def test_a_users_own_file_beats_the_preset_that_it_names_and_not_one_of_a_word(experiment):
    own = experiment("preset: famo\nbalancer: {name: cagrad, c: 0.7}\ntrainer: {clip_encoder: 2.0}")
    config = compose(own)
    assert (config.balancer.options["c"], config.balancer.options["rescale"]) == (0.7, "c2")
    assert config.trainer.clip_encoder == 2.0
    by_word = compose(own, ["preset=nash_mtl"])
    assert (by_word.balancer.options["c"], by_word.trainer.clip_encoder) == (0.4, None)


def test_a_run_goes_on_with_another_balancer_by_the_same_preset(tmp_path: Path):
    file = tmp_path / "config.yaml"
    published("preset=famo", "balancer=cagrad", "balancer.c=0.9", "trainer.lr=0.5").save(file)
    again = compose(str(file), ["balancer=famo"])
    expected = published("preset=famo", "balancer=famo", "trainer.lr=0.5")
    assert (again.balancer, again.trainer, again.preset) == (expected.balancer, expected.trainer, expected.preset)
    assert compose(str(file), ["trainer.lr=0.1"]).balancer.options["c"] == 0.9
    assert compose(str(file), ["preset=nash_mtl"]).trainer.clip_encoder is None
    with pytest.raises(ValueError, match=r"preset: configs/balancer_preset/famo\.yaml has no method 'rotograd'"):
        compose(str(file), ["balancer=rotograd"])


@pytest.mark.parametrize(
    ("words", "error", "expected"),
    [
        (
            "preset=nash_mtl balancer=famo",
            ValueError,
            "preset: configs/balancer_preset/nash_mtl.yaml has no method 'famo'. Known: cagrad, dwa, imtl_g, mgda, "
            "nash, pcgrad, rlw, uncertainty, uniform. preset=null takes mtlkit's own defaults.",
        ),
        ("preset=libmtl balancer=gradnorm", ValueError, "has no method 'gradnorm' (LibMTL takes norms over"),
        ("preset=nash_mlt", LookupError, "No preset is called 'nash_mlt'. Did you mean 'nash_mtl'? Known: cagrad, "),
        (
            "preset=3",
            ValueError,
            "preset: expected the name of a preset, the path of a YAML file or null, found 3",
        ),
        ("preset=no.yaml", FileNotFoundError, "There is no file no.yaml"),
        (
            "preset=famo balancer=cagrad trainer.clip_norm=1",
            ValueError,
            "trainer.clip_encoder: it does not go with trainer.clip_norm=1.0; set one of the two to null (in "
            "configs/balancer_preset/famo.yaml)",
        ),
        ("trainer.balancer_schedule=no", ValueError, "trainer.balancer_schedule: expected one of follow, constant"),
    ],
)
def test_what_is_refused(words: str, error: type[Exception], expected: str):
    with pytest.raises(error) as caught:
        published(*words.split())
    assert expected in str(caught.value)


def test_a_preset_of_ones_own(mine: str):
    config = published("balancer=cagrad", f"preset={mine}")
    assert (config.balancer.options["c"], config.balancer.options["rescale"], config.trainer.clip_norm) == (0.3, "c", 4)
    assert published("balancer=fixed", f"preset={mine}").balancer.options == {"weights": {"depth": 2.0}}
    both = published("balancer=fixed", "balancer.weights.normals=3.0", f"preset={mine}")
    assert both.balancer.options == {"weights": {"depth": 2.0, "normals": 3.0}}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("code: my lab\n", "", "code: missing; a preset needs it (in FILE)."),
        ("code: my lab\n", "code: my lab\nplace: here\n", "place: a preset has no option 'place' (in FILE)."),
        ("code:", "codes:", "codes: a preset has no option 'codes' (in FILE). Did you mean 'code'?"),
        ("    source: my_lab.py:1\n", "", "methods.cagrad.source: missing"),
        ("balancer: {c: 0.3}", "balance: {c: 0.3}", "methods.cagrad.balance: unknown key (in FILE). Did you mean"),
        ("balancer: {c: 0.3}", "balancer: 3", "methods.cagrad.balancer: expected a mapping"),
        ("balancer: {c: 0.3}", "balancer: {cc: 0.3}", "balancer.cc: balancer 'cagrad' has no option 'cc' (in FILE)."),
        ("{clip_norm: 3.0}", "{clip: 3.0}", "trainer.clip: unknown key (in FILE)."),
        ("rescale: c}", "rescale: c}, data: {}", "methods.cagrad.for_data.nyuv2.data: unknown key (in FILE)."),
        (MINE, "- 1", "FILE: expected a mapping of keys, found list."),
    ],
)
def test_mistakes_in_a_preset_of_ones_own(mine: str, old: str, new: str, expected: str):
    assert old in MINE
    Path(mine).write_text(MINE.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r".") as caught:
        published("balancer=cagrad", f"preset={mine}")
    assert expected.replace("FILE", mine) in str(caught.value)


def test_a_published_protocol_without_a_preset_warns_and_says_which_have_the_method():
    with pytest.warns(UserWarning, match=r"preset=null: nash runs .* Presets that have it: famo, libmtl, nash_mtl\."):
        config = published("balancer=nash", "preset=null")
    assert config.preset is None
    assert config.balancer.options["space"] == "features"
    with pytest.warns(UserWarning, match=r"the preset nash_mtl does not have famo: .*: famo, libmtl\."):
        assert published("balancer=famo").preset is None
    with pytest.warns(UserWarning, match=r"the preset famo does not have adversarial: .* No preset has it\."):
        assert compose("celeba_famo", ["balancer=adversarial"]).preset is None
    with warnings.catch_warnings(record=True) as caught:
        published("balancer=nash")
        compose("nyuv2_cosreg")
        compose("scenes", ["balancer=nash"])
    assert not caught


def test_every_published_protocol_names_a_preset():
    for file in (Path(__file__).parents[1] / "configs" / "experiment").glob("*.yaml"):
        if "protocol: published" in file.read_text():
            assert compose(file.stem).preset, file.name


def test_a_sweep_takes_the_presets_values_for_each_method():
    jobs = sweep("nyuv2_mtan", ["balancer=cagrad,nash", "preset=nash_mtl,libmtl"])
    configs = [compose("nyuv2_mtan", job) for job in jobs]
    assert [(c.preset.name, c.preset.method, c.balancer.name) for c in configs] == [
        ("nash_mtl", "cagrad", "cagrad"),
        ("libmtl", "cagrad", "cagrad"),
        ("nash_mtl", "nash", "nash"),
        ("libmtl", "nash", "nash"),
    ]
    assert [c.trainer.decoder_gradients for c in configs] == ["plain", "plain", "weighted", "weighted"]


def test_a_run_without_a_step_takes_another_preset_whole_and_one_with_steps_none(tmp_path: Path):
    folder = f"output_dir={tmp_path}"
    published("balancer=cagrad", "preset=famo", folder).save(tmp_path / "config.yaml")
    words = ["balancer=nash", "preset=nash_mtl", folder]
    config = published(*words)
    assert resumed(config, words, anew=True) == config
    with pytest.raises(ValueError, match=r"balancer\.name: the run in .* has 'cagrad', not 'nash'"):
        resumed(config, words)
    words = ["preset=nash_mtl", folder]
    with pytest.raises(ValueError, match=r"preset\.(name|method): the run in .* has"):
        resumed(published("balancer=cagrad", *words), words)
    same = ["balancer=cagrad", "preset=famo", folder]
    assert resumed(published(*same), same) == published(*same)


TINY = ("trainer.max_steps=1", "data.train_size=16", "data.val_size=4")


def test_the_log_and_the_report_name_the_preset(tmp_path: Path, capsys):
    words = ["preset=libmtl", "balancer=uncertainty", *TINY, f"output_dir={tmp_path}"]
    assert main(["train", "demo", *words]) == 0
    assert "warning" not in capsys.readouterr().err
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["preset"] == "libmtl"
    assert "<dt>Preset<dd>libmtl" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("no_report")  # the test above looks at it
def test_the_log_says_that_a_published_protocol_ran_without_a_preset(tmp_path: Path):
    words = ["protocol=published", "balancer=gls", *TINY, f"output_dir={tmp_path}"]
    with pytest.warns(UserWarning, match=r"gls runs with mtlkit's own defaults, and .* have it: libmtl\.") as caught:
        Experiment.compose("demo", words).run()
    text = str(caught[0].message)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["incident"] for record in records if "incident" in record] == [text]
    assert records[0]["preset"] is None


def test_the_page_is_current_and_the_list_has_them_all(capsys):
    assert PAGE.read_text() == markdown(), "docs/reference/presets.md is out of date: run `make docs`"
    assert main(["list", "presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 3 for line in lines)
    for method in ("cagrad", "famo"):
        assert presets_with(method) == [n for n in preset_names() if method in load_preset(n).methods]
