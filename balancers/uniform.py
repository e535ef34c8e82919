"""Plain summing, the baseline."""

from mtlkit.balancer import BALANCERS, Balancer


@BALANCERS.register("uniform")
class Uniform(Balancer):
    """Minimises the plain sum of the losses (equal weighting, linear scalarisation).

    Update: theta <- theta - eta sum_k grad L_k.

    Decoders: plain, which is the same as weighted with weights of 1.

    Defaults: those of the baseline in every paper, which is often called equal weighting. There are no options.

    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("uniform", tasks=("depth", "normals")).tasks
    ('depth', 'normals')
    """

    equals_uniform = True
