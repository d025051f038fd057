"""The tables and the plot of what has been measured; a ratio appears only beside work that was the same."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import Case, Stage, cases, stages

AGREEMENT = {"saelens": 1e-3, "dictionary_learning": 2e-2, "sparsify": 2e-2}  # of 20 losses, relative
ROUNDED = 2e-2  # the same, in lower precision
SAME_WORK = {"harvest": 0.05, "end_to_end": 0.15}  # of the number that a stage is checked by, relative
MIXED = 0.8  # of the distance that a peer's buffer moves rows by, which ours has to reach
STEPS = ("size", "architecture", "L0", "library", "runs", "s / step", "range", "ours is faster by", "peak MB",
         "ours / theirs", "losses differ by")  # fmt: skip
STAGES = ("stage", "library", "runs", "tokens / s", "range", "ours is faster by", "peak MB", "check")


def write_report(results: Path, device: str) -> None:
    """Write table.md and ratios.svg into the folder of the results."""
    bars: dict[str, float] = {}
    steps, parts = step_rows(results, device, bars), stage_rows(results, device, bars)
    (results / "table.md").write_text(f"{table(STEPS, steps)}\n\n{table(STAGES, parts)}\n")
    if bars:
        (results / "ratios.svg").write_text(plot(bars))


def step_rows(results: Path, device: str, bars: dict[str, float]) -> list[Sequence[str]]:
    """A row for every step that was measured; ratios go into `bars` too."""
    measured = load(results / "steps", Case)
    rows: list[Sequence[str]] = []
    for case in cases(device):
        runs, ours = measured.get(case), measured.get(case.ours())
        if not runs or not ours:
            continue
        seconds, memory = middle(runs, "seconds"), middle(runs, "peak_mb")
        ratio = share = agreement = ""
        if case.library == "bound":
            agreement = f"ours reaches {seconds / middle(ours, 'seconds'):.0%}"
        elif case.library != "sae_platform":
            difference = disagreement(results, case)
            agreement = "not compared" if difference is None else f"{difference:.0e}"
            if difference is not None and difference <= tolerance(case):
                speed = seconds / middle(ours, "seconds")
                ratio, share = f"{speed:.1f}x", f"{middle(ours, 'peak_mb') / memory:.2f}"
                bars[f"{case.architecture} L0 {case.l0}, {label(case)} ({case.size})"] = speed
        rows.append(
            (case.size, case.architecture, str(case.l0), label(case), str(len(runs)), f"{seconds:.3f}",
             spread([run["seconds"] for run in runs], "{:.2f}"), ratio, f"{memory:,.0f}", share, agreement)
        )  # fmt: skip
    return rows


def stage_rows(results: Path, device: str, bars: dict[str, float]) -> list[Sequence[str]]:
    """A row for every stage that was measured; ratios go into `bars` too."""
    rows: list[Sequence[str]] = []
    for stage in stages(device):
        measured = load(results / stage.mode, Stage)
        runs, ours = measured.get(stage), measured.get(stage.ours())
        if not runs or not ours:
            continue
        rates = [run["tokens"] / run["seconds"] for run in runs]
        check, ratio = middle(runs, "check"), ""
        if stage != stage.ours() and same_work(stage, check, middle(ours, "check")):
            speed = median(run["tokens"] / run["seconds"] for run in ours) / median(rates)
            ratio = f"{speed:.1f}x"
            bars[f"{stage.mode.replace('_', ' ')}, {stage.library}"] = speed
        rows.append(
            (stage.mode.replace("_", " "), stage.library, str(len(runs)), f"{median(rates):,.0f}",
             spread(rates, "{:,.0f}"), ratio, f"{middle(runs, 'peak_mb'):,.0f}", f"{check:.4g}")
        )  # fmt: skip
    return rows


def same_work(stage: Stage, theirs: float, ours: float) -> bool:
    """Whether two stages may be compared, by the numbers that they are checked by."""
    if stage.mode == "buffer":
        return ours >= MIXED * theirs
    return abs(theirs - ours) <= SAME_WORK[stage.mode] * abs(ours)


def load(folder: Path, kind: type[Any]) -> dict[Any, list[dict[str, Any]]]:
    """Runs by their case."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text())
        found[kind(**run["case"])].append(run)
    return found


def disagreement(results: Path, case: Case) -> float | None:
    """Largest relative difference between a peer's 20 losses and ours; None when either was not measured."""
    losses = load(results / "losses", Case)
    theirs, ours = (losses.get(each.parity_twin()) for each in (case, case.same_options()))
    if not theirs or not ours:
        return None
    pairs = zip(theirs[0]["losses"], ours[0]["losses"], strict=True)
    return max(abs(one - other) / abs(other) for one, other in pairs)


def tolerance(case: Case) -> float:
    return AGREEMENT[case.library] if case.ours().setting == "default" else ROUNDED


def middle(runs: Sequence[dict[str, Any]], key: str) -> float:
    return median(run[key] for run in runs)


def spread(numbers: Sequence[float], form: str) -> str:
    return f"{form.format(min(numbers))} to {form.format(max(numbers))}"


def label(case: Case) -> str:
    """How people call it."""
    return case.library if case.setting == "default" else f"{case.library}, {case.setting}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(bars: dict[str, float]) -> str:
    """Horizontal bars of how many times faster ours is, as SVG."""
    height, left, width = 26, 380, 420
    unit = width / max(bars.values())
    rows = []
    for number, (name, ratio) in enumerate(bars.items()):
        y = 40 + number * height
        rows.append(
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{name}</text>'
            f'<rect x="{left}" y="{y}" width="{ratio * unit:.1f}" height="18" rx="2" fill="#3b6ea8"/>'
            f'<text x="{left + ratio * unit + 6:.1f}" y="{y + 14}">{ratio:.1f}x</text>'
        )
    total = 50 + len(bars) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{total}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="24" font-weight="bold">How many times faster ours is (1x: the dashed line)</text>'
        + "".join(rows)
        + f'<line x1="{left + unit:.1f}" y1="34" x2="{left + unit:.1f}" y2="{total - 8}" stroke="#999" '
        'stroke-dasharray="3 3"/></svg>\n'
    )
