"""Measure one case in this interpreter and print what was found as one line of JSON.

python -m benchmarks.worker steps|losses|buffer|harvest|end_to_end CASE_JSON DEVICE
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.cases import Case, Stage

THREADS = 2
SOON = 1.0  # seconds; what a first step costs once, a fresh buffer or thread, is little beside a longer step
PARITY_STEPS, PARITY_LR = 20, 1e-4
HOLDING_LR = 1e-9  # keeps the number of active features where it is


def main() -> None:
    mode, case, device = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    import torch

    if device == "cpu":
        torch.set_num_threads(THREADS)
    measure = {"steps": steps, "losses": losses}.get(mode, stage)
    found = measure(Case(**case) if measure is not stage else Stage(**case), device)
    print(json.dumps({"case": case, **found}))


def steps(case: Case, device: str) -> dict[str, Any]:
    """Seconds of a step, and the memory it takes. Before it comes a step on a quarter of a batch, and one on a whole
    batch where that is soon done."""
    build = import_module(f"benchmarks.steps.{case.library}").build
    from benchmarks.data import data

    baseline = peak_mb(device)
    given = data(case, 2, device)
    step = build(case, given, HOLDING_LR)
    quarter = seconds_of(step, given.batches[1][: len(given.batches[1]) // 4])
    if quarter < SOON:
        step(given.batches[1])
    return {"seconds": seconds_of(step, given.batches[0]), "peak_mb": peak_mb(device) - baseline}


def seconds_of(step: Callable[[Any], float], x: Any) -> float:
    """How long a step takes; its loss is on the host when it returns."""
    started = time.perf_counter()
    step(x)
    return time.perf_counter() - started


def losses(case: Case, device: str) -> dict[str, Any]:
    """The losses of the first steps."""
    build = import_module(f"benchmarks.steps.{case.library}").build
    from benchmarks.data import data

    given = data(case, 4, device)
    step = build(case, given, PARITY_LR)
    return {"losses": [step(given.batches[number % 4]) for number in range(PARITY_STEPS)]}


def stage(case: Stage, device: str) -> dict[str, Any]:
    """Tokens a second of a stage, and a number that tells whether libraries did the same work."""
    prepare = getattr(import_module(f"benchmarks.stages.{case.library}"), case.mode)
    baseline = peak_mb(device)
    run = prepare(device)
    started = time.perf_counter()
    tokens, check = run()
    seconds, memory = time.perf_counter() - started, peak_mb(device) - baseline
    return {"tokens": tokens, "seconds": seconds, "check": check(), "peak_mb": memory}


def peak_mb(device: str) -> float:
    """Most memory held so far: by this process, or by torch on the device."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
