"""One module a library: `build(case, data, lr)` gives a function that trains on a batch and returns the loss."""

from __future__ import annotations

L1 = 1.0  # coefficients of the sparsity terms, the same everywhere
L0 = 1e-2
BANDWIDTH = 0.05
