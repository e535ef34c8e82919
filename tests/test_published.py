"""Compares what each method gives the decoders, and its defaults, with its paper and its authors' code."""

import inspect
import re
from dataclasses import fields

import pytest
import torch

from mtlkit import BALANCERS
from mtlkit.cli.catalog import decoders_in_words, paragraph
from mtlkit.config.schema import TrainerConfig
from mtlkit.registry import options_of

NAMES = ("a", "b")
OURS = [name for name in BALANCERS.names() if BALANCERS.get(name).__module__.startswith("mtlkit.")]

#: What decoders get according to the paper or, if the paper does not say it, according to the named code.
DECODERS = {
    # The objective applies to all parameters.
    "dtp": "weighted",  # paper, the total loss
    "dwa": "weighted",  # lorenmt/mtan, im2im_pred/utils.py
    "famo": "weighted",  # Cranial-XIX/FAMO, famo.py
    "fixed": "weighted",  # by definition
    "gls": "weighted",  # paper, the objective
    "gradnorm": "weighted",  # paper, the loss of section 3
    "imtl_l": "weighted",  # paper, the loss that is minimised
    "rlw": "weighted",  # LibMTL, weighting/RLW.py
    "stch": "weighted",  # Xi-L/STCH, STCH_MTL/LibMTL/weighting/STCH.py
    "uncertainty": "weighted",  # paper, equations 7 and 10
    # The code sums weighted losses once it knows the weights.
    "excess_mtl": "weighted",  # yifei-he/ExcessMTL, LibMTL/LibMTL/weighting/ExcessMTL.py
    "imtl_g": "weighted",  # AvivNavon/nash-mtl, methods/weight_methods.py, from which the published tables come
    "mgda": "weighted",  # isl-org/MultiObjectiveOptimization, multi_task/train_multi_task.py
    "nash": "weighted",  # AvivNavon/nash-mtl, methods/weight_methods.py
    # The method uses the gradients of the logarithms.
    "db_mtl": "weighted",  # LibMTL, weighting/DB_MTL.py
    # The method replaces only the shared gradients.
    "aligned_mtl": "plain",  # SamsungLabs/MTL, code/optim/aligned/balancer.py
    "cagrad": "plain",  # Cranial-XIX/CAGrad, nyuv2/utils.py
    "config": "plain",  # tum-pbs/ConFIG, experiments/MTL/methods/weight_methods.py
    "dual_projection": "plain",  # TorchJD, mtl_backward
    "fairgrad": "plain",  # OptMN-Lab/fairgrad, methods/weight_methods.py
    "graddrop": "plain",  # tensorflow/lingvo, lingvo/core/graddrop.py
    "gradient_similarity": "plain",  # AvivNavon/AuxiLearn, experiments/weight_methods.py
    "gradvac": "plain",  # LibMTL, weighting/GradVac.py
    "moco": "plain",  # LibMTL, weighting/MoCo.py
    "modo": "plain",  # heshandevaka/Trade-Off-MOL, LibMTL/LibMTL/weighting/MoDo.py
    "pcgrad": "plain",  # tianheyu927/PCGrad, PCGrad_tf.py
    "sdmgrad": "plain",  # OptMN-Lab/sdmgrad, methods/weight_methods.py
    "torchjd": "plain",  # TorchJD, mtl_backward
    "upgrad": "plain",  # TorchJD, mtl_backward
    # The method adds to the sum of the losses, or maps features.
    "adversarial": "plain",  # facebookresearch/astmt, experiments/dense_predict/pascal_resnet/main.py
    "cosreg": "plain",  # paper, equation 4
    "d_grad": "plain",  # Rotograd, first version, section 5.2
    "rotograd": "plain",  # paper: only the gradient that goes on into the encoder is scaled
    "rotograd_procrustes": "weighted",  # paper, section 3: the sum of w_k L_k, w_k by GradNorm
    "uniform": "plain",
}

#: Defaults that a source states: (method, option) -> value.
PUBLISHED = {
    ("cosreg", "alpha"): 0.1,  # paper, table 1, with batch norm
    ("cosreg", "space"): "last_layer",  # paper, section 4
    ("db_mtl", "beta"): 0.9,  # LibMTL, config.py
    ("dwa", "temperature"): 2.0,  # lorenmt/mtan, --temp
    ("excess_mtl", "eta"): 0.01,  # yifei-he/ExcessMTL, robust_step_size
    ("excess_mtl", "warmup_steps"): 1,  # the same, first_epoch
    ("fairgrad", "alpha"): 2.0,  # OptMN-Lab/fairgrad, all run.sh
    ("famo", "gamma"): 0.01,  # Cranial-XIX/FAMO, famo.py and experiments/cityscapes/run.sh
    ("famo", "lr"): 0.025,  # the same, w_lr
    ("graddrop", "leak"): 0.0,  # tensorflow/lingvo, its comment
    ("gradvac", "beta"): 0.01,  # paper
    ("mgda", "normalization"): "none",  # paper; the code calls the others "optional and not included in the paper"
    ("moco", "beta"): 0.5,  # LibMTL, config.py, with the authors' help
    ("moco", "gamma"): 0.1,
    ("moco", "rho"): 0.0,
    ("nash", "update_every"): 1,  # AvivNavon/nash-mtl, update_weights_every
    ("rotograd_procrustes", "weight_lr"): 0.025,  # GradNorm's paper; the method's own paper gives none
    ("sdmgrad", "lam"): 0.3,  # OptMN-Lab/sdmgrad, both run.sh
    ("sdmgrad", "iterations"): 20,  # the same, niter
    ("stch", "mu"): 1.0,  # Xi-L/STCH, STCH_MTL/LibMTL/config.py
    ("stch", "warmup_epochs"): 4,
    ("uncertainty", "initial"): 0.0,  # AvivNavon/nash-mtl, logsigma
    ("uncertainty", "lr"): 0.025,  # the same, --method-params-lr
}


