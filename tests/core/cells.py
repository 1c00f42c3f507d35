"""Cells for tests, from rows of numbers."""

import numpy as np

from controller.core.model import Cells


def cells(*rows, candidate=None, stratum=None, bin=None):  # noqa: A002 - the word of `Cells`
    """One cell per row (pi, n0, s0, n1, s1); a stratum per propensity unless it is given."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    none = np.zeros(len(table), np.int64)
    strata = np.unique(table[:, 0], return_inverse=True)[1] if stratum is None else stratum
    return Cells(
        candidate=none if candidate is None else np.asarray(candidate, np.int64),
        stratum=np.asarray(strata, np.int64),
        bin=none if bin is None else np.asarray(bin, np.int64),
        pi=table[:, 0],
        n0=table[:, 1],
        s0=table[:, 2],
        n1=table[:, 3],
        s1=table[:, 4],
    )
