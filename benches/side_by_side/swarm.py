"""`swarm`: one slow source and several devices, beside libtorrent's swarm of the same shape.

Ours is `dovetail demo`: an origin of 20 MB/s, a coordinator, and agents that all start at once. libtorrent's: a
seed of 20 MB/s and leechers that each dial the seed and all earlier leechers, as every swarm would connect in the
end; once as it is and once super-seeding. The bound is one copy at the source's rate.
"""

import json
import os
import shutil
import tempfile
import time

from .lab import RATE, check_same, publish
from .procs import MIB, Bystanders, Failed, Proc
from .table import Runs, Table, Target, number, ratio, runs_cell
from .transfer import NODE


def run(lab):
    size = (16 if lab.quick else 256) * MIB
    devices = 3 if lab.quick else 8
    count = lab.runs or (1 if lab.quick else 3)
    cases = [("dovetail", lambda: demo(lab, size, devices))]
    python = lab.libtorrent()
    if python:
        source, torrent = lab.noise(size), lab.path("source", "swarm.torrent")
        publish(lab, lab.home("publisher"), source, torrent)
        for name, role in (("libtorrent", "seed"), ("libtorrent, super-seeding", "super")):
            cases.append((name, lambda role=role: swarm(lab, python, role, source, torrent, devices)))
    results = {name: Runs(name) for name, _ in cases}
    for at in range(count):
        for name, once in cases:
            # Super-seeding is a side note: once is enough.
            if at == 0 or "super" not in name:
                results[name].add(*once())
    return report(size, devices, results)


def demo(lab, size, devices):
    folder = tempfile.mkdtemp(prefix="demo-", dir=lab.folder)
    options = ["--devices", devices, "--size", size, "--origin-limit", f"{RATE // 1_000_000}MB/s"]
    others = Bystanders()
    process = Proc(
        lab.dovetail(lab.home("demo"), "demo", *options), env={**os.environ, "TMPDIR": folder}
    )
    try:
        process.run()
        line = process.wait_line(lambda line: line.get("type") == "demo")
    finally:
        process.end()
    cores = others.cores()
    shutil.rmtree(folder)
    if not line["verified"]:
        raise Failed(f"the demo says {json.dumps(line)}")
    return cores, {
        "last_s": line["elapsed_us"] / 1e6,
        "copies": line["origin_copies_permille"] / 1000,
    }


def swarm(lab, python, role, source, torrent, devices):
    folder = lab.path("swarm-lt", "x").parent
    seed = Proc([python, NODE, role, torrent, source.parent, RATE], stdin=-1)
    processes, ports = [seed], []
    try:
        ports.append(seed.wait_line(lambda line: "port" in line)["port"])
        leeches = []
        for at in range(devices):
            home = folder / str(at)
            home.mkdir()
            leech = Proc([python, NODE, "leech", torrent, home], stdin=-1)
            processes.append(leech)
            leeches.append(leech)
        for leech in leeches:
            leech.port = leech.wait_line(lambda line: "port" in line)["port"]
        others, began = Bystanders(), time.monotonic()
        for leech in leeches:
            leech.write("get " + " ".join(str(port) for port in ports))
            ports.append(leech.port)
        for leech in leeches:
            leech.wait_line(lambda line: "done" in line, 600)
        last = time.monotonic() - began
        cores = others.cores()
        seed.write("sent")
        sent = seed.wait_line(lambda line: "sent" in line)["sent"]
    finally:
        for process in processes:
            process.end()
    for at in range(devices):
        check_same(source, folder / str(at) / source.name)
    shutil.rmtree(folder)
    return cores, {"last_s": last, "copies": sent / source.stat().st_size}


def report(size, devices, results):
    bound = size / RATE
    table = Table(
        f"swarm: {size // MIB} MiB to {devices} devices, source of {RATE // 1_000_000} MB/s, bound {bound:.1f} s (medians)",
        "program", "last device s", "÷ bound", "fastest", "slowest", "copies from the source", "runs",
    )
    for runs in results.values():
        m, (fastest, slowest) = runs.median, runs.spread("last_s")
        table.row(
            runs.what, number(m("last_s")), number(ratio(m("last_s"), bound)), number(fastest),
            number(slowest), number(m("copies")), runs_cell(runs),
        )
    mine = results["dovetail"]
    targets = [
        Target("swarm: last device ÷ bound", ratio(mine.median("last_s"), bound), 1.15),
        Target("swarm: copies from the origin", mine.median("copies"), 1.1),
    ]
    return [table], targets, [runs.summary() for runs in results.values()]
