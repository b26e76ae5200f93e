"""Adjusts metrics by regression on covariates from before the experiment, which makes the comparison more precise.

A covariate from before the experiment can't depend on the arm. If its mean differs between the arms, the difference is
due to chance. The adjustment removes the part of the metric that the covariates explain:

    adjusted ratio    R - theta' xbar                    for each arm and stage; xbar is the mean over its users
    a user's residual (N_i - R D_i) - Dbar theta' (x_i - xbar),  Dbar = sum(D) / users       `residual`
    theta             least squares of (N_i - R D_i) / Dbar on x_i - xbar, within arms and stages   `slopes`

**One theta for both arms and all stages.** Any theta that converges leaves the lift unbiased, because the arms' means
of x differ only by chance (Lin 2013). A separate theta for a challenger with 1 % of the traffic would overfit its
hundred users. If theta is estimated from all users together (Deng et al. 2013, CUPED), its error is negligible compared
with the lift's. The interval is valid for any theta: it uses the variance of the residuals. Each stage has the same
weight in theta as in the lift. See also Lindon et al., arXiv:2210.08589; Waudby-Smith et al., arXiv:2103.06476.

A user's x counts once for each of the user's stages. If the arm affects which users return in a later stage, the
adjusted lift compares users with equal covariates.

Shapes: as in `sums.py`; K = covariates.
"""

import numpy as np

from mtorl.experiment.inference.sums import COVARIATES, DENOMINATOR, NUMERATOR, ONE, Floats, Sums

_DISTINCT = 1e-8
"""Relative variance below which a covariate counts as constant, or as a copy of other covariates."""


def slopes(sums: Sums, within: Floats, ratio: Floats, weight: Floats) -> Floats:
    """Return the metric's slope on each covariate, (..., K); `weight` is a stage's weight in the lift, (..., A, S)."""
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
    """Return coefficients, (..., A, S, F): a user's figures, multiplied by these and summed, are the user's residual.

    Args:
        ratio: Metric by arm and stage, (..., A, S), in the numerator's unit.
        per_user: Mean denominator of a user.
        means: Means of the covariates (..., A, S, K).
    """
    metric = np.stack([np.ones_like(ratio), -ratio], -1)
    if not means.shape[-1]:
        return metric
    explained = theta[..., None, None, :] * per_user[..., None]
    offset = (explained * means).sum(-1, keepdims=True)
    return np.concatenate([metric, offset, -explained], -1)


def covariate_means(sums: Sums) -> Floats:
    """Return the means of the covariates in each arm and stage, (..., A, S, K); 0 if there are no users."""
    users = sums.users[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Floats = np.where(users > 0, sums.totals[..., COVARIATES:] / users, 0.0)
    return means


def figures_with(metric: Floats, covariates: Floats) -> Floats:
    """Return the figures of rows: numerator and denominator, (R, 2), and the covariates of the row's user, (R, K)."""
    if not covariates.shape[-1]:
        return metric
    return np.concatenate([metric, np.ones((len(metric), ONE - DENOMINATOR)), covariates], -1)


def standardised(columns: Floats) -> Floats:
    """Return covariates, (R, K), with mean 0 and standard deviation 1, which avoids rounding errors in sums.

    The scale of a covariate does not affect the lift. For a user without the covariate (NaN), the mean is used, and an
    added indicator column contains 1, so that users without the covariate have their own mean of the metric.
    """
    missing = np.isnan(columns)
    marks = {column.tobytes(): column for column in missing.T if column.any()}  # without duplicates
    known = (~missing).sum(0).clip(1)
    means = np.where(missing, 0.0, columns).sum(0) / known
    centred = np.where(missing, 0.0, columns - means)
    spread = np.sqrt((centred**2).sum(0) / known)
    scaled = centred / np.where(spread > 0, spread, 1.0)
    return np.column_stack([scaled, *marks.values()])
