"""At which density of features a dense step overtakes a sparse one.

    python -m benchmarks.crossover [--size M] [--device cpu]

Prints a table and writes it to results/DEVICE/crossover.md.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from benchmarks.__main__ import ROOT, found_device
from benchmarks.cases import SIZES, Case
from benchmarks.data import data
from benchmarks.report import table
from benchmarks.steps import sae_platform
from benchmarks.worker import HOLDING_LR, THREADS

DENSITIES = {"cpu": (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16), "cuda": (0.002, 0.004, 0.006, 0.01, 0.02)}
TIMED = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES))
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    options = parser.parse_args()
    device = options.device or found_device()
    size = options.size or ("M" if device == "cpu" else "A")
    if device == "cpu":
        torch.set_num_threads(THREADS)
    rows = []
    for density in DENSITIES[device]:
        sparse, dense = both(size, density, device)
        rows.append([size, f"{density:.1%}", f"{sparse:.3f}", f"{dense:.3f}", f"{dense / sparse:.2f}x"])
        print(*rows[-1], flush=True)
    text = table(("size", "density", "sparse s / step", "dense s / step", "sparse is faster by"), rows)
    folder = ROOT / "results" / device
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "crossover.md").write_text(text + "\n")


def both(size: str, density: float, device: str) -> list[float]:
    """Seconds of a sparse and of a dense step of a standard SAE, taken in turn."""
    l0 = round(density * SIZES[size].d_sae)
    cases = [Case(size, "standard", l0, "sae_platform", setting) for setting in ("sparse", "dense")]
    given = data(cases[0], 1, device)
    steps = [sae_platform.build(case, given, HOLDING_LR) for case in cases]
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + TIMED):
        for step, found in zip(steps, seconds, strict=True):
            started = time.perf_counter()
            step(given.batches[0])
            found.append(time.perf_counter() - started)
    return [median(found[1:]) for found in seconds]


if __name__ == "__main__":
    main()
