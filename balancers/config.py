"""ConFIG: a direction without conflict from the inverse of the unit gradients."""

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gradients import inverse
from mtlkit.gram import any_order


@BALANCERS.register("config")
class ConFIG(GramBalancer):
    """Moves in the direction whose cosine with every task gradient is the same.

    With n_k = |g_k|, u_k = g_k / n_k and U = (<u_i, u_j>), the direction is d = sum_k x_k u_k, x = U^+ 1, so that <d,
    u_k> = 1 for all k: it opposes no task. Its length is the sum of the projections of all gradients on it. The encoder
    gets (sum_k <g_k, d>) d / |d|^2, which means w_k = (sum_j n_j (U x)_j) / <x, U x> x_k / n_k.

    Limits: eigenvalues of U below 1e-10 of the largest count as 0; then the cosines are equal in the sense of least
    squares. Zero gradients get the weight 0. Where d vanishes, as for two opposed gradients, all weights are 0, which
    is their limit.

    Source: Liu, Chu and Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, ICLR
    2025, arXiv 2408.11104.

    Decoders: plain, as in the authors' code (tum-pbs/ConFIG, experiments/MTL/methods/weight_methods.py): the gradient
    of the sum of the losses.

    Differs from the published experiments: the authors take gradients over the shared parameters, which
    `space=parameters` gives. Equal weights and the length of the projections are also the authors' defaults.

    Args:
        space: `features` or `parameters`.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    >>> BALANCERS.build("config", tasks=("a", "b")).weights(gram).round(decimals=6).tolist()
    [2.0, 0.666667]
    """

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        norms = gram.diagonal().clamp_min(0).sqrt()
        to_unit = inverse(norms)
        units = gram * to_unit * to_unit[:, None]
        x = torch.linalg.pinv(units, rtol=1e-10, hermitian=True).sum(dim=1)
        cosines = units @ x  # <d, u_k>
        square = x @ cosines  # |d|^2
        length = torch.where(square > 1e-10, norms @ cosines / square, 0.0)
        return length * x * to_unit
