"""Sums over the users of an experiment for all of its metrics at once, added up part by part.

    sums = UserSums(("decisions", "outcome:click"), stages=2, arms=2, numerators={"click": click})
    sums.add(user, cell, figures)                   # one row for each user, stage and arm; a user is in one part alone
    sums.of(arms=(1, 0), stages=[0, 1], maps=maps)  # `Sums` of one metric

A metric's figures are weighted sums of a user's columns, so its sums of products follow from those of the columns.
Memory depends on numbers of stages, arms and columns, and not on users.

Shapes: U = users, R = rows, C = cells (stages x arms), B = columns, F = figures of a metric, S = stages, A = 2 arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from mtorl.experiment.inference.sums import Floats, Sums


class UserSums:
    """Sums of the users' columns, and of the products of each two of them, by stage and arm.

    Args:
        numerators: Weights of the columns, (B,), of sums whose positive users count (`Sums.positive`), by name.
    """

    def __init__(self, columns: Sequence[str], stages: int, arms: int, numerators: Mapping[str, Floats]) -> None:
        self.columns = tuple(columns)
        self._arms = arms
        cells, size = stages * arms, len(self.columns)
        self.users_C = np.zeros(cells)
        self.totals_CB = np.zeros((cells, size))
        self.products_CBCB = np.zeros((cells, size, cells, size))
        self.positive_C = {name: np.zeros(cells) for name in numerators}
        self._numerators_BN = np.stack([*numerators.values()], -1) if numerators else np.zeros((size, 0))

    def add(self, user_R: npt.NDArray[np.uint64], cell_R: npt.NDArray[np.intp], figures_RB: Floats) -> None:
        """Add the rows of some users, in the order of the users; a user has one row in a cell (stage x arms + arm)."""
        cells = len(self.users_C)
        self.users_C += np.bincount(cell_R, minlength=cells)
        positive_RN = figures_RB @ self._numerators_BN > 0
        for place, name in enumerate(self.positive_C):
            self.positive_C[name] += np.bincount(cell_R[positive_RN[:, place]], minlength=cells)
        for cell in range(cells):
            of_cell = figures_RB[cell_R == cell]
            self.totals_CB[cell] += of_cell.sum(0)
            self.products_CBCB[cell, :, cell] += of_cell.T @ of_cell
        # Two rows of one user: neighbours, or the next but one ...
        lag = 1
        while len(one := np.flatnonzero(user_R[lag:] == user_R[:-lag])):
            kind = cell_R[one] * cells + cell_R[one + lag]
            for number in np.unique(kind):
                pairs = one[kind == number]
                product = figures_RB[pairs].T @ figures_RB[pairs + lag]
                first, second = divmod(int(number), cells)
                self.products_CBCB[first, :, second] += product
                self.products_CBCB[second, :, first] += product.T
            lag += 1

    def __iadd__(self, other: UserSums) -> Self:
        """Add the sums of other users."""
        self.users_C += other.users_C
        self.totals_CB += other.totals_CB
        self.products_CBCB += other.products_CBCB
        for name, users_C in self.positive_C.items():
            users_C += other.positive_C[name]
        return self

    def cells(self, arm: int) -> npt.NDArray[np.intp]:
        """Cells of an arm, (S,)."""
        return np.arange(arm, len(self.users_C), self._arms)

    def of(self, arms: tuple[int, int], stages: Sequence[int], maps: Floats, positive: str) -> Sums:
        """Sums of a metric of two arms.

        Args:
            maps: Figures by columns, (A, S, F, B).
            positive: Name of the numerator.
        """
        place = np.array([[stage * self._arms + arm for stage in stages] for arm in arms], dtype=np.intp)  # (A, S)
        flat, count = place.reshape(-1), maps.shape[-2]
        by_cell = maps.reshape(len(flat), count, -1)
        between = self.products_CBCB[flat][:, :, flat]
        products = np.einsum("cfb,cbde,dge->cfdg", by_cell, between, by_cell, optimize=True)
        return Sums(
            users=self.users_C[place],
            positive=self.positive_C[positive][place],
            totals=np.einsum("asfb,asb->asf", maps, self.totals_CB[place]),
            products=products.reshape(len(flat) * count, -1),
        )
