"""Draws the lines of `yield` over time, with matplotlib: what both have of the line, and the queue.

As a program, run by a Python that has matplotlib: draw.py LINES.json OUT.svg
"""

import json
import subprocess
import sys
from pathlib import Path

STEP_S = 0.2


def write(lab, drawings):
    """One file; where it is is printed at the end."""
    python = lab.matplotlib()
    if not python:
        return lab.skip("the drawing of yield", "matplotlib cannot be installed from PyPI here")
    lines, out = lab.path("yield-lines.json"), lab.drawing
    lines.write_text(json.dumps(drawings), encoding="utf-8")
    done = subprocess.run([str(python), __file__, str(lines), str(out)], capture_output=True, text=True)
    if done.returncode:
        return lab.skip("the drawing of yield", done.stderr.strip().splitlines()[-1])
    return lab.note(f"drawn: {out}")


def main():
    import matplotlib

    matplotlib.use("svg")
    # Text as text, and the same file for the same lines.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dovetail", "font.size": 8}
    from matplotlib import pyplot

    drawings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    figure, rows = pyplot.subplots(len(drawings), 1, sharex=True, figsize=(8, 1.7 * len(drawings) + 0.6), squeeze=False)
    for (name, lines), (rates,) in zip(drawings.items(), rows):
        at = [n * STEP_S for n in range(len(lines["foreground"]))]
        rates.fill_between(at, lines["foreground"], color="tab:blue", alpha=0.25, linewidth=0)
        rates.plot(at, lines["foreground"], color="tab:blue", linewidth=1, label="foreground, Mbit/s")
        rates.plot(at, lines["background"], color="tab:orange", linewidth=1, label="background, Mbit/s")
        rates.set_ylim(0, 22)
        rates.set_title(name, loc="left", fontsize=9)
        queue = rates.twinx()
        queue.plot(at, lines["queue_ms"], color="tab:gray", linewidth=0.7, label="queue, ms (right)")
        queue.set_ylim(0, 110)
    handles = [line for axes in (rates, queue) for line in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="upper right", ncols=3, frameon=False)
    rates.set_xlabel("seconds")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
