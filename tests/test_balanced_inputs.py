"""`mtlkit.Balanced` says what is wrong and what to do, and takes features of every form."""

import re

import pytest
import torch
from loops import Loop
from tolerances import SINGLE, SINGLE_SUM
from torch import nn

import mtlkit
from mtlkit import BALANCERS, EncoderInfo
from mtlkit.errors import StepError


class Small:
    """A linear encoder, two linear heads and an optimizer."""

    def __init__(self, method="mgda", tasks=("a", "b"), width=6, follow=True, **options):
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, 1) for name in tasks})
        self.optimizer = torch.optim.SGD([*self.encoder.parameters(), *self.heads.parameters()], lr=0.1)
        self.balanced = mtlkit.Balanced(method, tasks=tasks, **options)
        if follow:
            self.balanced.follow(self.optimizer)
        self.x = torch.rand(8, 3)

    def features(self):
        return self.balanced(self.encoder(self.x))

    def losses(self, z=None):
        return {n: self.heads[n](own).square().mean() for n, own in (z or self.features()).items()}

    def step(self):
        self.balanced.loss(self.losses()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def refused(*words):
    return pytest.raises(ValueError, match=".*".join(re.escape(word) for word in words))


# -- the constructor ----------------------------------------------------------------------------------------------


def make(method="mgda", tasks=("a", "b"), **options):
    return mtlkit.Balanced(method, tasks=tasks, **options)


def test_unknown_methods_and_options_have_close_matches():
    with pytest.raises(LookupError, match=r"No balancer is called 'rotogard'\. Did you mean 'rotograd'"):
        make("rotogard")
    with refused("Neither 'mgda' nor mtlkit.Balanced has an option 'encodr'. Did you mean 'encoder'"):
        make(encodr=nn.Linear(3, 4))
    with refused("rotograd", "has an option 'burnin'. Did you mean 'burn_in'"):
        make("rotograd", features=4, burnin=3)
    with refused("does not work in the space 'parameter'. Did you mean 'parameters'"):
        make(space="parameter")


def test_tasks_are_names_or_kinds():
    with refused("needs a tuple of task names, such as ('a',)"):
        make(tasks="a")
    with refused("at least one task and distinct names"):
        make(tasks=())
    with refused("The kind of task 'a' is 'regresion'. Did you mean 'regression'"):
        make(tasks={"a": "regresion", "b": "classification"})


def test_a_method_that_asks_for_kinds_gets_them_or_says_so():
    with refused(
        "uncertainty asks for the `regression` of task 'a'", "tasks={...}", "'regression' or 'classification'"
    ):
        make("uncertainty")
    factors = make("uncertainty", tasks={"a": "regression", "b": "classification"}).balancer.factors
    assert factors == {"a": 0.5, "b": 1.0}
    assert make("uncertainty", likelihood="gaussian").balancer.factors == {"a": 0.5, "b": 0.5}  # no kind is asked for


@pytest.mark.parametrize("method", ["rotograd", "rotograd_procrustes", "d_grad", "adversarial"])
def test_the_number_of_channels_may_be_told_or_found(method):
    """A method that is set up in the first forward pass has the same start as one that was told before."""
    untold, told = make(method), make(method, features=[2, 4])
    assert len(untold.state_dict()) < len(told.state_dict())
    levels = [torch.rand(8, 2, 3, 3, requires_grad=True), torch.rand(8, 4, requires_grad=True)]
    for balanced in (untold, told):
        balanced(levels)
    assert untold.state_dict().keys() == told.state_dict().keys()
    assert all(torch.equal(value, told.state_dict()[key]) for key, value in untold.state_dict().items())
    with refused("have the channels 2, but the method was set up for 2, 4", "Pass features= to mtlkit.Balanced"):
        untold(levels[0])
    for wrong in (0, 2.5, True, "4", [3, -1]):
        with refused("features must be a number of channels, such as 512, or one per level, got"):
            make(method, features=wrong)


def test_a_state_that_is_loaded_before_the_first_forward_pass():
    told, features = make("rotograd", features=4, seed=1), torch.rand(8, 4, requires_grad=True)
    state = told.state_dict()
    untold = make("rotograd")
    untold.load_state_dict(state)
    assert untold.state_dict().keys() == state.keys()  # it can be saved again
    untold(features)
    assert all(torch.equal(value, state[key]) for key, value in untold.state_dict().items())
    untold = make("rotograd")
    untold.load_state_dict({key: value for key, value in state.items() if "rotation" not in key})
    with pytest.raises(RuntimeError, match=r"Missing key.*rotation\.a"):
        untold(features)


def test_the_encoder_may_tell_its_channels():
    class Told(nn.Linear):  # as timm's networks with `features_only`
        class feature_info:  # noqa: N801
            @staticmethod
            def channels():
                return [2, 4]

    assert make("rotograd", encoder=Told(2, 2)).balancer.rotation["a"].shape == (4, 4)
    own = mtlkit.ENCODERS.build("lenet")
    assert make("rotograd", encoder=own).balancer.rotation["a"].shape == (own.info.channels[-1],) * 2


def test_spaces_of_parameters_need_the_encoder():
    with refused("moco compares gradients in the space 'parameters'", "encoder=YOUR_ENCODER"):
        make("moco")
    with refused("none of them is trainable"):
        make("moco", encoder=nn.Linear(3, 4).requires_grad_(False))
    with refused("encoder must be a torch.nn.Module, got list"):
        make("moco", encoder=[nn.Linear(3, 4)])
    with refused("torch.nn.DataParallel"):
        make("moco", encoder=nn.DataParallel(nn.Linear(3, 4)))
    encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4))
    with refused("last shared layer's weight. Pass last_layer="):
        make("gradnorm", space="last_layer", encoder=encoder)
    with refused("The encoder has no module '3'"):
        make("gradnorm", space="last_layer", encoder=encoder, last_layer="3")
    with refused("It needs a trainable `weight`"):
        make("gradnorm", space="last_layer", encoder=encoder, last_layer="1")
    for layer in ("2", encoder[2]):
        make("gradnorm", space="last_layer", encoder=encoder, last_layer=layer)


