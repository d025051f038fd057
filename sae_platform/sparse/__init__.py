"""Features of a batch, sparse or dense, and the exact gradients that only the active ones carry.

Sparse features are compressed rows: `values [n]`, `indices [n]` and `offsets [rows + 1]`, as in CSR. The dense form
offers the same operations, so an architecture writes its mathematics once, elementwise, and runs in either.
"""

from __future__ import annotations

from sae_platform.sparse.encoding import dense_preactivations, matmul_precision, selected_preactivations
from sae_platform.sparse.features import DenseFeatures, Features, SparseFeatures
from sae_platform.sparse.selection import largest, positive
from sae_platform.sparse.support import Support
from sae_platform.sparse.workspace import Workspace

__all__ = [
    "DenseFeatures",
    "Features",
    "SparseFeatures",
    "Support",
    "Workspace",
    "dense_preactivations",
    "largest",
    "matmul_precision",
    "positive",
    "selected_preactivations",
]
