"""Adjusts metrics by regression on covariates from before the experiment, which makes the comparison more precise.

A covariate from before the experiment can't depend on the arm. If its mean differs between the arms, the difference is
due to chance. The adjustment removes the part of the metric that the covariates explain:

    adjusted ratio    R - theta' xbar                    for each arm and stage; xbar is the mean over its users
    a user's residual (N_i - R D_i) - Dbar theta' (x_i - xbar),  Dbar = sum(D) / users       `residual`
    theta             least squares of (N_i - R D_i) / Dbar on x_i - xbar, within arms and stages   `slopes`

**One theta for both arms and all stages.** With any theta that converges, the lift stays unbiased, because the arms'
means of x differ only by chance (Lin 2013). A separate theta for a challenger that has only a hundred users would
overfit. If theta is estimated from all users together (Deng et al. 2013, CUPED), the error of theta is negligible
compared with that of the lift. The interval is valid for any theta, because it uses the variance of the residuals. A
stage has the same weight in the estimate of theta as in the lift. See also Lindon et al., arXiv:2210.08589;
Waudby-Smith et al., arXiv:2103.06476.

A user's x counts once for each of the user's stages. If the arm affects which users return in a later stage, the
adjusted lift compares users with equal covariates.

Shapes: as in `sums.py`; K = covariates.
"""

import numpy as np

from mtorl.experiment.inference.sums import COVARIATES, DENOMINATOR, NUMERATOR, ONE, Floats, Sums

_DISTINCT = 1e-8
"""Relative variance below which a covariate counts as constant, or as a copy of other covariates."""


def slopes(sums: Sums, within: Floats, ratio: Floats, weight: Floats) -> Floats:
    """Return the least-squares slopes of the metric on the covariates, (..., K).

    Args:
        within: Result of `Sums.within`, (..., A, S, F, F).
        weight: Weight of each arm and stage in the lift, (..., A, S).
    """
    users, x = sums.users[..., None], sums.totals[..., COVARIATES:]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(users > 0, x / users, 0.0)
        share = np.where(users[..., 0] > 0, weight / users[..., 0].sum(-2, keepdims=True), 0.0)
        per_decision = np.where(users[..., 0] > 0, users[..., 0] / sums.totals[..., DENOMINATOR], 0.0)
    raw = within[..., COVARIATES:, COVARIATES:]
    squares = np.einsum("...as,...asij->...ij", share, raw - x[..., :, None] * means[..., None, :])
    of_metric = within[..., COVARIATES:, NUMERATOR] - ratio[..., None] * within[..., COVARIATES:, DENOMINATOR]
    products = np.einsum("...as,...ask->...k", share * per_decision, of_metric)
    variance = np.einsum("...kk->...k", squares)
    size = np.einsum("...as,...askk->...k", share, raw)
    scale = np.where(variance > _DISTINCT * size, np.sqrt(np.maximum(variance, 0.0)), np.inf)
    correlations = squares / (scale[..., :, None] * scale[..., None, :])
    solved = np.linalg.pinv(correlations, rcond=_DISTINCT, hermitian=True) @ (products / scale)[..., None]
    found: Floats = solved[..., 0] / scale
    return found


def residual(ratio: Floats, per_user: Floats, means: Floats, theta: Floats) -> Floats:
    """Return the coefficients that turn a user's figures into the user's residual, (..., A, S, F).

    Args:
        per_user: Mean denominator per user, (..., A, S).
        means: Means of the covariates, (..., A, S, K).
        theta: Slope of the metric on each covariate, (..., K).
    """
    metric = np.stack([np.ones_like(ratio), -ratio], -1)
    if not means.shape[-1]:
        return metric
    explained = theta[..., None, None, :] * per_user[..., None]
    offset = (explained * means).sum(-1, keepdims=True)
    return np.concatenate([metric, offset, -explained], -1)


def covariate_means(sums: Sums) -> Floats:
    """Return the mean of each covariate in each arm and stage, (..., A, S, K). Without users, it is 0."""
    users = sums.users[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Floats = np.where(users > 0, sums.totals[..., COVARIATES:] / users, 0.0)
    return means


def figures_with(metric: Floats, covariates: Floats) -> Floats:
    """Return rows of the metric's numerator and denominator, a 1, and the covariates, (R, F)."""
    if not covariates.shape[-1]:
        return metric
    return np.concatenate([metric, np.ones((len(metric), ONE - DENOMINATOR)), covariates], -1)


def standardised(columns: Floats) -> Floats:
    """Scale covariates, (R, K), to mean 0 and standard deviation 1, which avoids rounding errors in sums.

    Missing values become the mean. Additional columns of 0 and 1 mark where values were missing.
    """
    missing = np.isnan(columns)
    marks = {column.tobytes(): column for column in missing.T if column.any()}  # without duplicates
    known = (~missing).sum(0).clip(1)
    means = np.where(missing, 0.0, columns).sum(0) / known
    centred = np.where(missing, 0.0, columns - means)
    spread = np.sqrt((centred**2).sum(0) / known)
    scaled = centred / np.where(spread > 0, spread, 1.0)
    return np.column_stack([scaled, *marks.values()])