def test_heads_fit_the_tasks():
    with refused("heads has 'c', which is no task"):
        make(heads={"a": nn.Linear(1, 1), "c": nn.Linear(1, 1)})
    with refused("heads has no module for task 'b'"):
        make(heads={"a": nn.Linear(1, 1)})
    with refused("heads must be a mapping from task to torch.nn.Module"):
        make(heads=[nn.Linear(1, 1)])


def test_late_modules_are_for_the_engine(toys):
    with refused("shares a late module behind the features, which only mtlkit's own engine can balance"):
        make(encoder=toys.ToyLateEncoder())


# -- the loop -----------------------------------------------------------------------------------------------------


def test_a_loop_that_forgets_to_follow():
    small = Small(follow=False)
    with refused("Call balanced.follow(optimizer) once"):
        small.balanced.loss(small.losses())


def test_the_optimizer_must_hold_the_encoder():
    small = Small(follow=False)
    with refused("balanced.follow needs a torch optimizer, got str"):
        small.balanced.follow("adam")
    heads = torch.optim.SGD(small.heads.parameters(), lr=0.1)
    small.balanced.follow(heads)
    with refused("holds none of the parameters that made the features"):
        small.balanced.loss(small.losses())
    known = make(encoder=small.encoder)
    with refused("This optimizer holds no parameter of the encoder"):
        known.follow(heads)


def test_the_features_must_come_from_the_encoder_that_was_passed():
    small = Small("pcgrad", space="parameters", encoder=nn.Linear(3, 6), follow=False)
    optimizer = torch.optim.SGD([*small.encoder.parameters(), *small.balanced._steps.encoder.parameters()], lr=0.1)
    small.balanced.follow(optimizer)
    with refused("were not made by the encoder that mtlkit.Balanced was given"):
        small.balanced.loss(small.losses())


def test_one_loss_per_forward_and_one_backward_per_loss():
    small = Small()
    with refused("needs a forward pass of its own: call balanced(features) before it"):
        small.balanced.loss({"a": torch.ones((), requires_grad=True)})
    losses = small.losses()
    loss = small.balanced.loss(losses)
    with refused("needs a forward pass of its own: call balanced(features) before it, once per call"):
        small.balanced.loss(losses)
    loss.backward(retain_graph=True)
    with refused("The backward pass of this loss ran already. Call `backward` once"):
        loss.backward()


