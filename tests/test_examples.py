"""The examples of docs/examples run, and training through each framework gives the engine's numbers."""

import ast
import math
import re
import runpy
import textwrap
from pathlib import Path

import accelerate_worker
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from loops import Loop, Net, engine_state
from pages import PAGES, REPOSITORY, page_of
from safetensors.torch import load_file
from test_distributed import launch
from tolerances import NETWORK, SINGLE_SUM
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, SequentialSampler

import mtlkit

EXAMPLES = REPOSITORY / "docs/examples"
NEEDED = {"lightning_module": "lightning", "fabric_loop": "lightning", "hf_trainer": "transformers"}
METHODS = [
    ("rotograd", {}),
    ("mgda", {}),  # each head gets its own weight
    ("uncertainty", {}),
    ("famo", {}),  # looks at the batch once more when the optimizer has stepped
    ("pcgrad", {"space": "parameters"}),
]
STEPS = 10

#: Lightning asks torch for a class that torch deprecates.
LIGHTNING = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")


def installed(name: str):
    return pytest.importorskip(name, reason=f"{name} is not installed (pip install 'mtlkit[examples]')")


@pytest.fixture(autouse=True)
def _accelerate():
    """Accelerate's state is common to a process: a loader of another test may be at its end, which ends windows."""
    GradientState._reset_state()


# ---- the files


