"""The table and the plot of what has been measured; a ratio appears only beside losses that agree."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import Case, cases

AGREEMENT = {"saelens": 1e-3, "dictionary_learning": 2e-2, "sparsify": 2e-2}  # of 20 losses, relative
HEADER = (
    "| size | architecture | L0 | library | runs | s / step | ours is faster by | peak MB | ours / theirs | losses |"
)


def write_report(results: Path) -> None:
    """Write table.md and ratios.svg into the folder of the results."""
    measured = load(results / "steps")
    lines = [HEADER, "|" + "---|" * HEADER.count(" | ") + "---|"]
    bars: dict[str, float] = {}
    for case in cases():
        runs = measured.get(case.name)
        ours = measured.get(Case(case.size, case.architecture, case.l0, "sae_platform").name)
        if not runs or not ours:
            continue
        seconds, memory = (median(run[key] for run in runs) for key in ("seconds", "peak_mb"))
        our_seconds, our_memory = (median(run[key] for run in ours) for key in ("seconds", "peak_mb"))
        speed = share = agreement = ""
        if case.library == "bound":
            agreement = f"ours reaches {seconds / our_seconds:.0%}"
        elif case.library != "sae_platform":
            difference = disagreement(results, case)
            agreement = "not compared" if difference is None else f"{difference:.1e}"
            if difference is not None and difference <= AGREEMENT[case.library]:
                speed, share = f"{seconds / our_seconds:.1f}x", f"{our_memory / memory:.2f}"
                bars[f"{case.architecture} L0 {case.l0}, {label(case)} ({case.size})"] = seconds / our_seconds
        lines.append(
            f"| {case.size} | {case.architecture} | {case.l0} | {label(case)} | {len(runs)} | {seconds:.3f} | {speed} "
            f"| {memory:,.0f} | {share} | {agreement} |"
        )
    (results / "table.md").write_text("\n".join(lines) + "\n")
    if bars:
        (results / "ratios.svg").write_text(plot(bars))


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs by the name of their case."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text())
        found[Case(**run["case"]).name].append(run)
    return found


def disagreement(results: Path, case: Case) -> float | None:
    """Largest relative difference between a peer's 20 losses and ours; None when either was not measured."""
    losses = load(results / "losses")
    theirs, ours = (
        losses.get(each.parity_twin().name)
        for each in (case, Case(case.size, case.architecture, case.l0, "sae_platform"))
    )
    if not theirs or not ours:
        return None
    pairs = zip(theirs[0]["losses"], ours[0]["losses"], strict=True)
    return max(abs(one - other) / abs(other) for one, other in pairs)


def label(case: Case) -> str:
    """How people call it."""
    return case.library if case.setting == "default" else f"{case.library}, {case.setting}"


def plot(bars: dict[str, float]) -> str:
    """Horizontal bars of how many times faster our step is, as SVG."""
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
        f'<text x="{left}" y="24" font-weight="bold">Seconds of a peer\'s step / seconds of ours</text>'
        + "".join(rows)
        + f'<line x1="{left + unit:.1f}" y1="34" x2="{left + unit:.1f}" y2="{total - 8}" stroke="#999" '
        'stroke-dasharray="3 3"/></svg>\n'
    )
