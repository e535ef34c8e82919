import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hydra.core.global_hydra import GlobalHydra

from mtlkit.balancer import BALANCERS
from mtlkit.config.composition import compose, read_config
from mtlkit.config.sweeps import sweep
from mtlkit.registry import options_of
from mtlkit.run.resume import resumed
from mtlkit.task import TASKS
from mtlkit.typed import Bound, MisfitError, OptionError, Source, convert, to_dataclass

EXPERIMENTS = sorted(
    file.stem for file in Path(str(importlib.resources.files("mtlkit.configs"))).glob("experiment/*.yaml")
)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    """Returns a function that writes a user's own experiment, based on the parts of multimnist."""

    def write(text: str, parts: str = "[/data: multimnist, /model: lenet, /task: [left, sum], _self_]") -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(f"defaults: {parts}\n{text}", encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Returns a function that writes a module of another author."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    return write


STRANGER = """
from mtlkit import BALANCERS
from mtlkit.balancer import Balancer

@BALANCERS.register("stranger")
class Stranger(Balancer):
    def __init__(self, tasks, *, must: int, slope: float = 0.5, callback=print):
        super().__init__(tasks)
"""


def test_overrides_reach_the_typed_configuration():
    config = compose(
        "multimnist",
        ["data.size=[28,28]", "trainer.lr=1", "+seed=7", "++data.root=/mnist", "data.dataset_seed=3", "task=[left]"],
    )
    assert config.experiment == "multimnist"
    assert config.data.size == (28, 28)
    assert config.trainer.lr == 1.0
    assert isinstance(config.trainer.lr, float)
    assert (config.seed, config.data.root, config.data.options) == (7, "/mnist", {"dataset_seed": 3})
    assert list(config.task) == ["left"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_shipped_experiment_composes_and_what_it_saves_does_so_to_itself(experiment: str, tmp_path: Path):
    config = compose(experiment)
    assert config.experiment == experiment
    assert config.task
    config.save(tmp_path / "config.yaml")
    assert compose(str(tmp_path / "config.yaml")) == config == read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("name", BALANCERS.names())
def test_a_balancer_is_the_same_in_every_form(name: str, own, tmp_path: Path):
    config = compose("multimnist", [f"balancer={name}"])
    config.save(tmp_path / "config.yaml")
    assert compose(str(tmp_path / "config.yaml")) == config == read_config(tmp_path / "config.yaml")
    for text in (f"balancer: {name}", f"balancer: {{name: {name}}}"):
        assert compose(own(f"{text}\ntrainer: {{max_steps: 1}}")).balancer == config.balancer


@pytest.mark.parametrize(
    "word",
    [
        "balancer=gradnorm",
        "+balancer=gradnorm",
        "++balancer=gradnorm",
        "balancer.name=gradnorm",
        "balancer={name: gradnorm}",
        "++balancer={name: gradnorm}",
    ],
)
def test_a_named_balancer_takes_no_option_of_the_one_before(word: str, own):
    own_default = {name: p.default for name, p in options_of(BALANCERS.get("gradnorm")).items() if name != "tasks"}
    expected = own_default | {"alpha": 0.5}
    text = "balancer: {name: rotograd, lr: 0.5, dim: 8}\ntrainer: {max_steps: 1}"
    assert compose(own(text), [word, "balancer.alpha=0.5"]).balancer.options == expected
    assert compose("demo", ["balancer.alpha=0.5", word]).balancer.options == expected


def test_options_of_a_file_that_names_no_balancer_are_for_the_one_that_is_named(own):
    text = "balancer: {lr: 0.5}\ntrainer: {max_steps: 1}"
    assert compose(own(text)).balancer.name == "uniform"
    assert compose(own(text), ["balancer=gradnorm"]).balancer.options["lr"] == 0.5


def test_another_class_in_any_section_takes_no_option_along(own):
    def composed(text: str, *words: str):
        return compose(own(f"{text}\ntrainer: {{max_steps: 1}}"), words)

    assert composed("model: {channels: [5, 5]}").model.options == {"channels": [5, 5]}
    assert composed("model: {channels: [5, 5]}", "model.encoder=strided").model.options == {}
    assert composed("model: {channels: [5, 5]}", "model=resnet18").model.options == {}
    assert composed("model: resnet18").model.encoder == "resnet18"
    assert composed("model: test_resnet").model.encoder == "test_resnet"  # timm has it; it has no file of its own
    assert composed("model: {channels: [5, 5]}", "model=lenet_original").model.options["channels"] == [10, 20]
    assert compose("scenes", ["model.encoder=resnet34"]).model.options == {"levels": [1, 2, 3]}  # timm has both
    assert compose("scenes", ["model=segnet"]).model.options == {"levels": "all"}
    # Nothing from the file of densenet121 stays.
    assert compose("chestxray14", ["model=lenet"]).model == compose("multimnist").model

    moved = composed("data: {dataset_seed: 3, root: /mnist}", "data.name=scenes").data
    assert (moved.root, moved.options, moved.batch_size) == (None, {}, 256)
    chosen = composed("data: {dataset_seed: 3, root: /mnist}", "data=scenes").data
    assert (chosen.root, chosen.options, chosen.batch_size, chosen.size) == (None, {}, 16, (64, 48))
    assert chosen.augmentation == compose("scenes").data.augmentation

    task = composed("task: {left: {label_smoothing: 0.1}}", "task.left.type=regression").task["left"]
    assert (task.type, task.options) == ("regression", {})
    task = composed("task: {left: {decoder: {name: linear, dropout: 0.5}}}", "task.left.decoder=mlp").task["left"]
    assert task.decoder == "mlp"
    task = composed("", "task.left.decoder.dropout=0.5").task["left"]
    assert task.decoder == {"name": "linear", "dropout": 0.5}


@pytest.mark.parametrize("name", TASKS.names())
def test_a_task_without_a_decoder_has_that_of_its_type(name: str, own):
    own_default = "conv" if TASKS.get(name).dense else "linear"
    for text in (f"{{type: {name}}}", name):
        task = compose(own(f"task: {{new: {text}}}\ntrainer: {{max_steps: 1}}")).task["new"]
        assert (task.type, task.decoder) == (name, own_default)


def test_several_data_sets_may_be_named_alone(own):
    path = own("data: {concat: [scenes, {name: multimnist, root: /mnist}], batch_size: 4}", "[/model: lenet, _self_]")
    words = ["task.left=classification", "trainer.max_steps=1"]
    first, second = compose(path, [*words, "data.concat.1.dataset_seed=3"]).data.concat
    assert (first.name, second.name, second.root, second.options) == (
        "scenes",
        "multimnist",
        "/mnist",
        {"dataset_seed": 3},
    )
    first, second = compose(path, [*words, "data.concat.1.name=scenes", "data.concat.0={name: cl_rr}"]).data.concat
    assert (first.name, second.name, second.root, second.options) == ("cl_rr", "scenes", None, {})
    with pytest.raises(ValueError, match=r"data\.concat\.2: there is no entry '2', the list has 2"):
        compose(path, [*words, "data.concat.2.name=scenes"])


def test_a_saved_configuration_begins_another_one(tmp_path: Path):
    path = str(tmp_path / "config.yaml")
    config = compose("demo", ["output_dir=runs/a", "trainer.lr=0.5"])
    config.save(tmp_path / "config.yaml")
    other = compose(path, ["output_dir=runs/b", "balancer=uniform"])
    assert (other.output_dir, other.experiment, other.trainer.lr) == ("runs/b", "demo", 0.5)
    assert other.balancer == compose("scenes").balancer
    assert sweep(path, ["seed=0,1"])[0][-1] == "output_dir='runs/demo/seed=0'"


def test_plugins_of_the_command_line_are_added_to_those_of_the_file(lab, own):
    for name in ("lab_a", "lab_b", "lab_c"):
        lab(name, STRANGER.replace("stranger", f"stranger_{name}"))
    path = own("plugins: [lab_b, lab_a]\ntrainer: {max_steps: 1}")
    config = compose(path, ["plugins=[lab_c,lab_b]", "balancer=stranger_lab_a", "balancer.must=1"])
    assert config.plugins == ("lab_b", "lab_a", "lab_c")


def test_a_balancer_comes_with_the_defaults_of_its_constructor():
    config = compose("multimnist", ["balancer=rotograd", "balancer.lr_decay=0.5"])
    defaults = {name: p.default for name, p in options_of(BALANCERS.get("rotograd")).items() if name != "tasks"}
    assert Parameter.empty not in defaults.values()
    assert config.balancer.options == defaults | {"lr_decay": 0.5}


def test_tasks_are_chosen_removed_and_added():
    chosen = compose("multimnist", ["task=density"]).task
    removed = compose("multimnist", ["~task.left"]).task
    added = compose(
        "multimnist", ["task.other.type=regression", "task.other.decoder={name: linear, dropout: 0.5}"]
    ).task
    assert list(chosen) == ["density"]
    assert list(removed) == ["right", "sum", "product", "density"]
    assert added["other"].decoder == {"name": "linear", "dropout": 0.5}


def test_nothing_but_the_result_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = compose("multimnist", ["balancer=fixed", "seed=3"])
    assert config.output_dir == "runs/multimnist_fixed_3"
    assert list(tmp_path.iterdir()) == []
    assert not GlobalHydra.instance().is_initialized()


REFUSED = {
    "unknown key": ("trainer.max_epoch=2", "trainer.max_epoch: unknown key .*'trainer.max_epoch=2'.*'max_epochs'"),
    "unknown section": (
        "trainr.lr=2",
        r"trainr: unknown key \(in the override 'trainr.lr=2'\). Did you mean 'trainer'",
    ),
    "unknown option": ("balancer.spcae=x", "balancer.spcae: balancer 'uniform' has no option 'spcae'.*mean 'space'"),
    "given by mtlkit": ("data.split=val", "data.split: data set 'multimnist' has no option 'split'"),
    "unknown balancer": ("balancer=unifrom", "balancer: there is no 'unifrom' .*mean 'uniform'"),
    "unknown task file": ("task=[dept]", "task: there is no 'dept' .*mean 'depth'"),
    "unknown task type": ("task.left.type=clasification", "task.left.type: no task is called .*mean 'classification'"),
    "unknown data set": ("data.name=multimnits", "data.name: no data set is called .*mean 'multimnist'"),
    "unknown encoder": ("model.encoder=resnet81", "model.encoder: neither an encoder nor a timm model.*resnet18"),
    "unknown decoder": ("task.left.decoder=liner", "task.left.decoder.name: no decoder .*mean 'linear'"),
    "unknown decoder option": ("task.left.decoder={name: linear, drop: 1}", "task.left.decoder.drop: decoder 'linear'"),
    "no integer": ("trainer.max_epochs=two", "trainer.max_epochs: expected an integer >= 1 or null, found 'two'"),
    "a fraction": ("seed=1.5", "seed: expected an integer >= 0 and <= 4294967295, found 1.5"),
    "more than NumPy takes": ("seed=4294967296", "seed: expected an integer >= 0 and <= 4294967295, found 4294967296"),
    "a number for a switch": ("data.augment=1", "data.augment: expected true or false, found 1"),
    "a switch for a number": ("data.workers=true", "data.workers: expected an integer >= 0, found True"),
    "saves nothing": (
        "+model={freeze: true, checkpointing: true}",
        "model.checkpointing: it saves nothing with model.freeze=true: a frozen encoder keeps no activations",
    ),
    "no choice": ("trainer.precision=fp8", "trainer.precision: expected one of fp32, bf16, fp16, fp64, found 'fp8'"),
    "one side": ("data.size=64", r"data.size: expected \[an integer >= 1, an integer >= 1\] or null, found 64"),
    "three sides": ("data.size=[64,48,3]", r"data.size: .*found \[64, 48, 3\]"),
    "no pixels": ("data.size=[0,48]", "data.size"),
    "not a number": ("trainer.lr=nan", r"trainer.lr: expected a number >= 1e-30 and <= 1000000, found nan"),
    "nested": ("data.augmentation.flip=2", "data.augmentation.flip: expected a number >= 0 and <= 1, found 2"),
    "option type": ("balancer.lr=fast", "balancer.lr: expected a number, found 'fast'"),
    "option that is not a number": ("balancer.lr=nan", "balancer.lr: expected a number, found nan .* must be finite"),
    "no number inside": ("trainer.optimizer_options={betas: [inf, 0.9]}", "trainer.optimizer_options: .* be finite"),
    "no float": (f"seed={10**400}", "seed: expected an integer >= 0 and <= 4294967295, found 1000.* must be finite"),
    "option of a task": (
        "task.left.label_smoothing=1",
        r"task.left.label_smoothing: expected a number >= 0 and < 1, found 1 \(in the override 'task.left.label_sm",
    ),
    "options that do not go together": (
        "task.left={type: depth, berhu_threshold: 2}",
        r"task.left.berhu_threshold: it belongs to loss: berhu, found loss: l1 \(in the override .*'\)\. Leave it out",
    ),
    "option of a data set": (
        "data={name: nyuv2, crop: gupa}",
        r"data.crop: expected one of eigen, gupta or null, found 'gupa' \(in .*\)\. Did you mean 'gupta'\?",
    ),
    "options of a data set that do not go together": (
        "data={name: chestxray14, split_lists: chexnet, holdout: 0.3}",
        r"data.holdout: 0.3 has no effect with split_lists: chexnet.* \(in the override .*\)\. Leave it out",
    ),
    "no section": ("trainer=5", "trainer: expected a mapping of keys, such as max_steps and max_epochs, found 5"),
    "task name": ("task.a-b.type=depth", "task.a-b: a task's name must be a Python identifier"),
    "untyped task": ("task.new.decoder=conv", "task.new.type: expected the name of a task"),
    "no task": ("task=[]", "task: missing"),
    "no end": ("trainer.max_epochs=null", "trainer.max_steps: training has no end"),
    "uneven parts": ("trainer.accumulation=3", "data.batch_size: 256 samples do not divide .*accumulation=3"),
    "step without size": ("trainer.schedule=step", "trainer.step_size: .* needs either it"),
    "weights of strangers": ("trainer.monitor=lft/accuracy", "trainer.monitor: .*left, right.*found 'lft/accuracy'"),
    "baseline of strangers": (
        "trainer.baseline={left/accuracy: 0.9, sun/mse: 2}",
        "trainer.baseline: expected <task>/<metric> with a task of left, .* found 'sun/mse'",
    ),
    "baseline of a number": ("trainer.baseline={1: 2}", r"trainer.baseline: expected a mapping .*, found \{1: 2\}"),
    "label of a number": (
        "data={name: folder, images: a, labels: {1: {type: depth, files: b}}}",
        r"data.labels.1: a name must be text, found 1 \(in .*\)\. Write it as \"1\"",
    ),
    "empty baseline": ("trainer.baseline={}", "trainer.baseline: it is empty"),
    "baseline without figures": ("trainer.baseline={left/accuracy: high}", "trainer.baseline: expected a mapping of"),
    "metric without name": ("trainer.monitor=left", "trainer.monitor: expected <task>/<metric>"),
    "no weights": ("model.pretrained=true", "model.pretrained: encoder 'lenet' takes no pretrained weights"),
    "no folder": ("output_dir=''", "output_dir: .* is empty"),
    "no value": ("data.root=???", "data.root: .*'data.root=???'".replace("???", r"\?\?\?")),
    "no reference": ("data.root=${here}", "data.root: Interpolation key 'here' not found"),
    "no override": ("balancer", "Cannot read the override 'balancer', expected key=value"),
    "a sweep": ("seed=0,1", "seed=0,1.*--multirun"),
    "of Hydra's own": ("hydra.run.dir=x", "hydra.run.dir would have no effect"),
    "another experiment": ("experiment=scenes", "experiment=scenes: the experiment is the word before"),
    "lr alone": ("lr=0.1", r"lr: unknown key \(in the override 'lr=0.1'\). Did you mean 'trainer.lr' or 'balancer.lr'"),
    "another tool's word": ("learning_rate=0.1", "learning_rate: unknown key .*mean 'trainer.lr'"),
    "epochs alone": ("epochs=3", "epochs: unknown key .*mean 'trainer.max_epochs'"),
    "of another section": ("trainer.batch_size=8", "trainer.batch_size: unknown key .*mean 'data.batch_size'"),
    "of the named class": ("dataset_seed=8", "dataset_seed: unknown key .*mean 'data.dataset_seed'"),
    "of a task": ("decoder=unet", "decoder: unknown key .*mean 'task.left.decoder'"),
    "a sweep of an unknown key": ("seeds=0,1", r"seeds=0,1: .*--multirun\. Did you mean 'seed'"),
    "a package": ("task@x=left", "task@x=left: a choice is written GROUP=NAME"),
    "unknown data": ("data=multimnits", "data: there is no 'multimnits' .*mean 'multimnist'"),
    "unknown model": ("model=resnet81", "model: there is no 'resnet81' .*resnet18"),
    "nothing to remove": ("~task.lefd", "'task.lefd' does not exist"),
}


@pytest.mark.parametrize(("override", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_any_work_with_one_message(override: str, message: str):
    with pytest.raises(ValueError, match=message) as error:
        compose("multimnist", [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.warmup_steps=10", "trainer.max_steps=10"],
            "trainer.warmup_steps: 10 is not less than .*max_steps=10",
        ),
        (
            ["trainer.monitor=left/accuracy", "trainer.baseline={left/accuracy: 0.9}"],
            "trainer.baseline: it does not go with trainer.monitor=left/accuracy",
        ),
        (
            ["trainer.normalize_losses=3", "trainer.normalize_again=2"],
            "trainer.normalize_again: 2 comes before the end of the first trainer.normalize_losses=3 steps",
        ),
        (["seed=1", "trainer.normalize_losses=0", "trainer.normalize_again=20"], "it needs trainer.normalize_losses=1"),
        (["model.encoder=resnet18", "model.image_size=[1,1]"], "model.image_size: encoder 'resnet18' has no option"),
    ],
)
def test_impossible_together(overrides: list[str], message: str):
    compose("multimnist", overrides[:1])
    with pytest.raises(ValueError, match=message):
        compose("multimnist", overrides)


@pytest.mark.parametrize(("name", "option"), [("fixed", "weights"), ("stch", "preference"), ("famo", "min_losses")])
def test_a_mapping_by_task_is_shown_with_ones_own_tasks(name: str, option: str):
    message = re.escape("expected a mapping of task names to values, each a number, such as {left: 1.0, right: 1.0}")
    with pytest.raises(ValueError, match=rf"balancer\.{option}: {message}.*found \[1, 2\]"):
        compose("multimnist", [f"balancer={name}", f"balancer.{option}=[1,2]"])


def test_an_unknown_key_of_a_file_is_found_in_its_section(own):
    with pytest.raises(ValueError, match=r"lr: unknown key \(in .*mine\.yaml\)\. Did you mean 'trainer\.lr'"):
        compose(own("lr: 0.1"))


def test_an_unknown_experiment_names_the_close_ones(own, tmp_path: Path):
    path = Path(own(""))
    with pytest.raises(LookupError, match=rf"Did you mean the file {re.escape(str(path))}\?"):
        compose(str(path.with_suffix("")))
    compose("multimnist").save(tmp_path / "config.yaml")
    with pytest.raises(LookupError, match=rf"Did you mean the file {re.escape(str(tmp_path / 'config.yaml'))}\?"):
        compose(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"There is no file .*mien\.yaml\. Did you mean 'mine\.yaml'"):
        compose(str(tmp_path / "mien.yaml"))
    with pytest.raises(ValueError, match=r"lr=0\.1: the experiment comes first"):
        compose("lr=0.1")
    with pytest.raises(LookupError, match=r"No experiment is called 'multimnits'. Did you mean 'multimnist'"):
        compose("multimnits")


@pytest.mark.parametrize("key", ["momentum=0.5", "step_size=3", "step_size_epochs=3", "gamma=0.5", "power=2"])
def test_a_setting_without_effect_is_named(key: str):
    with pytest.warns(
        UserWarning, match=re.escape(f"trainer.{key.partition('=')[0]} (in the override 'trainer.{key}')")
    ):
        compose("multimnist", [f"trainer.{key}"])


def test_ones_own_experiment_is_a_file(own):
    config = compose(own("trainer: {max_steps: 3}\nbalancer: {weights: {left: 2}}\nseed: 5", OWN_BALANCER), ["seed=6"])
    assert config.experiment == "mine"
    assert config.trainer.max_steps == 3
    assert config.balancer.options["weights"] == {"left": 2.0}
    assert config.seed == 6
    assert config.output_dir == "runs/mine_fixed_6"


OWN_BALANCER = "[/data: multimnist, /model: lenet, /task: [left, sum], override /balancer: fixed, _self_]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {max_epoch: 2}", r"trainer.max_epoch: unknown key \(in {path}\). Did you mean 'max_epochs'"),
        ("data: {size: big}", r"data.size: .*found 'big' \(in {path}\)"),
        ("data: {size: [4}", "{path} is not valid YAML"),
        ("task: {left: {loss: l1}}", r"task.left.loss: task 'classification' has no option 'loss' \(in {path}\)"),
        ("seed: 1\nseed: 2", "{path} is not valid YAML: .*duplicate"),
    ],
)
def test_an_error_names_the_file_it_comes_from(own, text: str, message: str):
    path = own(text)
    with pytest.raises(ValueError, match=re.compile(message.replace("{path}", re.escape(path)), re.DOTALL)):
        compose(path)


