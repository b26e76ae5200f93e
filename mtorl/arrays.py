"""Defines array types. The suffix of an array's name gives its shape: `gain_BC` has B rows and C channels."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
