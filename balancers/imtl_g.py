"""IMTL-G: impartial weights of the task gradients."""

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gradients import inverse
from mtlkit.gram import any_order


@BALANCERS.register("imtl_g")
class IMTLG(GramBalancer):
    """Gives the combined gradient the same projection on every task gradient.

    With n_k = |g_k|, u_k = g_k / n_k and g = sum_k w_k g_k, the weights solve <g, u_k> = c for all k and
    sum_k w_k = 1. With U = (<u_i, u_j>) they are w_k = x_k / n_k over their sum, x = U^+ 1; some may be negative.

    Limits: eigenvalues of U below 1e-10 of the largest count as 0. This makes the projections equal in the sense of
    least squares when gradients depend on each other. Where U^+ 1 vanishes, as for two opposed gradients, x = 1, which
    is its limit. A sum nearer to zero than 1e-12, relative to the weights, counts as 1e-12. Zero gradients get the
    weight 0; if all gradients are zero, all weights are 1 / K.

    Source: Liu et al., Towards Impartial Multi-task Learning, ICLR 2021. The paper compares gradients at the shared
    features, the default.

    Decoders: weighted, as in the code that the published tables come from (AvivNavon/nash-mtl,
    methods/weight_methods.py), which descends on sum_k w_k L_k in all parameters. So the loss of a task with a negative
    weight grows by the moves of its decoder. The paper speaks of weights for the shared parameters only, and LibMTL
    leaves decoders plain (`trainer.decoder_gradients=plain`). The authors' code is not public.

    Differs from the published experiments: the defaults are the paper's, but the tables since Nash-MTL compare
    gradients over the shared parameters, which `space=parameters` gives.

    Args:
        space: `features` or `parameters`.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    >>> BALANCERS.build("imtl_g", tasks=("a", "b")).weights(gram).round(decimals=6).tolist()
    [0.75, 0.25]
    """

    decoders = "weighted"

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        norms = gram.diagonal().clamp_min(0).sqrt()
        to_unit = inverse(norms)
        units = gram * to_unit * to_unit[:, None]
        x = torch.linalg.pinv(units, rtol=1e-10, hermitian=True).sum(dim=1)
        if x.sum() <= 1e-10:
            x = torch.ones_like(x)
        weights = x * to_unit
        size, total = weights.abs().sum(), weights.sum()
        if size == 0:
            return torch.full_like(weights, 1 / len(weights))
        return weights / torch.copysign(torch.maximum(total.abs(), 1e-12 * size), total)