def test_an_error_names_the_shipped_file_it_comes_from(own):
    with pytest.raises(ValueError, match=r"data\.batch_size: .*in configs/data/multimnist\.yaml"):
        compose(own("trainer: {max_steps: 1, accumulation: 3}"))


def test_a_group_without_its_slash_is_explained(own):
    with pytest.raises(ValueError, match="groups begin with a slash: /data"):
        compose(own("", "[data: multimnist, _self_]"))
    with pytest.raises(ValueError, match=r"expected .*- /balancer: NAME.*Options are keys of the file"):
        compose(own("", "[{balancer: {name: gradnorm}}, _self_]"))
    with pytest.raises(ValueError, match=r"No match in the defaults list\. An entry of the defaults in .*mine\.yaml"):
        compose(own("", "[override balancer: gradnorm, _self_]"))
    with pytest.raises(ValueError, match=r"there is no 'nonesuch' .*Known: celeba"):
        compose(own("", "[nonesuch, _self_]"))


@pytest.mark.parametrize("word", [".", "/"])
def test_a_path_without_a_name_is_no_experiment(word: str):
    with pytest.raises(LookupError, match="No experiment is called"):
        compose(word)


def test_a_file_that_is_no_experiment(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        compose(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list.yaml: expected a mapping"):
        compose(str(tmp_path / "list.yaml"))


def test_a_run_reads_back_what_it_wrote(tmp_path: Path):
    config = compose("multimnist", ["balancer=rotograd", "data.size=[28,28]", "trainer.lr=1e-5", "output_dir=1e3x"])
    path = tmp_path / "config.yaml"
    config.save(path)
    assert read_config(path) == config
    assert list(tmp_path.iterdir()) == [path]
    path.write_text(path.read_text().replace("max_epochs", "max_epoch"))
    with pytest.raises(ValueError, match=rf"trainer.max_epoch: unknown key \(in {re.escape(str(path))}\)"):
        read_config(path)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("trainer={lr: 0.5}", "trainer.lr"),
        ("balancer={name: rotograd, burn_in: 3}", "balancer.burn_in"),
        ("balancer=uniform", "balancer.name"),
        ("++seed=5", "seed"),
    ],
)
def test_a_resumed_run_refuses_another_value_in_any_form(word: str, key: str, tmp_path: Path):
    words = ["balancer=rotograd", f"output_dir='{tmp_path}'"]
    config = compose("multimnist", words)
    config.save(tmp_path / "config.yaml")
    longer = [*words, "trainer={max_epochs: 9}"]
    assert resumed(compose("multimnist", longer), longer) == replace(
        config, trainer=replace(config.trainer, max_epochs=9)
    )
    assert resumed(compose(str(tmp_path / "config.yaml")), []) == config
    changed = [*words, word]
    with pytest.raises(ValueError, match=rf"{key}: the run in .* has"):
        resumed(compose("multimnist", changed), changed)


