"""How good generated samples are, as numbers with a gradient in the samples. Larger is better.

Letters: L samples, M rows, D numbers of a sample or feature, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-8
"""Eigenvalues of covariances are taken as at least this, whose roots have a slope."""


def log_likelihood(samples: Tensor, rows: Tensor, bandwidth: float) -> Tensor:
    """Mean over rows [M, D] of the log density, nats, of Gaussians of this width at the samples [L, D]: []."""
    squares = (rows.square().sum(1)[:, None] + samples.square().sum(1) - 2 * rows @ samples.T) / (2 * bandwidth**2)
    scale = math.log(len(samples)) + samples.shape[1] / 2 * math.log(2 * math.pi * bandwidth**2)
    return (torch.logsumexp(-squares, 1) - scale).mean()


def log_inception_score(logits: Tensor) -> Tensor:
    """Mean of KL(p(y | x) || mean of p), nats, of a classifier's logits on samples [L, C]: [], 0 to log C.

    Source: Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, NeurIPS 2016; the score is its exponential.
    """
    log_p = logits.log_softmax(1)
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean()


def closeness(samples: Tensor, rows: Tensor) -> Tensor:
    """Minus the Frechet distance of the features of samples [L, D] and rows [M, D]: [], at most 0.

    |m - n|^2 + tr(S + R - 2 (S^1/2 R S^1/2)^1/2), means m, n and covariances S, R (Heusel et al., NeurIPS 2017).
    """
    values, vectors = torch.linalg.eigh(_covariance(rows))
    root = (vectors * values.clamp(min=LEAST).sqrt()) @ vectors.T
    spread = _covariance(samples)
    both = torch.linalg.eigvalsh(root @ spread @ root).clamp(min=LEAST).sqrt().sum()
    apart = (samples.mean(0) - rows.mean(0)).square().sum()
    return 2 * both - apart - spread.trace() - values.sum()


def _covariance(values: Tensor) -> Tensor:
    centred = values - values.mean(0)
    return centred.T @ centred / (len(values) - 1)