#: Methods and options, and whether the method then says that it is plain summing. No other default says so.
SUMMING = [
    ("uniform", {}, True),
    ("fixed", {}, True),
    ("fixed", {"weights": {"a": 1.0, "b": 1.0}}, True),
    ("fixed", {"weights": {"a": 2.0}}, False),
    ("adversarial", {"alpha": 0.0}, True),
    ("adversarial", {"alpha": 1.0}, False),
    ("graddrop", {"leak": 1.0}, True),
    ("graddrop", {"leak": 0.5}, False),
]

#: Methods that do not seek the Pareto set, because of a penalty or a softmax.
ELSEWHERE = [("cosreg", {}), ("moco", {"published": True})]


@pytest.fixture(params=OURS)
def name(request) -> str:
    return request.param


def test_decoders_get_what_the_source_gives_them(name):
    assert BALANCERS.build(name, tasks=NAMES).decoders == decoders_in_words(BALANCERS.get(name)) == DECODERS[name]


def test_the_table_above_has_every_method():
    assert DECODERS.keys() == set(OURS)


def test_the_docstring_says_which_source(name):
    found = paragraph(BALANCERS.get(name), "Decoders")
    assert re.match(rf"{DECODERS[name]}\b", found), found


def differences(name) -> str:
    return paragraph(BALANCERS.get(name), "Differs from the published experiments")


def test_the_docstring_compares_the_defaults_with_the_published_ones(name):
    defaults = paragraph(BALANCERS.get(name), "Defaults")
    assert bool(differences(name)) != bool(defaults), "either `Differs from the published experiments:` or `Defaults:`"
    assert differences(name) or defaults.startswith("those of ")


def settings():
    """Yields the settings that docstrings name, as method, option and value."""
    for name in OURS:
        for option, value in re.findall(r"`([\w.]+)=(\S+?)`", inspect.getdoc(BALANCERS.get(name)) or ""):
            yield name, option, value


def parsed(value: str):
    """Returns the value as YAML 1.2 reads it. A capital letter is a placeholder for the user."""
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


@pytest.mark.parametrize(("name", "option", "value"), list(settings()))
def test_the_setting_that_a_docstring_names_exists_and_is_not_the_default(name, option, value):
    if option.startswith("trainer."):
        assert option.removeprefix("trainer.") in {field.name for field in fields(TrainerConfig)}
        return
    known = options_of(BALANCERS.get(name))
    assert option in known, f"{name} has no option {option}"
    if not re.fullmatch("[A-Z]+", value):
        assert parsed(value) != known[option].default
        BALANCERS.build(name, tasks=NAMES, **{option: parsed(value)})


@pytest.mark.parametrize(("name", "option"), PUBLISHED)
def test_a_default_is_the_one_of_its_source(name, option):
    assert options_of(BALANCERS.get(name))[option].default == PUBLISHED[name, option]


@pytest.mark.parametrize(("update", "rate"), [("adam", "5e-4"), ("geodesic", "2e-3")])  # paper, on digits; ours
def test_rotograds_rate_goes_by_its_update_as_the_docstring_says(update, rate):
    assert f"{rate} for `{update}`" in (inspect.getdoc(BALANCERS.get("rotograd")) or "")
    assert BALANCERS.build("rotograd", tasks=NAMES, update=update).lr == float(rate)


def test_every_constructor_hands_on_what_all_methods_have(name):
    cls = BALANCERS.get(name)
    values = {"space": cls.spaces, "lr": (0.125,), "lr_decay": (0.5,)}
    for option in options_of(cls).keys() & values:
        for value in values[option]:
            assert getattr(BALANCERS.build(name, tasks=NAMES, **{option: value}), option) == value


@pytest.mark.parametrize(("name", "options", "same"), SUMMING)
def test_a_method_says_with_which_options_it_is_plain_summing(name, options, same):
    assert BALANCERS.build(name, tasks=NAMES, **options).equals_uniform is same


def test_every_other_method_differs_from_plain_summing(name):
    assert BALANCERS.build(name, tasks=NAMES).equals_uniform is (name in ("uniform", "fixed"))


@pytest.mark.parametrize(("name", "options"), ELSEWHERE)
def test_a_method_says_that_it_does_not_seek_the_pareto_set(name, options):
    assert BALANCERS.build(name, tasks=NAMES, **options).seeks_pareto is False


def test_every_other_method_seeks_the_pareto_set(name):
    assert BALANCERS.build(name, tasks=NAMES).seeks_pareto is ((name, {}) not in ELSEWHERE)


@pytest.mark.parametrize("name", ["graddrop", "gradvac", "pcgrad", "rlw", "torchjd"], indirect=True)
def test_a_seed_is_any_whole_number_below_2_to_the_31(name):
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        drawn.append(int(BALANCERS.build(name, tasks=NAMES).seed))
    assert 0 <= min(drawn) < 2**30 < max(drawn) < 2**31


@pytest.mark.parametrize(
    ("name", "count"),
    [("dwa", "loss_count.a"), ("dwa", "epoch"), ("excess_mtl", "warmed_up.a"), ("stch", "nadir_count.a")],
)
def test_a_count_is_a_whole_number_whatever_the_models_precision(name, count):
    """A count in float32 would stop at 2^24, one in bfloat16 at 256."""
    balancer = BALANCERS.build(name, tasks=NAMES).bfloat16()
    assert balancer.state_dict()[count].dtype == torch.int64