def test_text_that_looks_like_something_else_survives(tmp_path: Path):
    config = compose("multimnist", ["data.root='1e3'", "output_dir='null'"])
    config.save(tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml").data.root == "1e3"
    assert read_config(tmp_path / "config.yaml").output_dir == "null"


@pytest.mark.parametrize("place", ["override", "file"])
def test_a_strangers_balancer_is_used_by_name(lab, own, place: str):
    lab("my_lab", STRANGER)
    words = ["balancer=stranger", "balancer.must=3"]
    if place == "override":
        config = compose("multimnist", [*words, "plugins=[my_lab]"])
    else:
        config = compose(own("plugins: [my_lab]\ntrainer: {max_steps: 1}"), words)
    assert config.plugins == ("my_lab",)
    assert config.balancer.options == {"must": 3, "slope": 0.5}  # `callback` has no form in YAML
    with pytest.raises(ValueError, match=r"balancer\.must: missing; balancer 'stranger' needs it"):
        compose("multimnist", ["plugins=[my_lab]", "balancer=stranger"])


def test_a_missing_plugin_is_a_mistake_but_a_broken_one_shows_its_own_error(lab):
    with pytest.raises(ValueError, match=r"plugins: there is no module 'my_labb'.*the override 'plugins=\[my_labb\]'"):
        compose("multimnist", ["plugins=[my_labb]"])
    lab("broken", "import a_module_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        compose("multimnist", ["plugins=[broken]"])
    with pytest.raises(ValueError, match="plugins: expected a list of module names, found 'broken'"):
        compose("multimnist", ["plugins=broken"])


def test_a_sweep_is_every_combination_each_in_its_folder(tmp_path: Path):
    words = ["balancer=uniform,fixed", "seed=range(2)", "data.size=[28,28]", f"output_dir='{tmp_path}/a b'"]
    configs = [compose("multimnist", job) for job in sweep("multimnist", words)]
    assert [(config.balancer.name, config.seed) for config in configs] == [
        ("uniform", 0),
        ("uniform", 1),
        ("fixed", 0),
        ("fixed", 1),
    ]
    assert configs[2].output_dir == f"{tmp_path}/a b/balancer=fixed,seed=0"
    assert {config.data.size for config in configs} == {(28, 28)}


def test_a_sweep_has_one_folder():
    with pytest.raises(ValueError, match="output_dir=a,b: a sweep has one output_dir"):
        sweep("multimnist", ["output_dir=a,b", "seed=1,2"])


def test_a_sweep_over_names_of_all_balancers_and_over_tasks(monkeypatch: pytest.MonkeyPatch):
    def swept() -> list[str]:
        return [job[0].partition("=")[2] for job in sweep("multimnist", ["balancer=glob(*)"])]

    names = BALANCERS.names()
    with monkeypatch.context() as patch:
        patch.setitem(BALANCERS._classes, "short_lived", BALANCERS.get("uniform"))
        assert swept() == sorted([*names, "short_lived"])
    assert swept() == BALANCERS.names() == names
    folders = [compose("multimnist", job).output_dir for job in sweep("multimnist", ["task=[left],[right,sum]"])]
    assert folders == ["runs/multimnist/task=_left_", "runs/multimnist/task=_right,sum_"]


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (1, float, 1.0),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ((1, 2), list[int], [1, 2]),
        ([1, 2], Sequence[int], [1, 2]),
        (None, int | None, None),
        ({"a": 1}, Mapping[str, float] | None, {"a": 1.0}),
        ("x", Literal["x", "y"], "x"),
        (0, Annotated[float, Bound(0, 1, open_high=True)], 0.0),
        ("file", bool | str | Path, "file"),
        (object, Parameter | None, object),  # only the constructor can judge this value
        ("x", "an unresolved annotation", "x"),
    ],
)
def test_a_value_takes_its_annotations_form(value: Any, annotation: Any, result: Any):
    fitted = convert(value, annotation)
    assert fitted == result
    assert type(fitted) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (True, float),
        (1, bool),
        (1, str),
        (1.0, int),
        ("12", list[str]),
        ([1, "a"], list[int]),
        ([1], tuple[int, int]),
        ({"a": "b"}, Mapping[str, float]),
        ({1: 1.0}, Mapping[str, float]),
        (float("nan"), float),
        (float("inf"), float | None),
        (10**400, float),
        ({"a": [float("nan")]}, Mapping[str, Any]),
        ("z", Literal["x", "y"]),
        (True, Literal[1]),
        (None, int),
        (float("inf"), Annotated[float, Bound(0)]),
        (0, Annotated[float, Bound(0, open=True)]),
        (1, Annotated[float, Bound(0, 1, open_high=True)]),
    ],
)
def test_a_misfit_is_refused(value: Any, annotation: Any):
    with pytest.raises(MisfitError):
        convert(value, annotation)