def test_a_forward_pass_that_another_one_followed():
    small = Small()
    first = small.features()
    small.features()
    with refused("The loss of task 'a'", "the last forward pass"):
        small.balanced.loss(small.losses(first))


def test_retained_graphs_change_nothing():
    plain, kept = Small("rotograd", features=6), Small("rotograd", features=6)
    plain.balanced.loss(plain.losses()).backward()
    kept.balanced.loss(kept.losses()).backward(retain_graph=True)
    for one, two in zip(plain.encoder.parameters(), kept.encoder.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_aliases_are_used_once_each():
    small = Small()
    z = small.features()
    with refused("The loss of task 'b' uses balanced(...)['a'], the features of another task"):
        small.balanced.loss({"a": small.heads["a"](z["a"]).mean(), "b": small.heads["b"](z["a"]).mean()})
    with refused("The loss of task 'b' uses balanced(...)['a']"):
        small.balanced.loss({"a": small.heads["a"](z["a"]).mean(), "b": (z["a"] + z["b"]).mean()})


def test_a_loss_must_depend_on_the_features_of_its_task():
    small = Small()
    z = small.features()
    head = {n: small.heads[n](own).mean() for n, own in z.items()}
    with refused("The loss of task 'b' has no gradient, so nothing would be learned"):
        small.balanced.loss({"a": head["a"], "b": head["b"].detach()})
    with refused("The loss of task 'b' does not depend on balanced(...)['b'] of the last forward pass"):
        small.balanced.loss({"a": head["a"], "b": small.heads["b"](torch.rand(8, 6)).mean()})
    features = small.encoder(small.x)
    z = small.balanced(features)
    with refused("The loss of task 'b' uses the shared features themselves", "Give the head balanced(...)['b']"):
        small.balanced.loss({"a": small.heads["a"](z["a"]).mean(), "b": small.heads["b"](features).mean()})


def test_losses_have_a_form():
    small = Small()
    z = small.features()
    good = {n: small.heads[n](own).mean() for n, own in z.items()}
    with refused("The losses must be a mapping from task to loss, got a list"):
        small.balanced.loss([*good.values()])
    with refused("There is a loss of 'aa', which is no task. Did you mean 'a'"):
        small.balanced.loss(good | {"aa": good["a"]})
    with refused("The loss of task 'a' must be a scalar tensor", "got a tensor of shape (8, 1). Take .mean()"):
        small.balanced.loss({"a": small.heads["a"](z["a"])})
    with refused("The loss of task 'a'", "got float 1.5"):
        small.balanced.loss({"a": 1.5})
    with refused("The loss of task 'a'", "the number is a tensor of shape (8,). Write valid.sum()"):
        small.balanced.loss({"a": (good["a"], torch.ones(8))})
    with refused("the number has a gradient. Was it the sum"):
        small.balanced.loss({"a": (torch.ones(()), good["a"])})
    with pytest.raises(StepError, match="loss of task 'a' is nan at step 0"):
        small.balanced.loss({"a": good["a"] * torch.nan, "b": good["b"]})


def test_evaluation_records_nothing_and_both_calls_run_alike():
    small = Small("rotograd", features=6)
    small.step()
    before = {key: value.clone() for key, value in small.balanced.state_dict().items()}
    with torch.no_grad():
        z = small.features()
        expected = {n: small.balanced.balancer.adapter(n, [small.encoder(small.x)])[0] for n in z}
        for name, own in z.items():  # one product for all tasks rounds in another order than one per task
            torch.testing.assert_close(own, expected[name])
        loss = small.balanced.loss(small.losses(z))
        assert not loss.requires_grad
    for key, value in small.balanced.state_dict().items():
        assert torch.equal(value, before[key])
    losses = small.losses()
    with torch.no_grad(), refused("balanced(features) ran with gradients, but balanced.loss(...) runs without"):
        small.balanced.loss({n: loss.detach() for n, loss in losses.items()})
    with torch.no_grad():
        small.features()  # a look at the side leaves the pass as it is
    small.balanced.loss(losses).backward()


def test_features_without_a_gradient():
    small = Small()
    small.encoder.requires_grad_(False)
    with refused("The shared features need no gradient, so there is nothing to balance"):
        small.features()


def test_what_a_method_needs_and_what_it_does_not_use():
    small = Small("famo")
    with refused("FAMO looks at the losses of the same batch once more", "again=lambda: losses_of(batch)"):
        small.balanced.loss(small.losses())
    small = Small("dtp")
    with refused("needs to know how well each task does on the batch", "indicators={task: share of right answers}"):
        small.balanced.loss(small.losses())
    with refused("There is an indicator of 'c', which is no task"):
        small.balanced.loss(small.losses(), indicators={"c": 0.5})
    with refused("The indicator of task 'a' is 1.5. It must be in [0, 1]"):
        small.balanced.loss(small.losses(), indicators={"a": 1.5})
    small.balanced.loss(small.losses(), indicators={}).backward()  # exp(-loss) for all
    small = Small("mgda")
    with refused("MGDA does not use again=. Leave it out"):
        small.balanced.loss(small.losses(), again=dict)
    small = Small("dwa")
    with refused("DynamicWeightAverage reads the number of the epoch", "steps_per_epoch=N"):
        small.balanced.loss(small.losses())


def test_heads_that_share_parameters():
    def losses(small):
        z = small.features()
        return {n: small.heads["a"](own).square().mean() for n, own in z.items()}

    small = Small("mgda")
    with refused("The losses of 'a' and 'b' share 2 parameters behind the features", "decoder_gradients='plain'"):
        small.balanced.loss(losses(small))
    small = Small("mgda", decoder_gradients="plain")
    with pytest.warns(UserWarning, match="share 2 parameters behind the features .* their gradients are added up"):
        small.balanced.loss(losses(small))


def test_a_gradient_that_is_not_finite_without_a_scaler():
    small = Small("mgda")
    z = small.features()
    losses = small.losses(z) | {"a": (0 * small.heads["a"](z["a"])).abs().sqrt().mean()}  # 0, with the slope 0 / 0
    small.balanced.loss(losses).backward()
    with pytest.raises(StepError, match="task gradients of step 0 are not finite, and no loss scaler skipped"):
        small.optimizer.step()


def test_an_optimizer_that_never_steps_is_noticed():
    small = Small()
    other = torch.optim.SGD([*small.encoder.parameters(), *small.heads.parameters()], lr=0.1)

    def train():
        for _ in range(25):
            small.balanced.loss(small.losses()).backward()
            other.step()
            other.zero_grad()

    with pytest.warns(UserWarning, match="Is it the optimizer that this loop steps"):
        train()
    assert small.balanced.number == 0


# -- the form of the features -------------------------------------------------------------------------------------

GOALS = {"a": 0.0, "b": 1.0}
FORMS = {
    "vector": lambda z: z.mean(dim=(2, 3)),
    "map": lambda z: z,
    "tokens": lambda z: z.flatten(2).transpose(1, 2),
    "list": lambda z: [z.mean(dim=(2, 3)), z],
    "tuple": lambda z: (z.mean(dim=(2, 3)), z),
    "dictionary": lambda z: {"low": z.flatten(2).transpose(1, 2), "high": z},
}


def levels_of(features):
    if isinstance(features, torch.Tensor):
        return [features]
    return list(features.values() if isinstance(features, dict) else features)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["uniform", "mgda", "rotograd", "graddrop", "adversarial", "d_grad"])
