"""Run what has not been measured yet, one process a run, and write the tables.

    python -m benchmarks [--only REGEX] [--repeats 5] [--device cpu]

Every run is a file under results/; delete it to measure again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.cases import SMALL_PAGES, Case, Stage, cases, stages
from benchmarks.report import write_report

ROOT = Path(__file__).parent
OURS = ("sae_platform", "bound")  # what runs in this environment; the peers need other versions of their dependencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only what has a name, such as steps/M-topk, with this in it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    options = parser.parse_args()
    device = options.device or found_device()
    every: list[Case | Stage] = [*cases(device), *stages(device)]
    chosen = [case for case in every if re.search(options.only, f"{case.mode}/{case.name}")]
    for case in chosen:
        if isinstance(case, Case) and case.library not in OURS:
            for each in (case, case.same_options()):
                measure(each.parity_twin(), "losses", device, 0)
    for repeat in range(options.repeats):
        for case in chosen if repeat % 2 == 0 else reversed(chosen):
            measure(case, case.mode, device, repeat)
    (ROOT / "results" / device).mkdir(parents=True, exist_ok=True)
    write_report(ROOT / "results" / device, device)


def found_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def measure(case: Case | Stage, mode: str, device: str, repeat: int) -> None:
    """Run a case in a process of its own, unless its file is there. One that fails is said and left out."""
    file = ROOT / "results" / device / mode / f"{case.name}-{repeat}.json"
    if file.exists():
        return
    print(f"{mode} {case.name} {repeat}", file=sys.stderr, flush=True)
    python = sys.executable if case.library in OURS else str(ROOT.parent / ".peers/bin/python")
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    if device == "cpu":
        environment["OMP_NUM_THREADS"] = "2"
    if case.library in OURS:
        environment["THP_MEM_ALLOC_ENABLE"] = "0" if case.setting == SMALL_PAGES else "1"
    done = subprocess.run(
        [python, "-m", "benchmarks.worker", mode, json.dumps(case.dump()), device],
        cwd=ROOT.parent, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        print(f"{case.name} failed:\n{done.stderr}", file=sys.stderr)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(done.stdout.splitlines()[-1] + "\n")


if __name__ == "__main__":
    main()
