"""`transfer`: one peer to one peer over loopback, beside libtorrent with the same metainfo file.

Ours: wall time is the life of the `get` process. libtorrent's: from adding the torrent until the file is complete
and flushed, so that the start of its Python does not count. CPU of the seeds: what they used meanwhile.
"""

import shutil
from pathlib import Path

from .lab import check_same, publish
from .procs import MIB, Bystanders, Proc, cpu_s, peak_bytes
from .table import Runs, Table, Target, mib, number, ratio, runs_cell


def run(lab):
    size = (64 if lab.quick else 1024) * MIB
    count = lab.runs or (1 if lab.quick else 5)
    source = lab.noise(size)
    torrent = lab.path("source", "transfer.torrent")
    results = {}
    with ours(lab, source, torrent) as seed:
        pairs = [("dovetail", lambda: dovetail(lab, seed, source, torrent))]
        python = lab.libtorrent()
        if python:
            theirs = Proc([python, NODE, "seed", torrent, source.parent], stdin=-1)
            pairs.append(("libtorrent", lambda: libtorrent(lab, python, theirs, source, torrent)))
        try:
            for _ in range(count):
                for name, once in pairs:
                    results.setdefault(name, Runs(name)).add(*once())
        finally:
            if python:
                theirs.end()
    return report(size, results)


NODE = Path(__file__).with_name("lt_node.py")


class ours:
    """Our seed: an agent that was handed the file."""

    def __init__(self, lab, source, torrent):
        self.lab, self.source, self.torrent = lab, source, torrent

    def __enter__(self):
        home = self.lab.home("seed")
        command = self.lab.dovetail(home, "agent", "--share", "--listen", "127.0.0.1:0")
        self.agent = Proc(command)
        try:
            ready = self.agent.wait_line(lambda line: line.get("type") == "listening")
            self.address = ready["listening"]
            publish(self.lab, home, self.source, self.torrent)
        except BaseException:
            self.agent.end()
            raise
        return self

    def __exit__(self, *_):
        self.agent.end()


def dovetail(lab, seed, source, torrent):
    home = lab.home("leech")
    output = home / "got.bin"
    options = ["--metainfo", torrent, "--require-peers", "--peer", seed.address, "-o", output]
    others, before = Bystanders(), cpu_s(seed.agent.pid)
    leech = Proc(lab.dovetail(home, "get", *options))
    try:
        life = leech.run()
    finally:
        leech.end()
    figures = {
        "wall_s": life["wall_s"],
        "leech_cpu_s": life["cpu_s"],
        "seed_cpu_s": cpu_s(seed.agent.pid) - before,
        "leech_peak": life["peak"],
        "seed_peak": peak_bytes(seed.agent.pid),
    }
    cores = others.cores()
    check_same(source, output)
    shutil.rmtree(home)
    return cores, figures_of(figures, source)


def libtorrent(lab, python, seed, source, torrent):
    folder = lab.path("leech-lt", "x").parent
    port = seed.wait_line(lambda line: "port" in line)["port"]
    leech = Proc([python, NODE, "leech", torrent, folder], stdin=-1)
    try:
        leech.wait_line(lambda line: "port" in line)
        others, before = Bystanders(), cpu_s(seed.pid)
        leech.write(f"get {port}")
        done = leech.wait_line(lambda line: "done" in line, 300)
        figures = {
            "wall_s": done["wall_s"],
            "leech_cpu_s": done["cpu_s"],
            "seed_cpu_s": cpu_s(seed.pid) - before,
            "leech_peak": peak_bytes(leech.pid),
            "seed_peak": peak_bytes(seed.pid),
        }
        cores = others.cores()
    finally:
        leech.end()
    check_same(source, folder / source.name)
    shutil.rmtree(folder)
    return cores, figures_of(figures, source)


def figures_of(figures, source):
    size = source.stat().st_size
    pair = figures["leech_cpu_s"] + figures["seed_cpu_s"]
    figures["mib_per_s"] = size / MIB / figures["wall_s"]
    figures["pair_cpu_s_per_gib"] = pair * (1 << 30) / size
    return figures


def report(size, results):
    table = Table(
        f"transfer: {size // MIB} MiB, one peer to one peer (medians)",
        "program", "wall s", "MiB/s", "CPU s leech", "CPU s seed", "CPU s/GiB pair", "peak MiB leech", "peak MiB seed", "runs",
    )
    for runs in results.values():
        m = runs.median
        table.row(
            runs.what, number(m("wall_s")), number(m("mib_per_s"), 0), number(m("leech_cpu_s")),
            number(m("seed_cpu_s")), number(m("pair_cpu_s_per_gib")), mib(m("leech_peak")),
            mib(m("seed_peak")), runs_cell(runs),
        )
    mine, theirs = results["dovetail"], results.get("libtorrent")
    speed = ratio(mine.median("mib_per_s"), theirs.median("mib_per_s")) if theirs else None
    peak = max(run[key] for run in mine.runs for key in ("leech_peak", "seed_peak")) / MIB
    targets = [
        Target("transfer: speed ÷ libtorrent's", speed, 2.0, at_most=False),
        Target("transfer: CPU seconds per GiB, both ends", mine.median("pair_cpu_s_per_gib"), 2.1),
        Target("transfer: peak MiB of either end", peak, 64),
    ]
    return [table], targets, [runs.summary() for runs in results.values()]