@LIGHTNING
@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "side_by_side"))
def test_an_example_runs_and_learns(name, tmp_path, monkeypatch, capsys):
    if name in NEEDED:
        installed(NEEDED[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    found = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    # Half of what the best constant prediction has: log 3, and the variances of sin(sum of two normal numbers), which
    # is (1 - exp(-4)) / 2, and of the mean of three uniform numbers.
    constant = {"color": math.log(3), "distance": (1 - math.exp(-4)) / 2, "light": 1 / 36}
    losses = {key.removeprefix("loss/"): value for key, value in found.items() if key.startswith("loss/")}
    assert len(losses) == 2
    for task, loss in losses.items():
        assert loss < constant[task] / 2, task
        assert {f"weight/{task}", f"grad_norm/{task}"} <= found.keys()


def quotes():
    """Yields the quotations of examples in the pages, in pieces: a line `...` stands for lines that were left out."""
    for page in PAGES:
        for file, text in re.findall(r"```py\n# (docs/\S+)\n(.*?)```", page_of(page), re.DOTALL):
            for number, piece in enumerate(re.split(r"^\.\.\.\n", text, flags=re.MULTILINE)):
                yield pytest.param(file, piece, id=f"{page}-{Path(file).stem}-{number}")


@pytest.mark.parametrize(("file", "piece"), list(quotes()))
def test_the_pages_quote_what_the_examples_say(file, piece):
    lines, wanted = page_of(file).splitlines(), textwrap.dedent(piece).splitlines()
    assert len(wanted) > 1
    places = range(len(lines) - len(wanted) + 1)
    assert wanted in [textwrap.dedent("\n".join(lines[i : i + len(wanted)])).splitlines() for i in places]


def test_the_pages_quote_every_example():
    quoted = set(re.findall(r"```py\n# (\S+)\n", page_of("docs/how_to/own_loop.md")))
    assert quoted == {f"docs/examples/{path.name}" for path in EXAMPLES.glob("*.py")}


def test_the_counted_passes_are_those_of_the_page(capsys):
    runpy.run_path(str(EXAMPLES / "side_by_side.py"), run_name="__main__")
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 7
    for row in rows:
        assert row in page_of("docs/how_to/own_loop.md").splitlines() or row.endswith("is not installed | | |")


def test_accelerate_on_two_processes_is_accelerate_on_one(tmp_path):
    """The example itself, with its checkpoint: the batches are joined, and so are their labels."""
    saved = []
    for world in (1, 2):
        launch(world, str(EXAMPLES / "accelerate_loop.py"), str(tmp_path / str(world)))
        saved.append(load_file(tmp_path / str(world) / "model.safetensors"))
    one, two = saved
    assert one.keys() == two.keys()
    assert int(one["balanced.number"]) == int(two["balanced.number"]) == 5 * 512 // 32
    torch.testing.assert_close(two, one, rtol=SINGLE_SUM, atol=SINGLE_SUM)


@pytest.fixture(scope="module")
def processes(once):
    """What `accelerate_worker.py` stored with one process and with two."""

    def make(folder: Path) -> None:
        for world in (1, 2):
            launch(world, str(Path(__file__).parent / "accelerate_worker.py"), str(folder / f"{world}.pt"))

    folder = once("accelerate", make)
    return [torch.load(folder / f"{world}.pt") for world in (1, 2)]


@pytest.mark.parametrize("method", accelerate_worker.METHODS)
def test_two_processes_on_half_batches_are_one_on_whole_ones(processes, method):
    one, two = (found[method] for found in processes)
    torch.testing.assert_close(two["state"], one["state"], rtol=NETWORK, atol=NETWORK, equal_nan=True)
    assert len(one["figures"]) == len(two["figures"]) == 10
    for a, b in zip(one["figures"], two["figures"], strict=True):
        assert b == pytest.approx(a, rel=NETWORK, abs=NETWORK)
    assert "loss/depth" in one["figures"][2]


# ---- ten steps through a framework are ten steps of the engine


def with_accelerate(loop, follow, batches, accumulation, folder):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    net, optimizer = accelerator.prepare(loop.net, loop.optimizer)
    follow(optimizer)
    for batch in batches:
        with accelerator.accumulate(net):
            outputs, losses = loop.losses(batch, forward=net)
            accelerator.backward(loop.balanced.loss(losses, **loop.extras(batch, outputs)))
            optimizer.step()
            optimizer.zero_grad()


QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def lightning_module(lightning, loop, follow):

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = loop.net

        def training_step(self, batch):
            outputs, losses = loop.losses(batch, forward=self.net)
            return loop.balanced.loss(losses, **loop.extras(batch, outputs))

        def validation_step(self, batch):
            self.log("sum", loop.balanced.loss(loop.losses(batch, forward=self.net)[1]), batch_size=8)

        def configure_optimizers(self):
            follow(loop.optimizer)
            return loop.optimizer

    return Lit()


def with_lightning(loop, follow, batches, accumulation, folder):
    lightning = installed("lightning")
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulation, val_check_interval=accumulation, **QUIET
    )
    loader, first = (DataLoader(data, batch_size=None) for data in (batches, batches[:1]))
    trainer.fit(lightning_module(lightning, loop, follow), loader, first)


def with_fabric(loop, follow, batches, accumulation, folder):
    installed("lightning")
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    net, optimizer = fabric.setup(loop.net, loop.optimizer)
    follow(optimizer)
    for number, batch in enumerate(batches, 1):
        complete = number % accumulation == 0
        with fabric.no_backward_sync(net, enabled=not complete):
            outputs, losses = loop.losses(batch, forward=net)
            fabric.backward(loop.balanced.loss(losses, **loop.extras(batch, outputs)) / accumulation)
        if complete:
            optimizer.step()
            optimizer.zero_grad()


def trainer_of(loop, follow, batches, folder, **options):
    transformers = installed("transformers")

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs, losses = loop.losses(inputs, forward=model)
            extras = loop.extras(inputs, outputs) if torch.is_grad_enabled() else {}
            loss = loop.balanced.loss(losses, **extras)
            return (loss, outputs) if return_outputs else loss

        def create_optimizer(self, *args):
            optimizer = super().create_optimizer(*args)
            follow(optimizer)
            return optimizer

        def _get_train_sampler(self, *_):
            return SequentialSampler(batches)

    args = transformers.TrainingArguments(
        folder,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        max_grad_norm=0,
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["targets"],
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    return Trainer(
        loop.net,
        args,
        data_collator=lambda items: items[0],  # an item is a batch
        train_dataset=batches,
        eval_dataset=batches[:1],
        optimizers=(loop.optimizer, LambdaLR(loop.optimizer, lambda _: 1.0)),
    )


def with_trainer(loop, follow, batches, accumulation, folder):
    options = {"gradient_accumulation_steps": accumulation, "save_strategy": "no"}
    trainer = trainer_of(loop, follow, batches, folder, max_steps=STEPS, eval_strategy="steps", eval_steps=2, **options)
    trainer.train()


def with_grad_scaler(loop, follow, batches, accumulation, folder):
    """Every third step overflows, and the scaler skips it: it is as if it had not been."""
    follow(loop.optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for number, micro in enumerate(micro_batches(batches, accumulation)):
        for factor in (torch.inf, 1.0) if number % 3 == 1 else (1.0,):
            for batch in micro:
                loop.backward(batch, accumulation, backward=lambda loss, f=factor: (scaler.scale(loss) * f).backward())
            scaler.step(loop.optimizer)
            scaler.update()
            loop.optimizer.zero_grad()


def micro_batches(batches, number):
    return [batches[start : start + number] for start in range(0, len(batches), number)]


def batches_of(toys, number):
    """Some lack all labels of a task, or those of some samples."""
    made = [toys.make_batch(i) for i in range(number)]
    made[3] = toys.without(made[3], "depth")
    made[4] = toys.without(toys.without(made[4], "depth"), "attributes")
    made[6] = toys.without(made[6], "segmentation", rows=slice(4))
    return made


@LIGHTNING
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=[name for name, _ in METHODS])
@pytest.mark.parametrize("train", [with_accelerate, with_lightning, with_fabric, with_trainer, with_grad_scaler])
def test_ten_steps_are_those_of_the_engine(toys, train, method, options, accumulation, tmp_path):
    batches = batches_of(toys, STEPS * accumulation)
    engine = toys.make_engine(method, options=options, accumulation=accumulation)
    loop = Loop(engine, method, options)
    found, expected = [], []

    def follow(optimizer):
        loop.balanced.follow(optimizer)
        record = loop.optimizer.register_step_post_hook  # after the hook of Balanced
        record(lambda *_: found.append({key: value.clone() for key, value in loop.state().items()}))

    for micro in micro_batches(batches, accumulation):  # first, for all of Accelerate in a process shares its settings
        for batch in micro:
            engine.train_step(batch)
        expected.append(engine_state(engine))
    train(loop, follow, batches, accumulation, tmp_path)
    assert len(found) == len(expected) == loop.balanced.number == STEPS
    for ours, theirs in zip(expected, found, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value.nan_to_num(7), theirs[name].nan_to_num(7)), name


# ---- checkpoints


def loops(toys, number):
    """Returns loops with one start, and what each of them follows its optimizer with."""
    engine = toys.make_engine("rotograd")
    made = [Loop(engine, "rotograd") for _ in range(number)]
    return [(loop, loop.balanced.follow) for loop in made]


def assert_equal_loops(one, other):
    assert one.balanced.number == other.balanced.number == 6
    torch.testing.assert_close(one.state(), other.state(), rtol=0, atol=0)
    torch.testing.assert_close(one.balanced.state_dict(), other.balanced.state_dict(), rtol=0, atol=0)


@LIGHTNING
def test_a_run_that_lightning_resumes_is_one_without_a_break(toys, tmp_path):
    lightning = installed("lightning")
    loader = DataLoader([toys.make_batch(0), toys.make_batch(1)], batch_size=None)  # an epoch
    (whole, *_), (first, *_), (second, *_) = every = loops(toys, 3)
    for (loop, follow), steps, start in zip(every, (6, 4, 6), (None, None, tmp_path / "a.ckpt"), strict=True):
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=steps // 2, **QUIET)
        trainer.fit(lightning_module(lightning, loop, follow), loader, loader, ckpt_path=start)
        if loop is first:
            trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert_equal_loops(whole, second)


def test_a_run_that_the_trainer_resumes_is_one_without_a_break(toys, tmp_path):
    (whole, *_), _, (second, *_) = every = loops(toys, 3)
    for (loop, follow), steps, resume in zip(every, (6, 4, 6), (False, False, True), strict=True):
        folder = tmp_path / ("whole" if loop is whole else "parts")
        options = {"max_steps": steps, "save_strategy": "steps", "save_steps": 4}
        trainer = trainer_of(loop, follow, [toys.make_batch()] * 6, folder, **options)
        trainer.train(resume_from_checkpoint=resume)
    assert_equal_loops(whole, second)


# ---- torch.compile


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's compiler
@pytest.mark.parametrize("method", ["rotograd", "mgda"])  # one with adapters, one that weighs the heads
@pytest.mark.parametrize("way", ["parts", "whole"])
def test_a_compiled_model_has_the_same_numbers(method, way):
    x, target = torch.rand(3, 8, 5), torch.rand(3, 8, 1)
    nets = []
    for compiled in (False, True):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        heads = {name: nn.Linear(6, 1) for name in ("a", "b")}
        told = {"heads": heads} if compiled and way == "whole" else {}  # compiled together, they cannot be told apart
        balanced = mtlkit.Balanced(method, tasks=("a", "b"), features=6, **told)
        net = Net(encoder, balanced, heads)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        balanced.follow(optimizer)
        if compiled:
            for module in (net,) if way == "whole" else (encoder, *heads.values()):
                module.compile(backend="aot_eager")
        for step in range(3):
            losses = {name: (output - target[step]).square().mean() for name, output in net(x[step]).items()}
            balanced.loss(losses).backward()
            optimizer.step()
            optimizer.zero_grad()
        nets.append(net)
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict(), rtol=SINGLE_SUM, atol=SINGLE_SUM)
    assert nets[0].balanced.number == 3