def test_features_of_every_form(form, method):
    torch.manual_seed(0)
    encoder, width = nn.Conv2d(3, 4, 1), 4
    heads = nn.ModuleDict({name: nn.Linear(width, 1) for name in ("a", "b")})
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
    channels = [4] * 2 if form in ("list", "tuple") else {"low": 4, "high": 4} if form == "dictionary" else 4
    balanced = make(method, features=channels)
    balanced.follow(optimizer)

    def pooled(level):
        return level if level.dim() == 2 else level.mean(1) if level.dim() == 3 else level.mean(dim=(2, 3))

    before = encoder.weight.clone()
    for _ in range(2):
        given = FORMS[form](encoder(torch.rand(8, 3, 2, 2)))
        z = balanced(given)
        losses = {}
        for name, own in z.items():
            assert type(own) is (list if form == "tuple" else type(given))
            levels, like = levels_of(own), levels_of(given)
            assert [level.shape for level in levels] == [level.shape for level in like]
            losses[name] = (heads[name](sum(pooled(level) for level in levels)) - GOALS[name]).square().mean()
        balanced.loss(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(before, encoder.weight)


def test_tokens_and_maps_are_the_same_positions():
    """A method that rotates channels does the same to tokens (B, N, C) as to a map (B, C, H, W) of these numbers."""
    found = []
    for form in ("map", "tokens"):
        torch.manual_seed(0)
        encoder, heads = nn.Conv2d(3, 4, 1), nn.ModuleDict({name: nn.Linear(4, 1) for name in ("a", "b")})
        optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
        balanced = make("rotograd", features=4, lr=0.1)
        balanced.follow(optimizer)
        for _ in range(3):
            z = balanced(FORMS[form](encoder(torch.rand(8, 3, 2, 2))))
            rows = {n: own.flatten(2).transpose(1, 2) if form == "map" else own for n, own in z.items()}
            balanced.loss({n: (heads[n](own) - GOALS[n]).square().mean() for n, own in rows.items()}).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([*encoder.parameters(), *balanced.balancer.rotation.values()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=SINGLE_SUM, atol=SINGLE)


def test_features_of_a_wrong_form():
    balanced = make("rotograd", features=4)
    cases = {
        "got": torch.rand(3),
        "The shared features are a tensor of torch.int64": torch.ones(2, 4, dtype=torch.int64),
        "The shared features have no level": [],
        "The shared features are str 'z'": "z",
        "Level 1 of the shared features is nothing": [torch.rand(2, 4), None],
        "have the channels 5, but the method was set up for 4": torch.rand(2, 5),
        "have the channels 4, 4, but": [torch.rand(2, 4), torch.rand(2, 4)],
        "have the channels 3, but": torch.rand(2, 4, 3),
    }
    cases["The shared features are a tensor of shape (3,)"] = cases.pop("got")
    for words, features in cases.items():
        with refused(words):
            balanced(features)


def test_levels_on_two_devices():
    with refused("levels of the shared features are on cpu, meta"):
        make()([torch.rand(2, 4), torch.rand(2, 4, device="meta")])


def test_losses_on_another_device():
    small = Small()
    losses = small.losses()
    losses["b"] = losses["b"].to("meta")
    with refused("The losses and the features must be on one device, got a on cpu, b on meta"):
        small.balanced.loss(losses)


def test_losses_of_several_precisions():
    small = Small()
    z = small.features()
    losses = {"a": small.heads["a"](z["a"]).mean().bfloat16(), "b": small.heads["b"](z["b"]).double().mean()}
    loss = small.balanced.loss(losses)
    loss.backward()
    small.optimizer.step()
    assert torch.isfinite(small.encoder.weight).all()


@pytest.mark.parametrize("method", BALANCERS.names())
def test_autocast(toys, method):
    """The features are bfloat16, as a loop under autocast has them, and the state stays float32."""
    engine = toys.make_engine(method, precision="fp32")
    loop = Loop(engine, method)
    for i in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = loop.net(toys.make_batch(i)["image"])
            targets = loop.targets(toys.make_batch(i))
            losses = {n: loop.tasks[n].loss(output.float(), targets[n]) for n, output in outputs.items()}
            loss = loop.balanced.loss(losses, **loop.extras(toys.make_batch(i), outputs))
        loss.backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    assert loop.balanced.number == 2
    for value in loop.state().values():
        assert not value.is_floating_point() or value.dtype in (torch.float32, torch.float64)
        assert torch.isfinite(value[~value.isnan()]).all()


def test_a_task_of_mtlkit_may_stand_for_its_kind(toys):
    tasks = toys.make_tasks()
    assert make("uncertainty", tasks=tasks).balancer.factors == {"segmentation": 1.0, "depth": 0.5, "attributes": 1.0}


def test_what_setup_gets():
    seen = {}

    @BALANCERS.register("curious")
    class Curious(mtlkit.Balancer):
        def setup(self, tasks, encoder):
            seen.update(info=encoder, tasks=tasks)

    make("curious", features=[3, 5], encoder=nn.Linear(3, 4))
    assert seen["info"] == EncoderInfo((3, 5), (1, 1), parameters=16)
    with refused("curious asks for the `out_channels` of task 'a'", "an mtlkit Task that has `out_channels`"):
        seen["tasks"]["a"].out_channels  # noqa: B018
