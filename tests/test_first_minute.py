"""What somebody meets first: the help, descriptions of keys, the schema, and a configuration with its sources."""

import ast
import json
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import mtlkit
from mtlkit.cli.describe import describe
from mtlkit.cli.help import EXAMPLES
from mtlkit.cli.main import main
from mtlkit.config.composition import compose
from mtlkit.config.json_schema import experiment_schema, preset_schema
from mtlkit.config.reference import keys_below, keys_of, option_keys
from mtlkit.config.schema import Config, DecoderConfig, TaskConfig
from mtlkit.meanings import arguments

ROOT = Path(__file__).parents[1]
OPTIONS = (mtlkit.BALANCERS, mtlkit.TASKS, mtlkit.DATASETS, mtlkit.ENCODERS, mtlkit.DECODERS)
COMMANDS = ("train", "compare", "evaluate", "predict", "report", "explain", "export", "push", "data", "list")


def printed(words, capsys):
    """Runs a command and returns its exit status and what it printed."""
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    return status, out, err


def test_the_help_fits_on_a_screen_and_teaches(capsys):
    status, text, _ = printed(["--help"], capsys)
    lines = text.splitlines()
    assert status == 0
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    for word in ("key", "choose", "sweep", "Documentation", *COMMANDS, "describe", "schema", "completion"):
        assert word in text
    assert lines.index("Commands:") < next(n for n, line in enumerate(lines) if line.startswith("Exit status"))


def test_mtlkit_alone_prints_the_help_and_is_no_success(capsys):
    _, text, _ = printed(["--help"], capsys)
    assert printed([], capsys) == (2, text, "")


@pytest.mark.parametrize("command", EXAMPLES)
def test_every_command_has_a_help_with_examples_of_itself(command, capsys):
    status, text, _ = printed([*command.split(), "--help"], capsys)
    assert status == 0
    assert max(map(len, text.splitlines())) <= 100
    _, found, examples = text.partition("\nexamples:\n")
    assert found
    assert f"mtlkit {command} " in examples


def test_every_command_has_an_example(capsys):
    _, text, _ = printed(["--help"], capsys)
    listed = [line.split()[0] for line in text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()]
    assert [command for command in listed if command not in EXAMPLES] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], "Experiments: celeba, "),
        (["list"], "KIND is missing: balancers, tasks, "),
        (["describe"], "trainer.lr"),
    ],
)
def test_a_command_alone_says_what_to_write_next(words, expected, capsys):
    status, out, err = printed(words, capsys)
    assert (status, out) == (2, "")
    assert expected in err
    assert f"For example: mtlkit {words[0]} " in err


# The configuration and its sources


def shown(words, capsys):
    """Returns the values that --cfg prints, and the source of each line by its dotted key."""
    status, out, err = printed(["train", *words, "--cfg"], capsys)
    assert status == 0, err
    sources, path = {}, []
    for line in out.splitlines()[1:]:
        text, _, source = line.partition("  # ")
        depth = (len(text) - len(text.lstrip())) // 2
        path = [*path[:depth], text.split(":")[0].strip()]
        if source:
            sources[".".join(path)] = source
    return out, sources


def test_every_value_has_its_source(capsys):
    _, sources = shown(["scenes", "balancer=cagrad", "preset=famo", "seed=3", "trainer.max_epochs=2"], capsys)
    assert sources["seed"] == "command line: seed=3"
    assert sources["trainer.max_epochs"] == "command line: trainer.max_epochs=2"
    assert sources["balancer.name"] == "command line: balancer=cagrad"
    assert sources["trainer.schedule"] == "configs/experiment/scenes.yaml"
    assert sources["data.name"] == "configs/data/scenes.yaml"
    assert sources["model.encoder"] == "configs/model/resnet18.yaml"
    assert sources["task.depth.type"] == "configs/task/depth.yaml"
    assert "configs/balancer_preset/famo.yaml" in sources.values()
    assert sources["trainer.momentum"] == sources["output_dir"] == "default"


