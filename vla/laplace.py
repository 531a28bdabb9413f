"""The density World-Env's policy explores with (arXiv 2509.24948): heavier tails than a Gaussian's."""

from __future__ import annotations

import torch
from torch import Tensor


def laplace_log_prob(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Log-density of `x` under Laplace(mean, scale), element by element, in float32.

    Args:
        x: any shape.
        mean: broadcast to it.
        scale: likewise, above 0; the mean absolute deviation, not the standard one.
    """
    return -(x.float() - mean.float()).abs() / scale.float() - torch.log(2.0 * scale.float())
