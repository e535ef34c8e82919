"""Where the task gradients of a step are compared."""

import torch

from mtlkit.balancer import Balancer
from mtlkit.engine.parameter_gram import Plan
from mtlkit.engine.parameter_space import ParameterGramSpace, ParameterSpace, parameters_of
from mtlkit.engine.shards import Shards
from mtlkit.engine.shared import Shared
from mtlkit.engine.space import FeatureSpace, LastLayerSpace, Space
from mtlkit.network import Features
from mtlkit.step import Step

SPACES: dict[str, type[Space]] = {
    "features": FeatureSpace,
    "last_layer": LastLayerSpace,
    "parameters": ParameterSpace,
}


def space_of(balancer: Balancer, levels: Features, encoder: Shared, step: Step, shards: Shards) -> Space:
    """Returns the space of the balancer, for the features of this step. Of two equal ones, it is the cheaper."""
    needs = balancer.needs
    given = levels, encoder, "second_batch" in needs, step.samples, shards, step.on_host
    # Of split parameters no process has a whole gradient, and they need their own way.
    only_products = torch.is_grad_enabled() and not needs & {"jacobian", "second_batch"} and not shards.units
    if balancer.space == "parameters" and only_products:
        plan = Plan(levels, parameters_of(encoder), len(balancer.tasks), step.samples)
        if plan.pays:
            return ParameterGramSpace(plan, *given)
    return SPACES[balancer.space](*given)
