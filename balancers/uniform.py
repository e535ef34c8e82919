"""Plain summing, the baseline."""

from mtlkit.balancer import BALANCERS, Balancer


@BALANCERS.register("uniform")
class Uniform(Balancer):
    """The plain sum of the losses (equal weighting, linear scalarisation).

    Update: theta <- theta - eta sum_k grad L_k.

    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("uniform", tasks=("depth", "normals")).tasks
    ('depth', 'normals')
    """

    equals_uniform = True
