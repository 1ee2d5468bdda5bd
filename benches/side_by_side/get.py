"""`get`: a download over HTTP from nginx, beside curl; and with a SHA-256 to check, beside curl and then openssl.

Wall time is the life of the client process or processes, CPU theirs alone. The result lies in memory for both.
"""

import hashlib
import os

from .lab import check_same, free_port
from .nginx import Nginx
from .procs import MIB, Bystanders, Failed, Proc
from .table import Runs, Table, Target, mib, number, ratio, runs_cell

def run(lab):
    nginx = lab.nginx()
    if not nginx:
        return [], [], []
    size = (64 if lab.quick else 1024) * MIB
    count = lab.runs or (1 if lab.quick else 7)
    source = lab.noise(size)
    with open(source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    server = Nginx(nginx, lab.path("nginx", "x").parent, f"127.0.0.1:{free_port()}", f"root {source.parent};")
    url = f"http://{server.at}/{source.name}"
    try:
        cases = [
            ("dovetail get", lambda out: ours(lab, url, out)),
            ("curl", lambda out: life(["curl", "-sS", "-o", out, url])),
            ("dovetail get --sha256", lambda out: ours(lab, url, out, "--sha256", sha256)),
            ("curl, then openssl dgst", lambda out: curl_and_openssl(url, out, sha256)),
        ]
        results = {name: Runs(name) for name, _ in cases}
        for at in range(count):
            # Whoever goes first in one round goes last in the next.
            for name, once in cases if at % 2 == 0 else cases[::-1]:
                results[name].add(*measure(lab, server, source, once))
    finally:
        server.end()
    return report(size, results)


def measure(lab, server, source, once):
    out = lab.path("got", "got.bin")
    others, before = Bystanders(), server.cpu_s()
    figures = once(out)
    figures["server_cpu_s"] = server.cpu_s() - before
    cores = others.cores()
    check_same(source, out)
    out.unlink()
    figures["mib_per_s"] = source.stat().st_size / MIB / figures["wall_s"]
    return cores, figures


def life(args):
    process = Proc(args)
    try:
        return process.run()
    finally:
        process.end()


def ours(lab, url, out, *more):
    home = lab.home("get")
    return life(lab.dovetail(home, "get", url, "-o", out, *more))


def curl_and_openssl(url, out, sha256):
    first = life(["curl", "-sS", "-o", out, url])
    digest = Proc(["openssl", "dgst", "-sha256", "-out", f"{out}.sha256", out])
    try:
        second = digest.run()
    finally:
        digest.end()
    said = open(f"{out}.sha256", encoding="ascii").read()
    os.unlink(f"{out}.sha256")
    if sha256 not in said:
        raise Failed(f"openssl says {said}")
    return {
        "wall_s": first["wall_s"] + second["wall_s"],
        "cpu_s": first["cpu_s"] + second["cpu_s"],
        "peak": max(first["peak"], second["peak"]),
    }


def report(size, results):
    table = Table(
        f"get: {size // MIB} MiB from nginx (medians)",
        "program", "wall s", "fastest", "slowest", "MiB/s", "CPU s client", "CPU s nginx", "peak MiB", "runs",
    )
    for runs in results.values():
        m, (fastest, slowest) = runs.median, runs.spread("wall_s")
        table.row(
            runs.what, number(m("wall_s")), number(fastest), number(slowest), number(m("mib_per_s"), 0),
            number(m("cpu_s")), number(m("server_cpu_s")), mib(m("peak")), runs_cell(runs),
        )
    plain, curl, checked, both = results.values()
    peak = max(run["peak"] for runs in (plain, checked) for run in runs.runs) / MIB
    targets = [
        Target("get: wall ÷ curl's", ratio(plain.median("wall_s"), curl.median("wall_s")), 1.15),
        Target(
            "get --sha256: wall ÷ curl's and openssl's",
            ratio(checked.median("wall_s"), both.median("wall_s")),
            1.15,
        ),
        Target("get: peak MiB", peak, 64),
    ]
    return [table], targets, [runs.summary() for runs in results.values()]
