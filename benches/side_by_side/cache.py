"""`cache`: `dovetail cache` beside nginx with `proxy_cache` and `slice`, before the same origin.

Three things: what hits cost the server, how long a miss takes when the origin is far away, and how often the origin
is asked when fifty clients want the same at once.
"""

import hashlib
import os
import shutil
import subprocess
import time

from . import link
from .lab import free_port
from .nginx import Nginx, wait_for
from .procs import MIB, Bystanders, Failed, cpu_s, peak_bytes
from .table import Runs, Table, Target, mib, number, ratio, runs_cell

CACHE = """
slice 1m; proxy_cache files; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;
proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {origin};
proxy_cache_valid 200 206 1h; proxy_cache_lock on; proxy_pass http://origin;
"""
KEPT = "upstream origin {{ server {origin}; keepalive 16; }}"
RATE, ROUND_TRIP_S = 100_000_000 // 8, 0.020
CLIENTS, CROWD, LANES = 4, 50, 4


class Ours:
    """`dovetail cache`, as `Nginx` is."""

    def __init__(self, lab, folder, at, origin_at, where):
        self.at = at
        cache = ["cache", "--allow", origin_at, "--listen", at, "--folder", folder]
        command = [*where, *map(str, lab.dovetail(lab.home("cache"), *cache))]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(at, self.process, where)
        except Failed:
            self.end()
            raise

    def cpu_s(self):
        return cpu_s(self.process.pid)

    def peak(self):
        return peak_bytes(self.process.pid)

    def end(self):
        self.process.terminate()
        self.process.wait()


class Stage:
    """An origin and, when asked for, caches before it; `near` and `far` say where they run."""

    def __init__(self, lab, nginx, near=(), far=(), origin_addr="127.0.0.1"):
        self.lab, self.nginx, self.near, self.far = lab, nginx, list(near), list(far)
        self.origin_at = f"{origin_addr}:{free_port()}"
        self.running = []

    def __enter__(self):
        source = self.lab.path("source", "x").parent
        self.log = self.lab.path("cache-origin", "sent.log")
        self.start_nginx(self.log.parent, self.far, self.origin_at, f"root {source};", log=f"{self.log} sent")
        return self

    def start_nginx(self, folder, where, at, location, **more):
        return self.started(Nginx(self.nginx, folder, at, location, where=where, **more))

    def start(self, name):
        """A cache with nothing in it."""
        at = f"127.0.0.1:{free_port()}"
        folder = self.fresh(f"cache-{name}")
        if name == "dovetail":
            return self.started(Ours(self.lab, folder, at, self.origin_at, self.near))
        files = f"proxy_cache_path {folder}/files keys_zone=files:16m max_size=8g inactive=1h use_temp_path=off;"
        more = files + KEPT.format(origin=self.origin_at)
        return self.start_nginx(folder, self.near, at, CACHE.format(origin=self.origin_at), more=more)

    def fresh(self, name):
        folder = self.lab.path(name, "x").parent
        shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def started(self, server):
        self.running.append(server)
        self.origin_sent()
        return server

    def stop(self, server):
        server.end()
        self.running.remove(server)

    def origin_sent(self):
        """Bytes the origin has sent since this was last asked."""
        if not self.log.exists():
            return 0
        time.sleep(0.05)
        sent = sum(int(line) for line in self.log.read_text().split())
        os.truncate(self.log, 0)
        return sent

    def curl(self, at, name, *more):
        """A client of a cache or of the origin."""
        host = ["-H", f"Host: {self.origin_at}"]
        return [*self.near, "curl", "-sS", "--fail", *host, *more, f"http://{at}/{name}"]

    def __exit__(self, *_):
        for server in reversed(self.running):
            server.end()


def run(lab):
    nginx = lab.nginx()
    if not nginx:
        return [], [], []
    with Stage(lab, nginx) as stage:
        warm = measure_warm(stage)
        crowd = measure_crowd(stage)
    cold = []
    if why := link.why_not():
        lab.skip("cache misses of a far origin", why)
    else:
        buffer = int(RATE * 2 * ROUND_TRIP_S)
        with link.Link(RATE, ROUND_TRIP_S, buffer) as line:
            with Stage(lab, nginx, line.near, line.far, link.FAR_ADDR) as stage:
                cold = measure_cold(stage)
    return report(warm, cold, crowd)