def test_a_dataclass_may_refuse_values_and_the_message_gets_their_key_and_source():
    @dataclass
    class Limits:
        low: float = 0.0
        high: float = 1.0

        def __post_init__(self) -> None:
            if self.low == self.high:
                raise OptionError("high", "it is low, too", "Set it higher.")
            if self.low > self.high:
                raise ValueError("low is above high.")

    source = Source("mine.yaml", {"range.high": "a word"})
    with pytest.raises(ValueError, match=r"^range: low is above high \(in mine.yaml\)\.$"):
        to_dataclass(Limits, {"low": 2}, "range", source)
    with pytest.raises(ValueError, match=r"^range\.high: it is low, too \(in a word\)\. Set it higher\.$"):
        to_dataclass(Limits, {"low": 1}, "range", source)
    with pytest.raises(ValueError, match=r"^high: it is low, too\. Set it higher\.$"):
        to_dataclass(Limits, {"low": 1}, "", Source(""))


@pytest.mark.parametrize(
    "path", ["~x", "/data/日本語", "runs/lr=0.1", "/My Data (1)", "it's", "2024", "true", "1e3", "a/[1]", "#1", "a b"]
)
def test_a_path_is_taken_as_it_was_typed(path: str) -> None:
    words = [f"data.root={path}", f"output_dir={path}", f"model.pretrained={path}/x.pt"]
    config = compose("scenes", ["model.encoder=resnet18", *words])
    assert (config.data.root, config.output_dir, config.model.pretrained) == (path, path, f"{path}/x.pt")


