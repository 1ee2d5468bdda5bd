"""`yield`: what background traffic leaves to a person on the same line, beside other programs' background traffic.

Two network namespaces with a line between them (`link.py`), 20 Mbit/s and 20 ms. The foreground is iperf3 with CUBIC
or BBR, transfers of 300 kB over fresh CUBIC connections, and ping. The background: our upload to a peer, our download
from nginx with `--background`, libtorrent's uTP upload, a plain CUBIC flow. Shares are counted at the line.
"""

import contextlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from . import link
from .lab import publish
from .link import FAR_ADDR, NEAR_ADDR, Link
from .nginx import Nginx
from .procs import MIB, Failed, Proc
from .table import Table, Target, number

RATE = 20_000_000 / 8
ROUND_TRIP_S = 0.020
FOREGROUND, PEER, WEB, THEIRS, PLAIN = 5201, 7680, 8080, 6881, 5301
KINDS = {FOREGROUND: "foreground", PEER: "background", WEB: "background", THEIRS: "background", PLAIN: "background"}
CLICK = Path(__file__).with_name("click.py")
NODE = Path(__file__).with_name("lt_node.py")


class Scene:
    """A line with a foreground and perhaps a background, and what it has carried."""

    def __init__(self, lab, way, buffer_s):
        self.lab, self.way = lab, way
        self.line = Link(RATE, ROUND_TRIP_S, int(RATE * buffer_s), KINDS)
        self.ends = []

    def __enter__(self):
        self.line.__enter__()
        return self

    def __exit__(self, *_):
        for end in reversed(self.ends):
            with contextlib.suppress(ProcessLookupError):
                end()
        self.line.__exit__()

    def start(self, where, *command, **more):
        """A process at one end, killed with the scene."""
        out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
        process = subprocess.Popen([*where, *map(str, command)], text=True, **out)
        self.ends.append(lambda: (process.terminate(), process.wait()))
        return process

    def foreground(self, seconds, control):
        """A greedy flow; ends by itself."""
        near, far = self.line.near, self.line.far
        self.start(far, "iperf3", "-s", "-1", "-p", FOREGROUND)
        time.sleep(0.4)
        ways = [] if self.way == "up" else ["-R"]
        command = ["iperf3", "-c", FAR_ADDR, "-p", FOREGROUND, "-t", seconds, "-C", control, *ways]
        return self.start(near, *command)

    def rates(self, begin, end):
        """Mbit/s by kind, mean wait in ms, between two moments."""
        tenths, waited, packets = {}, 0.0, 0
        for (way, kind, tenth), (size, waits, count, _) in self.line.carried().items():
            if way == self.way and begin * 10 <= tenth < end * 10:
                tenths[kind] = tenths.get(kind, 0) + size
                waited, packets = waited + waits, packets + count
        mbit = {kind: size * 8e-6 / (end - begin) for kind, size in tenths.items()}
        return {
            "foreground": mbit.get("foreground", 0.0),
            "background": mbit.get("background", 0.0),
            "wait_ms": waited / max(packets, 1) * 1000,
        }


# --- backgrounds: each starts in a scene and is ready when it returns


def nothing(_scene):
    pass


def our_upload(scene):
    lab, seed_home, leech_home = scene.lab, scene.lab.home("seed"), scene.lab.home("leech")
    source, torrent = lab.noise(1024 * MIB), lab.path("source", "yield.torrent")
    agent = Proc([*scene.line.near, *lab.dovetail(seed_home, "agent", "--share", "--listen", f"{NEAR_ADDR}:{PEER}")])
    scene.ends.append(agent.end)
    agent.wait_line(lambda line: line.get("type") == "listening")
    publish(lab, seed_home, source, torrent)
    options = ["--metainfo", torrent, "--require-peers", "--peer", f"{NEAR_ADDR}:{PEER}", "-o", leech_home / "got.bin"]
    scene.start(scene.line.far, *lab.dovetail(leech_home, "get", *options))


def our_download(scene):
    lab, home = scene.lab, scene.lab.home("leech")
    source = lab.noise(1024 * MIB)
    where, folder = scene.line.far, lab.path("nginx-yield", "x").parent
    server = Nginx(lab.nginx(), folder, f"{FAR_ADDR}:{WEB}", f"root {source.parent};", where=where)
    scene.ends.append(server.end)
    url = f"http://{FAR_ADDR}:{WEB}/{source.name}"
    command = lab.dovetail(home, "get", url, "--background", "--overwrite", "-o", home / "got.bin")
    scene.start(scene.line.near, *command)


def plain(scene):
    scene.start(scene.line.far, "iperf3", "-s", "-1", "-p", PLAIN)
    time.sleep(0.4)
    ways = [] if scene.way == "up" else ["-R"]
    scene.start(scene.line.near, "iperf3", "-c", FAR_ADDR, "-p", PLAIN, "-t", 1000, "-C", "cubic", *ways)


def their_utp(scene):
    lab, python = scene.lab, scene.lab.libtorrent()
    source, torrent = lab.noise(1024 * MIB), lab.path("source", "yield.torrent")
    if not torrent.exists():
        publish(lab, lab.home("publisher"), source, torrent)
    seed = [*scene.line.near, python, NODE, "seed", torrent, source.parent, "utp", f"{NEAR_ADDR}:{THEIRS}"]
    leech = [*scene.line.far, python, NODE, "leech", torrent, lab.path("leech-lt", "x").parent, "utp", f"{FAR_ADDR}:{THEIRS}"]
    seed, leech = (Proc([str(part) for part in command], stdin=-1) for command in (seed, leech))
    scene.ends += [seed.end, leech.end]
    for node in (seed, leech):
        node.wait_line(lambda line: "port" in line)
    leech.write(f"get {NEAR_ADDR}:{THEIRS}")