def test_a_file_of_ones_own_is_a_source(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("defaults: [scenes]\ntrainer: {lr: 0.5}\nmodel: {encoder: lenet, levels: null}\n")
    file.write_text("defaults: [scenes]\ntrainer: {lr: 0.5}\n")
    _, sources = shown([str(file)], capsys)
    assert sources["trainer.lr"] == str(file)
    assert sources["trainer.max_epochs"] == "configs/experiment/scenes.yaml"


def test_the_comments_stand_below_each_other(capsys):
    out, _ = shown(["scenes"], capsys)
    columns = [line.index("  # ") for line in out.splitlines()[1:] if "  # " in line]
    assert len(set(columns)) == 1


EXPERIMENTS = {
    "scenes": ["balancer=rotograd", "balancer.lr=1e-5", "seed=4", "output_dir=runs/1e5"],
    "nyuv2_mtan": ["balancer=cagrad", "preset=famo", "data.root=~/My Data (1)", "trainer.baseline={depth/abs: 1}"],
    "chestxray14": ["data.root=on", "trainer.monitor=null"],
    "multimnist": [
        "data={concat: [{name: multimnist, root: a}, {name: cl_rr, weight: 2}], batch_size: 4}",
        "~data.name",
        "data.mixing=weights",
        "data.concat.0.weight=1",
    ],
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_it_prints_trains_the_same_run(experiment, tmp_path, capsys):
    words = EXPERIMENTS[experiment]
    out, sources = shown([experiment, *words], capsys)
    file = tmp_path / "mine.yaml"
    file.write_text(out)
    assert compose(str(file)) == compose(experiment, words)
    assert yaml.safe_load(out).keys() == compose(experiment, words).to_dict().keys()
    assert all(sources.values())


def test_it_trains_nothing_and_shows_one_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert printed(["train", "scenes", "--cfg"], capsys)[0] == 0
    assert list(tmp_path.iterdir()) == []
    for option in ("--multirun", "--resume"):
        status, _, err = printed(["train", "scenes", "--cfg", option], capsys)
        assert status == 2
        assert f"Leave {option} out" in err


# What the keys mean


def without_meaning(keys, path):
    """Yields the dotted keys without a meaning, also those below."""
    for name, key in keys.items():
        if len(key.meaning.split()) < 2:
            yield f"{path}.{name}"
        below, _ = keys_below(key.annotation)
        if below:
            yield from without_meaning(keys_of(below), f"{path}.{name}")


def ours(registry):
    """Returns the names that come with mtlkit: other tests register their own."""
    return [name for name in registry.names() if registry.get(name).__module__.startswith("mtlkit.")]


def test_every_key_has_a_meaning():
    parts = [("", Config), ("task.NAME", TaskConfig), ("task.NAME.decoder", DecoderConfig)]
    lacking = [key for path, cls in parts for key in without_meaning(keys_of(cls), path)]
    for registry in OPTIONS:
        for name in ours(registry):
            lacking += without_meaning(option_keys(registry, name), f"{registry.kind} {name}")
    assert lacking == []


def test_no_docstring_explains_an_option_that_does_not_exist():
    for registry in OPTIONS:
        for name in ours(registry):
            explained = set(arguments(registry.get(name).__doc__ or ""))
            assert explained <= {*option_keys(registry, name), *GIVEN_TO_ALL}, name


GIVEN_TO_ALL = {"tasks", "info", "out_channels", "image_size", "in_channels"}  #: by mtlkit itself


WHATS = {
    "balancer=rotograd": ["balancer.update: one of geodesic, adam; default geodesic", "Rotates the features"],
    "balancer": ["balancer=NAME", "rotograd", "mtlkit list balancers"],
    "trainer": ["trainer.lr: a number", "the learning rate of the decoders", "trainer.selection"],
    "trainer.lr": ["default: 0.001", ">= 1e-30"],
    "data=nyuv2": ["data.crop: one of eigen, gupta or null", "configs/data/nyuv2.yaml"],
    "data": ["data.batch_size: an integer >= 1; must be given", "scenes"],
    "model": ["model.freeze", "timm"],
    "model=resnet18": ["configs/model/resnet18.yaml", "model.levels"],
    "encoder=segnet": ["model.levels: one of last, all"],
    "encoder=lenet": ["model.start"],
    "model.encoder=resnet34": ["model.pool"],
    "task.depth": ["task.NAME.loss: one of l1, mse, berhu, silog; default l1"],
    "task=depth": ["task.NAME.berhu_threshold"],
    "task.left": ["task.NAME.decoder"],
    "task.anything.loss": ["of the task depth", "of the task normals"],
    "decoder=unet": ["task.NAME.decoder.channels"],
    "task.depth.decoder=conv": ["task.NAME.decoder.width: an integer; default 128"],
    "balancer.alpha": ["of the balancer gradnorm", "of the balancer dtp"],
    "data.augmentation": ["data.augmentation.flip: a number >= 0 and <= 1; default 0.5"],
    "data.augmentation.flip": ["default: 0.5"],
    "data.concat": ["data.concat.N.weight"],
    "data.concat.0.root": ["the folder of its files"],
    "data.labels.depth.type": ["of the data set folder"],
    "data.splits.holdout": ["default: null"],
    "model.lora.rank": ["it must be given"],
    "preset=famo": ["configs/balancer_preset/famo.yaml"],
    "preset": ["preset.method"],
    "seed": ["an integer >= 0"],
}


@pytest.mark.parametrize("what", WHATS)
def test_describe(what):
    lines = describe(what)
    assert max(map(len, lines)) <= 124  # a line of a YAML file has up to 120, and a margin
    for part in WHATS[what]:
        assert any(part in line for line in lines), lines


@pytest.mark.parametrize(
    ("what", "hint"),
    [
        ("balancer=rotogard", "'rotograd'"),
        ("trainer.lrr", "trainer.lr"),
        ("lr", "trainer.lr"),
        ("trainr", "trainer?"),
        ("data=nyu2", "'nyuv2'"),
        ("decoder=unett", "'unet'"),
        ("encoder=segnett", "segnet"),
        ("preset=fmo", "'famo'"),
        ("data.augmentation.flips", "data.augmentation.flip"),
        ("task.depth.los", "loss"),
    ],
)
def test_describe_proposes_what_is_close(what, hint):
    with pytest.raises(LookupError) as error:
        describe(what)
    assert hint in str(error.value)


def test_describe_every_name():
    words = {"balancer": mtlkit.BALANCERS, "data": mtlkit.DATASETS, "task": mtlkit.TASKS, "decoder": mtlkit.DECODERS}
    for word, registry in (words | {"encoder": mtlkit.ENCODERS}).items():
        for name in registry.names():
            text = "\n".join(describe(f"{word}={name}"))
            assert all(f".{option}: " in text for option in option_keys(registry, name)), name


def test_describe_knows_a_plug_in_that_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "first_lab.py").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    status, out, _ = printed(["describe", "balancer=first_mine", "--plugins", "first_lab"], capsys)
    assert status == 0
    assert "balancer.slope: a number; default 1.0\n      how steep it is\n" in out
    schema = json.loads(printed(["schema"], capsys)[1])
    assert "first_mine" in schema["properties"]["balancer"]["properties"]["name"]["anyOf"][0]["enum"]


LAB = '''
from mtlkit import BALANCERS
from mtlkit.balancer import Balancer

@BALANCERS.register("first_mine")
class FirstMine(Balancer):
    """Is steep.

    Args:
        slope: how steep it is.
    """

    def __init__(self, tasks, *, slope: float = 1.0):
        super().__init__(tasks)
'''


# The schema for editors


@pytest.fixture(scope="module")
def validators():
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'mtlkit[dev]'")
    schemas = {"experiment": experiment_schema(), "balancer_preset": preset_schema()}
    return {group: jsonschema.Draft202012Validator(schema) for group, schema in schemas.items()}


def problems(validator, values):
    """Returns the messages alone: pytest takes minutes to show errors, which hold the whole schema."""
    return [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(values)]


@pytest.mark.parametrize("group", ["experiment", "balancer_preset"])
def test_what_comes_with_mtlkit_is_valid(group, validators):
    for file in sorted((ROOT / "configs" / group).glob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(file))
        assert problems(validators[group], values) == [], file


VALID = [
    "balancer: rotograd",
    "balancer: {alpha: 1}",  # of the balancer that another file names
    "task: [depth]",
    "task: {a: {type: depth, decoder: {name: unet, channels: [8, 8]}}}",
    "model: {encoder: resnet34, pool: avg}",
    "data: {size: '${other}', batch_size: 2}",
    "data: {concat: [scenes, {name: multimnist, root: /x}], batch_size: 4}",
    "preset: famo",
    "preset: null",
    "plugins: [a]\ntrainer: {lr: 1, trackers: [tensorboard]}",
]
INVALID = [
    "sede: 1",
    "trainer: {lrr: 1}",
    "trainer: {lr: fast}",
    "trainer: {lr: -1}",
    "trainer: {precision: bf17}",
    "trainer: {max_epochs: 2.5}",
    "balancer: {name: rotogard}",
    "balancer: {name: rotograd, updat: adam}",
    "balancer: {name: cagrad, update: adam}",  # of another balancer
    "balancer: {updat: adam}",
    "data: {name: scenes, classes: 13}",
    "data: {augmentation: {flips: 1}}",
    "model: {encoder: lenet, pool: avg}",
    "task: {a: {type: depth, loss: bce}}",
    "task: {a: {type: depth, decoder: {name: unet, width: 3}}}",
]


@pytest.mark.parametrize("text", VALID)
def test_the_schema_allows(text, validators):
    assert problems(validators["experiment"], yaml.safe_load(text)) == []


@pytest.mark.parametrize("text", INVALID)
def test_the_schema_refuses(text, validators):
    assert problems(validators["experiment"], yaml.safe_load(text)) != []


def test_a_resolved_configuration_is_valid(validators):
    values = compose("scenes", ["balancer=rotograd"]).to_dict()
    assert problems(validators["experiment"], values) == []


def test_a_broken_preset_is_refused(validators):
    values = yaml.safe_load((ROOT / "configs/balancer_preset/rotograd.yaml").read_text())
    method = next(iter(values["methods"].values()))
    method["balancer"] = {"updat": "adam"}
    assert problems(validators["balancer_preset"], values) != []
    assert problems(validators["balancer_preset"], {"code": "a", "methods": {}, "trainer": {"lr": "fast"}}) != []


def test_the_schema_is_printed_and_says_what_keys_mean(capsys):
    schema = json.loads(printed(["schema"], capsys)[1])
    assert schema["$schema"].endswith("2020-12/schema")
    lr = schema["properties"]["trainer"]
    text = json.dumps(lr)
    assert "the learning rate of the decoders" in text
    assert json.loads(printed(["schema", "preset"], capsys)[1])["required"] == ["code", "methods"]


def test_the_references_of_the_schemas_exist():
    for schema in (experiment_schema(), preset_schema()):
        text = json.dumps(schema)
        references = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
        assert references
        assert references <= schema["$defs"].keys()


def test_meanings_stand_in_one_place():
    """A comment `#:` beside a field would say a second time what the docstring says, or what no command can show."""
    files = [
        *(ROOT / "tasks").glob("*.py"),
        *(ROOT / "mtlkit/datasets").rglob("*.py"),
        *(ROOT / "mtlkit/config").glob("schema*.py"),
    ]
    for file in files:
        text = file.read_text()
        lines = text.splitlines()
        for cls in ast.walk(ast.parse(text)):
            if isinstance(cls, ast.ClassDef) and (cls.name == "Options" or cls.name.endswith("Config")):
                for part in cls.body:
                    if isinstance(part, ast.AnnAssign):
                        assert "#:" not in lines[part.lineno - 1], f"{file}:{part.lineno}"


# Messages


MESSAGES = {
    "train scenes --lr 0.1": "settings are written key=value, without dashes: trainer.lr=0.1.",
    "train scenes lr=0.1": "Did you mean 'trainer.lr' or 'balancer.lr'?",
    "train scenes learning_rate=0.1": "Did you mean 'trainer.lr' or 'balancer.lr'?",
    "train scenes epochs=3": "Did you mean 'trainer.max_epochs'?",
    "train scenes batch_size=3": "Did you mean 'data.batch_size'?",
    "train scenes balancers=rotograd": "Did you mean 'balancer'?",
    "train lr=0.1": "the experiment comes first",
    "train nothing.yaml": "There is no file nothing.yaml.",
    "train mine.yml": "There is no file mine.yml. Did you mean 'mine.yaml'?",
    "compare nothing.yaml": "There is no file nothing.yaml.",
    "data show nothing.yaml": "There is no file nothing.yaml.",
    "train runs": "It is a folder. Runs in it: runs/a, runs/b. A run's config.yaml is an experiment, too.",
    "train runs/a": "Did you mean the file runs/a/config.yaml?",
    "evaluate runs": "Runs in it: runs/a, runs/b.",
    "train scenes balancer=fixed balancer.weights=[1,2]": "task names to values, each a number, such as {",
    "train scenes trainer.optimizer_options=[1]": "a mapping of names to values, such as {NAME: VALUE}, found [1]",
    "train scenes trainer=3": "trainer: expected a mapping of keys, such as max_steps and max_epochs, found 3",
    "train scenes model.lora=8": "model.lora: expected a mapping of keys, such as rank and targets, found 8",
    "train scenes data.download=true": "data set 'scenes' has no option 'download'",
    "train scenes preset=fmo": "No preset is called 'fmo'. Did you mean 'famo'?",
    "describe balancr": "There is no key 'balancr'. Did you mean balancer?",
    "schema experment": "there is no 'experment' here. Did you mean 'experiment'?",
    "completion tcsh": "there is no 'tcsh' here. ",
    "completion": "SHELL is missing: bash, zsh, fish.",
}


@pytest.mark.parametrize("words", MESSAGES)
def test_a_mistake_is_answered_with_what_to_write(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for run in ("a", "b"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "mine.yaml").write_text("defaults: [scenes]\n")
    status, out, err = printed(words.split(), capsys)
    assert (status, out) == (2, "")
    assert MESSAGES[words] in err


def test_the_root_of_scenes_is_used(tmp_path, monkeypatch):
    """It is the folder of the rendered frames, so it is not ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    mtlkit.DATASETS.build("scenes", str(tmp_path / "root"), "train", (16, 16), 1)
    assert list((tmp_path / "root").iterdir())
    assert not (tmp_path / "elsewhere").exists()
