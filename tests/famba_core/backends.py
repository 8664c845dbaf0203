"""The scan backends under test, for parametrize."""

import pytest

from famba_core.scan.native import library

needs_kernels = pytest.mark.skipif(isinstance(library(), str), reason=f"needs the C++ kernels: {library()}")
FAST = [pytest.param("cpu", marks=needs_kernels), "torch"]
