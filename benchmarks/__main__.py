"""Run what has not been measured yet, one process a run, and write the table.

    python -m benchmarks [--only REGEX] [--repeats 5]

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

from benchmarks.cases import PAGES, Case, cases
from benchmarks.report import write_report

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
OURS = ("sae_platform", "bound")  # what runs in this environment; the peers need other versions of their dependencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure only cases whose name matches this regular expression")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    chosen = [case for case in cases() if re.search(options.only, case.name)]
    for case in chosen:
        if case.library != "bound":
            measure(case.parity_twin(), "losses", 0)
    for repeat in range(options.repeats):
        for case in chosen if repeat % 2 == 0 else reversed(chosen):
            measure(case, "steps", repeat)
    write_report(RESULTS)


def measure(case: Case, mode: str, repeat: int) -> None:
    """Run a case in a process of its own, unless its file is there. A process that fails ends the benchmark."""
    file = RESULTS / mode / f"{case.name}-{repeat}.json"
    if file.exists():
        return
    print(f"{mode} {case.name} {repeat}", file=sys.stderr, flush=True)
    python = sys.executable if case.library in OURS else str(ROOT.parent / ".peers/bin/python")
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "WANDB_MODE": "disabled"}
    if case.setting in PAGES:
        environment["THP_MEM_ALLOC_ENABLE"] = PAGES[case.setting]
    done = subprocess.run(
        [python, "-m", "benchmarks.worker", json.dumps(case.dump()), mode],
        cwd=ROOT.parent, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{case.name} failed:\n{done.stderr}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(done.stdout.splitlines()[-1] + "\n")


if __name__ == "__main__":
    main()
