"""Array types that all packages share. The suffix of an array's name is its shape (`gain_BC`: B rows, C channels)."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