# --- hits


def measure_warm(stage):
    lab = stage.lab
    size = (64 if lab.quick else 256) * MIB
    source = lab.noise(size)
    digest = sha256(source)
    count = lab.runs or (1 if lab.quick else 7)
    servers = {name: stage.start(name) for name in ("dovetail", "nginx")}
    results = []
    for what, clients in (("whole files", whole_files), ("ranges of 1 MiB", ranges)):
        runs = {name: Runs(name) for name in servers}
        for server in servers.values():
            # Fetched, stored, and looked at once.
            for _ in range(2):
                check(stage, server.at, source.name, digest)
        for at in range(count):
            for name, server in in_turn(servers.items(), at):
                cores, figures = measured(server, lambda: four_times(stage, server.at, source.name, size, clients))
                figures["mib_per_cpu_s"] = 4 * CLIENTS * size / MIB / max(figures["cpu_s"], 0.01)
                runs[name].add(cores, figures)
                check(stage, server.at, source.name, digest)
        results.append((what, size, runs))
    for server in servers.values():
        stage.stop(server)
    return results


def in_turn(cases, at):
    """Whoever goes first in one round goes last in the next."""
    return list(cases) if at % 2 == 0 else list(cases)[::-1]


def measured(server, work):
    """What work costs a server: how much others used meanwhile, and the figures."""
    others, cpu, began = Bystanders(), server.cpu_s(), time.monotonic()
    work()
    wall = time.monotonic() - began
    return others.cores(), {"wall_s": wall, "cpu_s": server.cpu_s() - cpu, "peak": server.peak()}


def four_times(stage, at, name, size, clients):
    for _ in range(4):
        clients(stage, at, name, size)


def whole_files(stage, at, name, size, count=CLIENTS):
    """Several clients at once."""
    write = ["-o", "/dev/null", "-w", "%{size_download}"]
    get_all([stage.curl(at, name, *write) for _ in range(count)], size)


def ranges(stage, at, name, size):
    """Several clients at once, each over one connection, in parts."""
    config = stage.lab.path("ranges.curl")
    parts = []
    for start in range(0, size, MIB):
        parts.append(
            f'url = "http://{at}/{name}"\nrange = {start}-{start + MIB - 1}\noutput = /dev/null\n'
            f'header = "Host: {stage.origin_at}"\nfail\nsilent\nshow-error\nwrite-out = "%{{size_download}}\\n"\n'
        )
    config.write_text("next\n".join(parts))
    get_all([[*stage.near, "curl", "-K", str(config)] for _ in range(CLIENTS)], size)


def get_all(commands, size):
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        got = sum(int(line) for line in process.communicate()[0].split())
        if process.returncode != 0 or got != size:
            raise Failed(f"a client got {got} of {size} bytes")


# --- misses


def measure_cold(stage):
    lab = stage.lab
    size = (16 if lab.quick else 64) * MIB
    source = lab.noise(size)
    count = lab.runs or (1 if lab.quick else 5)
    cases = {
        f"directly, {LANES} ranges at once": lambda: direct(stage, source, size, LANES),
        "directly, one connection": lambda: direct(stage, source, size, 1),
        "dovetail, cold": lambda: through(stage, "dovetail", source, size),
        "nginx, cold": lambda: through(stage, "nginx", source, size),
    }
    results = {name: Runs(name) for name in cases}
    for at in range(count):
        for name, once in in_turn(cases.items(), at):
            others = Bystanders()
            figures = once()
            results[name].add(others.cores(), figures)
    return [(size, results)]


def direct(stage, source, size, lanes):
    part = size // lanes
    outs = [stage.lab.path("got", f"part{n}") for n in range(lanes)]
    began = time.monotonic()
    first = clients(
        stage.curl(stage.origin_at, source.name, *times(out), "-r", f"{n * part}-{(n + 1) * part - 1}")
        for n, out in enumerate(outs)
    )
    wall = time.monotonic() - began
    same(source, outs)
    return {"wall_s": wall, "first_s": first, "sent": stage.origin_sent() / size}


def through(stage, name, source, size):
    server = stage.start(name)
    out = stage.lab.path("got", "whole")
    began = time.monotonic()
    first = clients([stage.curl(server.at, source.name, *times(out))])
    wall = time.monotonic() - began
    same(source, [out])
    figures = {"wall_s": wall, "first_s": first, "sent": stage.origin_sent() / size}
    stage.stop(server)
    return figures


