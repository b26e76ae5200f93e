"""Regression adjustment: covariates that are known before the users meet any arm make the comparison sharper.

Such a covariate can't depend on the arm. Where the challenger's users happen to have more of it, that is chance, and
what it explains of the metric is taken out:

    adjusted ratio    R - theta' xbar                    of each arm and stage, with the mean xbar of its users
    of one user       (N_i - R D_i) - Dbar theta' (x_i - xbar),  Dbar = sum(D) / users       `residual`
    theta             least squares of (N_i - R D_i) / Dbar on x_i - xbar, within arms and stages   `slopes`

**One theta for both arms and all stages.** Any theta that settles leaves the lift unbiased, because the arms' means of
x differ by chance only (Lin 2013). One of each arm by itself would, in a challenger's one per cent, fit the chance of a
hundred users. Learnt from all users together (Deng et al. 2013, CUPED), its own error does not count beside that of the
lift. The interval holds either way: its variance is that of the residuals. Stages count for theta by their weight in
the lift. Sequences with covariates: Lindon et al., arXiv:2210.08589, and Waudby-Smith et al., arXiv:2103.06476.

A user's x counts once for each stage that it is in. Returning to a later stage may depend on the arm; the adjusted lift
is then that among users of equal covariates.

Shapes: as in `sums.py`; K = covariates.
"""

import numpy as np

from mtorl.experiment.inference.sums import COVARIATES, DENOMINATOR, NUMERATOR, ONE, Floats, Sums

_DISTINCT = 1e-8
"""Covariates that agree to that share of their variance are one, and one that varies less than that does not vary."""


def slopes(sums: Sums, within: Floats, ratio: Floats, weight: Floats) -> Floats:
    """Slopes of the metric on each covariate, (..., K), by stages of a `weight` in the lift (..., A, S)."""
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
    """Factors of a user's figures that give its residual, in the unit of the numerator, (..., A, S, F).

    Of each arm and stage: the metric, the mean denominator of a user, the means of the covariates (..., A, S, K).
    """
    metric = np.stack([np.ones_like(ratio), -ratio], -1)
    if not means.shape[-1]:
        return metric
    explained = theta[..., None, None, :] * per_user[..., None]
    offset = (explained * means).sum(-1, keepdims=True)
    return np.concatenate([metric, offset, -explained], -1)


def covariate_means(sums: Sums) -> Floats:
    """Means of the covariates of each arm and stage, (..., A, S, K); 0 without users."""
    users = sums.users[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Floats = np.where(users > 0, sums.totals[..., COVARIATES:] / users, 0.0)
    return means


def figures_with(metric: Floats, covariates: Floats) -> Floats:
    """The figures of rows: numerator and denominator, (R, 2), and the covariates of the row's user, (R, K)."""
    if not covariates.shape[-1]:
        return metric
    return np.concatenate([metric, np.ones((len(metric), ONE - DENOMINATOR)), covariates], -1)


def standardised(columns: Floats) -> Floats:
    """Covariates, (R, K), with mean 0 and standard deviation 1, so that sums lose no digits; this changes no lift.

    NaN, a user without the covariate, becomes the mean and a 1 in a column of its own, so that the metric of such users
    is whatever it is.
    """
    missing = np.isnan(columns)
    marks = {column.tobytes(): column for column in missing.T if column.any()}  # of one source, often all alike
    known = (~missing).sum(0).clip(1)
    means = np.where(missing, 0.0, columns).sum(0) / known
    centred = np.where(missing, 0.0, columns - means)
    spread = np.sqrt((centred**2).sum(0) / known)
    scaled = centred / np.where(spread > 0, spread, 1.0)
    return np.column_stack([scaled, *marks.values()])
