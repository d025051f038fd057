"""Measure one case in this interpreter and print what was found as one line of JSON.

python -m benchmarks.worker CASE_JSON steps|losses
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from statistics import median

from benchmarks.cases import Case

THREADS = 2
WARM_UP, TIMED = 1, 3
PARITY_STEPS, PARITY_LR = 20, 1e-4
HOLDING_LR = 1e-9  # keeps the number of active features where it is


def main() -> None:
    case, mode = Case(**json.loads(sys.argv[1])), sys.argv[2]
    library = import_module(f"benchmarks.libraries.{case.library}")
    import torch

    from benchmarks.data import data

    torch.set_num_threads(THREADS)
    baseline = peak()
    given = data(case)
    step = library.build(case, given, PARITY_LR if mode == "losses" else HOLDING_LR)
    found: dict[str, object] = {"case": case.dump()}
    if mode == "losses":
        found["losses"] = [step(given.batches[number % len(given.batches)]) for number in range(PARITY_STEPS)]
    else:
        seconds = []
        for number in range(WARM_UP + TIMED):
            started = time.perf_counter()
            step(given.batches[number % len(given.batches)])
            seconds.append(time.perf_counter() - started)
        found |= {"seconds": median(seconds[WARM_UP:]), "all_seconds": seconds, "peak_mb": peak() - baseline}
    print(json.dumps(found))


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
