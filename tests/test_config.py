import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from mtlkit.balancer import BALANCERS
from mtlkit.config import compose, load, sweep
from mtlkit.registry import options_of
from mtlkit.typed import Bound, MisfitError, fit

EXPERIMENTS = sorted(
    file.stem for file in Path(str(importlib.resources.files("mtlkit.configs"))).glob("experiment/*.yaml")
)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    """Writes a user's own experiment, on top of multimnist's parts."""

    def write(text: str, parts: str = "[/data: multimnist, /model: lenet, /task: [left, sum], _self_]") -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(f"defaults: {parts}\n{text}", encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes modules of a stranger's; what they register is forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    BALANCERS.names()  # the installed plug-ins are there before
    before = dict(BALANCERS._classes)
    modules = set(sys.modules)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    for name in set(BALANCERS._classes) - set(before):
        ConfigStore.instance().repo["balancer"].pop(f"{name}.yaml", None)
    BALANCERS._classes.clear()
    BALANCERS._classes.update(before)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


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
def test_every_shipped_experiment_composes(experiment: str):
    config = compose(experiment)
    assert config.experiment == experiment
    assert config.task


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
    "a fraction": ("seed=1.5", "seed: expected an integer >= 0, found 1.5"),
    "a number for a switch": ("data.augment=1", "data.augment: expected true or false, found 1"),
    "a switch for a number": ("data.workers=true", "data.workers: expected an integer >= 0, found True"),
    "no choice": ("trainer.precision=fp8", "trainer.precision: expected one of fp32, bf16, fp16, fp64, found 'fp8'"),
    "one side": ("data.size=64", r"data.size: expected \[an integer >= 1, an integer >= 1\] or null, found 64"),
    "three sides": ("data.size=[64,48,3]", r"data.size: .*found \[64, 48, 3\]"),
    "no pixels": ("data.size=[0,48]", "data.size"),
    "not a number": ("trainer.lr=nan", "trainer.lr: expected a number > 0, found nan"),
    "nested": ("data.augmentation.flip=2", "data.augmentation.flip: expected a number >= 0 and <= 1, found 2"),
    "option type": ("balancer.lr=fast", "balancer.lr: expected a number, found 'fast'"),
    "no section": ("trainer=5", "trainer: expected a mapping, found 5"),
    "task name": ("task.a-b.type=depth", "task.a-b: a task's name must be a Python identifier"),
    "untyped task": ("task.new.decoder=conv", "task.new.type: expected the name of a task"),
    "no task": ("task=[]", "task: missing"),
    "no end": ("trainer.max_epochs=null", "trainer.max_steps: training has no end"),
    "uneven parts": ("trainer.accumulation=3", "data.batch_size: 256 samples do not divide .*accumulation=3"),
    "step without size": ("trainer.schedule=step", "trainer.step_size: .* needs either it"),
    "weights of strangers": ("trainer.monitor=lft/accuracy", "trainer.monitor: .*left, right.*found 'lft/accuracy'"),
    "metric without name": ("trainer.monitor=left", "trainer.monitor: expected <task>/<metric>"),
    "no weights": ("model.pretrained=true", "model.pretrained: encoder 'lenet' takes no pretrained weights"),
    "no folder": ("output_dir=''", "output_dir: .* is empty"),
    "no value": ("data.root=???", "data.root: .*'data.root=???'".replace("???", r"\?\?\?")),
    "no reference": ("data.root=${here}", "data.root: Interpolation key 'here' not found"),
    "no override": ("balancer", "Cannot read the override 'balancer', expected key=value"),
    "a sweep": ("seed=0,1", "seed=0,1.*--multirun"),
    "of Hydra's own": ("hydra.run.dir=x", "hydra.run.dir would have no effect"),
    "another experiment": ("experiment=scenes", "experiment=scenes: the experiment is the word before"),
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
        (["model.encoder=resnet18", "model.image_size=[1,1]"], "model.image_size: encoder 'resnet18' has no option"),
    ],
)
def test_impossible_together(overrides: list[str], message: str):
    compose("multimnist", overrides[:1])
    with pytest.raises(ValueError, match=message):
        compose("multimnist", overrides)


def test_an_unknown_experiment_names_the_close_ones():
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
    assert load(path) == config
    assert list(tmp_path.iterdir()) == [path]
    path.write_text(path.read_text().replace("max_epochs", "max_epoch"))
    with pytest.raises(ValueError, match=rf"trainer.max_epoch: unknown key \(in {re.escape(str(path))}\)"):
        load(path)


def test_text_that_looks_like_something_else_survives(tmp_path: Path):
    config = compose("multimnist", ["data.root='1e3'", "output_dir='null'"])
    config.save(tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml").data.root == "1e3"
    assert load(tmp_path / "config.yaml").output_dir == "null"


@pytest.mark.parametrize("place", ["override", "file"])
def test_a_strangers_balancer_is_used_by_name(lab, own, place: str):
    lab("my_lab", STRANGER)
    words = ["balancer=stranger", "balancer.must=3"]
    if place == "override":
        config = compose("multimnist", [*words, "plugins=[my_lab]"])
    else:
        config = compose(own("plugins: [my_lab]\ntrainer: {max_steps: 1}"), words)
    assert config.plugins == ("my_lab",)
    assert config.balancer.options == {"must": 3, "slope": 0.5}  # `callback` is beyond YAML
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


def test_a_sweep_over_names_of_all_balancers_and_over_tasks():
    jobs = sweep("multimnist", ["balancer=glob(*)"])
    assert [job[0].partition("=")[2] for job in jobs] == BALANCERS.names()
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
        ("file", bool | str | Path, "file"),
        (object, Parameter | None, object),  # what only the constructor can judge
        ("x", "an unresolved annotation", "x"),
    ],
)
def test_a_value_takes_its_annotations_form(value: Any, annotation: Any, result: Any):
    fitted = fit(value, annotation)
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
        ("z", Literal["x", "y"]),
        (True, Literal[1]),
        (None, int),
        (float("inf"), Annotated[float, Bound(0)]),
        (0, Annotated[float, Bound(0, open=True)]),
    ],
)
def test_a_misfit_is_refused(value: Any, annotation: Any):
    with pytest.raises(MisfitError):
        fit(value, annotation)
