"""Array types that every room uses; the shape of an array stands in its name (`gain_BC`: B rows, C channels)."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