def times(out):
    return ["-o", str(out), "-w", "%{time_starttransfer}"]


def clients(commands):
    """Run them at once; when the first of them got its first byte."""
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    firsts = [float(process.communicate()[0]) for process in processes]
    if any(process.returncode != 0 for process in processes):
        raise Failed("a client failed")
    return min(firsts)


# --- many at once


def measure_crowd(stage):
    lab = stage.lab
    size = (32 if lab.quick else 256) * MIB
    source = lab.noise(size)
    digest = sha256(source)
    count = lab.runs or (1 if lab.quick else 3)
    results = {name: Runs(name) for name in ("dovetail", "nginx")}
    for at in range(count):
        for name, runs in in_turn(results.items(), at):
            server = stage.start(name)
            cores, figures = measured(server, lambda: whole_files(stage, server.at, source.name, size, CROWD))
            figures["copies"] = stage.origin_sent() / size
            check(stage, server.at, source.name, digest)
            runs.add(cores, figures)
            stage.stop(server)
    return [(size, results)]


# --- what it comes to


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(stage, at, name, digest):
    got = subprocess.run(stage.curl(at, name), stdout=subprocess.PIPE, check=False)
    if hashlib.sha256(got.stdout).hexdigest() != digest:
        raise Failed(f"what {at} gives is not the file ({len(got.stdout)} bytes)")


def same(source, parts):
    got = hashlib.sha256()
    for part in parts:
        got.update(part.read_bytes())
        part.unlink()
    if got.hexdigest() != sha256(source):
        raise Failed("what was downloaded is not the file")


def report(warm, cold, crowd):
    tables, targets, summaries = [], [], []
    for what, size, runs in warm:
        table = Table(
            f"cache, hits: {CLIENTS} clients, {what}, {size // MIB} MiB each, four times (medians)",
            "server", "MiB per CPU s", "least", "most", "wall s", "peak MiB", "runs",
        )
        for each in runs.values():
            least, most = each.spread("mib_per_cpu_s")
            table.row(
                each.what, number(each.median("mib_per_cpu_s"), 0), number(least, 0), number(most, 0),
                number(each.median("wall_s")), mib(each.median("peak")), runs_cell(each),
            )
        tables.append(table)
        ours, theirs = (runs[name].median("mib_per_cpu_s") for name in ("dovetail", "nginx"))
        targets.append(Target(f"cache: hits, {what}, bytes per CPU second ÷ nginx's", ratio(ours, theirs), 0.9, False))
        summaries += [each.summary() for each in runs.values()]
    for size, runs in cold:
        table = Table(
            f"cache, a miss: {size // MIB} MiB, origin at {RATE * 8 // 1_000_000} Mbit/s and "
            f"{ROUND_TRIP_S * 1000:.0f} ms (medians)",
            "how", "wall s", "fastest", "slowest", "first byte ms", "copies", "runs",
        )
        for each in runs.values():
            fastest, slowest = each.spread("wall_s")
            table.row(
                each.what, number(each.median("wall_s")), number(fastest), number(slowest),
                number(each.median("first_s") * 1000, 0), number(each.median("sent"), 3), runs_cell(each),
            )
        tables.append(table)
        direct_s, ours_s = (list(runs.values())[n].median("wall_s") for n in (0, 2))
        targets.append(Target("cache: a miss, parallel download's wall ÷ ours", ratio(direct_s, ours_s), 0.95, False))
        summaries += [each.summary() for each in runs.values()]
    for size, runs in crowd:
        table = Table(
            f"cache, {CROWD} clients at once ask for {size // MIB} MiB that is not there (medians)",
            "server", "copies from the origin", "wall s", "CPU s", "peak MiB", "runs",
        )
        for each in runs.values():
            table.row(
                each.what, number(each.median("copies"), 4), number(each.median("wall_s")),
                number(each.median("cpu_s")), mib(each.median("peak")), runs_cell(each),
            )
        tables.append(table)
        most = max(run["copies"] for run in runs["dovetail"].runs)
        targets.append(Target(f"cache: copies from the origin for {CROWD} clients", most, 1.001))
        summaries += [each.summary() for each in runs.values()]
    return tables, targets, summaries