def test_a_path_may_be_quoted_or_absent_or_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = compose("scenes", ["data.root='a=b'", "output_dir=~/runs/日本", "seed=3"])
    assert (config.data.root, config.output_dir) == ("a=b", "/home/me/runs/日本")
    assert compose("scenes", ["data.root=null"]).data.root is None
    with pytest.raises(
        ValueError, match=r"seed: expected an integer >= 0 and <= 4294967295, found '~x'|Cannot read the override"
    ):
        compose("scenes", ["seed=~x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: 3", r"mine\.yaml: defaults: expected a list, such as \[nyuv2\], found 3"),
        ("3", r"mine\.yaml: expected a mapping of keys, found a single value"),
        ("a: " + "[" * 5000, r"mine\.yaml is not valid YAML for mtlkit: its values are nested"),
        ("balancer: [2]", r"balancer\.name: expected the name of a balancer, found \[2\]"),
        ("trainer: {encoder_lr: 1e300}", r"trainer\.encoder_lr: expected a number >= 1e-30 and <= 1000000"),
        ("trainer: {clip_norm: 1e-300}", r"trainer\.clip_norm: expected a number >= 1e-30 and <= 1e\+30"),
        ("trainer: {weight_decay: 1e300}", r"trainer\.weight_decay: expected a number >= 0 and <= 1000000"),
    ],
)
def test_absurd_values_get_a_message(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(f"{text}\n")
    with pytest.raises(ValueError, match=message):
        compose(str(tmp_path / "mine.yaml"))
