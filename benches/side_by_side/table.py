"""Medians and tables. Targets are shown beside what was measured, and never make a run fail."""

import statistics

from .procs import MIB

# A run is called disturbed when others used more than this much of one core meanwhile.
DISTURBED_CORES = 0.3


class Runs:
    """The runs of one program at one thing."""

    def __init__(self, what):
        self.what = what
        self.runs = []

    def add(self, others_cores, figures):
        figures["others_cores"] = round(others_cores, 2)
        self.runs.append(figures)

    def calm(self):
        return [run for run in self.runs if run["others_cores"] <= DISTURBED_CORES]

    def counted(self):
        """The undisturbed runs if they are enough for a median, else all."""
        return self.calm() if len(self.calm()) >= 3 else self.runs

    def median(self, key):
        values = [run[key] for run in self.counted() if run.get(key) is not None]
        return statistics.median(values) if values else None

    def spread(self, key):
        values = [run[key] for run in self.counted() if run.get(key) is not None]
        return (min(values), max(values)) if values else (None, None)

    def summary(self):
        keys = sorted({key for run in self.runs for key in run})
        return {
            "what": self.what,
            "runs": self.runs,
            "calm": len(self.calm()),
            "median": {key: self.median(key) for key in keys},
        }


def number(value, digits=2):
    return "–" if value is None else f"{value:.{digits}f}"


def mib(value):
    return "–" if value is None else f"{value / MIB:.0f}"


def ratio(a, b):
    return None if a is None or not b else a / b


class Table:
    """Rows of text, right-aligned but for the first column."""

    def __init__(self, title, *heads):
        self.title = title
        self.rows = [heads]

    def row(self, *cells):
        self.rows.append([str(cell) for cell in cells])

    def __str__(self):
        widths = [max(len(row[at]) for row in self.rows) for at in range(len(self.rows[0]))]
        lines = []
        for row in self.rows:
            first = f"| {row[0]:<{widths[0]}} |"
            rest = [f" {cell:>{width}} |" for cell, width in zip(row[1:], widths[1:])]
            lines.append(first + "".join(rest))
        rule = "|" + "|".join("-" * (width + 1) + (":" if at else "-") for at, width in enumerate(widths)) + "|"
        return "\n".join([f"\n{self.title}\n", lines[0], rule, *lines[1:]])


def runs_cell(runs):
    """How many runs the medians are of, and how many there were; `~`: too few were undisturbed."""
    mark = "" if len(runs.calm()) >= 3 or len(runs.calm()) == len(runs.runs) else "~"
    return f"{mark}{len(runs.counted())} of {len(runs.runs)}"


class Target:
    """What the project aims at, and whether this run got there."""

    def __init__(self, name, value, limit, at_most=True):
        self.name, self.value, self.limit, self.at_most = name, value, limit, at_most

    @property
    def met(self):
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def summary(self):
        bound = {"at_most" if self.at_most else "at_least": self.limit}
        return {"target": self.name, "value": self.value, **bound, "met": self.met}


def targets_table(targets):
    table = Table("Targets", "what", "aim", "reached", "")
    for target in targets:
        word = {True: "met", False: "MISSED", None: "not measured"}[target.met]
        aim = f"{'≤' if target.at_most else '≥'} {target.limit:g}"
        table.row(target.name, aim, number(target.value), word)
    return table