BACKGROUNDS = {
    "our upload to a peer": (our_upload, "up"),
    "our download from nginx": (our_download, "down"),
    "libtorrent's uTP": (their_utp, "up"),
    "a plain CUBIC flow": (plain, "up"),
}


# --- what is asked of each


def alone(lab, background, way, seconds):
    with Scene(lab, way, 0.1) as scene:
        background(scene)
        begin = time.monotonic() + 10
        time.sleep(10 + seconds)
        return scene.rates(begin, begin + seconds)


def beside(lab, background, way, seconds, first, buffer_s=0.1, control="cubic"):
    """Rates while both run, from ten seconds after the second one began."""
    with Scene(lab, way, buffer_s) as scene:
        if first == "background":
            background(scene)
            time.sleep(15)
            scene.foreground(seconds + 30, control)
        else:
            scene.foreground(seconds + 60, control)
            time.sleep(15)
            background(scene)
        begin = time.monotonic() + 10
        time.sleep(10 + seconds)
        return scene.rates(begin, begin + seconds)


def clicks(lab, background, way, count):
    """Median seconds of a short transfer, median milliseconds of a ping."""
    with Scene(lab, way, 0.1) as scene:
        background(scene)
        time.sleep(12)
        scene.start(scene.line.far, sys.executable, CLICK, "serve", FOREGROUND)
        time.sleep(0.5)
        ping = scene.start(scene.line.near, "ping", "-i", "0.1", FAR_ADDR, stdout=subprocess.PIPE)
        click = [*scene.line.near, sys.executable, CLICK, "ask", FAR_ADDR, FOREGROUND, count, way]
        done = subprocess.run([str(part) for part in click], capture_output=True, text=True)
        ping.send_signal(signal.SIGINT)
        times = [float(ms) for ms in re.findall(r"time=([\d.]+)", ping.communicate()[0])]
        took = [json.loads(line)["took_s"] for line in done.stdout.splitlines()]
        if not took or not times:
            raise Failed(f"no short transfers: {done.stderr}")
        return {"click_s": statistics.median(took), "ping_ms": statistics.median(times)}


def run(lab):
    why = link.why_not() or next((f"{name} is not installed" for name in ("iperf3", "ping") if not shutil.which(name)), None)
    if why:
        lab.skip("yield", why)
        return [], [], []
    seconds, count = (8, 4) if lab.quick else (40, 12)
    tables, targets, rows = [], [], []
    solo = {control: beside(lab, nothing, "up", seconds, "foreground", control=control) for control in ("cubic", "bbr")}
    calm = clicks(lab, nothing, "up", count)
    table = Table(
        "yield: what a foreground flow keeps of 20 Mbit/s, 20 ms (% of what it has alone)",
        "background", "100 ms, first", "100 ms, late", "300 ms, first", "300 ms, late", "60 kB, first", "60 kB, late",
        "BBR, first", "alone %", "its queue ms", "300 kB s", "ping ms",
    )
    table.row("nothing", *["100"] * 7, "–", "–", number(calm["click_s"]), number(calm["ping_ms"], 1))
    for name, (background, way) in BACKGROUNDS.items():
        if background is their_utp and not lab.libtorrent() or background is our_download and not lab.nginx():
            continue
        row = {"background": name}
        for key, more in {
            "100 first": {"first": "background"},
            "100 late": {"first": "foreground"},
            "300 first": {"first": "background", "buffer_s": 0.3},
            "300 late": {"first": "foreground", "buffer_s": 0.3},
            "24 first": {"first": "background", "buffer_s": 0.024},
            "24 late": {"first": "foreground", "buffer_s": 0.024},
            "bbr first": {"first": "background", "control": "bbr"},
        }.items():
            own = solo[more.get("control", "cubic")]["foreground"]
            row[key] = beside(lab, background, way, seconds, **more)["foreground"] / own * 100
        by_itself = alone(lab, background, way, seconds)
        row["alone"] = by_itself["background"] * 1e6 / (RATE * 8) * 100
        row["queue_ms"] = by_itself["wait_ms"]
        row |= clicks(lab, background, way, count)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        figures = [number(row[key], 1) for key in list(row)[1:10]]
        table.row(name, *figures, number(row["click_s"]), number(row["ping_ms"], 1))
        if name.startswith("our"):
            targets += [
                Target(f"yield: {name}: a CUBIC flow keeps, background first (%)", row["100 first"], 97, at_most=False),
                Target(f"yield: {name}: ... background late", row["100 late"], 95, at_most=False),
                Target(f"yield: {name}: ... 300 ms, the worse", min(row["300 first"], row["300 late"]), 95, at_most=False),
                Target(f"yield: {name}: a BBR flow keeps (%)", row["bbr first"], 93, at_most=False),
                Target(f"yield: {name}: of the line, alone (%)", row["alone"], 92, at_most=False),
                Target(f"yield: {name}: its own queue (ms)", row["queue_ms"], 16),
                Target(f"yield: {name}: a transfer of 300 kB (s)", row["click_s"], 0.35),
                Target(f"yield: {name}: ping, more than on the idle line (ms)", row["ping_ms"] - calm["ping_ms"], 8),
            ]
    tables.append(table)
    return tables, targets, rows
