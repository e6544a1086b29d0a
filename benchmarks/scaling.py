"""Fixed sizes and (min, max) through the same day on made-up hosts: waiting times beside worker-seconds.

    python benchmarks/scaling.py [--chart docs/benchmarks/scaling.svg]

Nothing is measured: these are the rules of procjobs.dispatch.scaling at work in simulated_day.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from simulated_day import DAY, HOSTS, SIZES, live_through


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chart", type=Path, help="draw the day of the first host into this file (needs matplotlib)")
    arguments = parser.parse_args()
    results = {}
    for plan in HOSTS:
        print(f"\n{plan.name}")
        print("   workers    jobs  wait p50  wait p95  done p95  workers, mean  changes")
        for workers in SIZES[plan.name.partition(":")[0]]:
            result = results[plan.name, workers] = live_through(plan, workers)
            shown = f"{workers[0]} to {workers[1]}" if isinstance(workers, tuple) else str(workers)
            numbers = f"{len(result.waits):7} {result.wait(50):9.1f} {result.wait(95):9.1f} {result.turnaround(95):9.1f}"
            print(f"{shown:>10} {numbers} {result.worker_seconds / DAY:14.2f} {len(result.changes):8}")
    if arguments.chart:
        draw(HOSTS[0], results, arguments.chart)
        print(f"\n{arguments.chart}")


def draw(plan, results, path):
    """Draw the size through the day, and the waits beside those of fixed sizes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from charts import FAINT, OTHERS_COLOR, OURS_COLOR, STYLE, WIDTH, tidy

    sizes = SIZES[plan.name.partition(":")[0]]
    scaled = results[plan.name, sizes[0]]
    with mpl.rc_context(STYLE):
        figure, (day, waits) = plt.subplots(1, 2, figsize=(WIDTH, 2.6), width_ratios=(1.6, 1), constrained_layout=True)
        day.step(
            [at / 3600 for at, _ in scaled.sizes], [size for _, size in scaled.sizes], where="post", color=OURS_COLOR, lw=0.7
        )
        day.set(xlim=(0, 24), ylim=(0, None), xticks=range(0, 25, 6), xlabel="hour of the day")
        day.set_title(f"workers ({sizes[0][0]} to {sizes[0][1]}) through a simulated day: {plan.name}", fontsize=8)
        for workers in sizes:
            result = results[plan.name, workers]
            is_ours = isinstance(workers, tuple)
            at = result.worker_seconds / DAY, result.turnaround(95)
            waits.scatter(*at, color=OURS_COLOR if is_ours else OTHERS_COLOR, zorder=3)
            label = f"{workers[0]} to {workers[1]}" if is_ours else f"{workers}"
            waits.annotate(label, at, xytext=(5, 4), textcoords="offset points", fontsize=8)
        largest = max(size for size in sizes if isinstance(size, int))
        waits.set(yscale="log", xlim=(0, largest * 1.15), xlabel="workers, mean of the day")
        waits.set_title("seconds until 95 of 100 jobs are done", fontsize=8)
        figure.text(0.005, 0.005, "simulated, not measured", fontsize=6.5, color=FAINT)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    if path.suffix == ".svg":
        tidy(path)


if __name__ == "__main__":
    main()
