"""A line of 20 Mbit/s and 20 ms with somebody's foreground on it, and the backgrounds that are to give way to it.

A background starts in a scene and is ready when it returns. What each takes is counted at the line.
"""

import contextlib
import subprocess
import time
from pathlib import Path

from .lab import publish
from .lan import ADDRS
from .link import FAR_ADDR, NEAR_ADDR, SLICES_PER_S, Link
from .nginx import Nginx
from .procs import MIB, Proc
from .queues import Fifo

RATE = 20_000_000 / 8
ROUND_TRIP_S = 0.020
FOREGROUND, CLICKS, PEER, SECOND, WEB, THEIRS, PLAIN = 5201, 5202, 7680, 7681, 8080, 6881, 5301
KINDS = {FOREGROUND: "foreground", CLICKS: "clicks", SECOND: "second"} | dict.fromkeys((PEER, WEB, THEIRS, PLAIN), "background")
NODE = Path(__file__).with_name("lt_node.py")
SIZE = 1024 * MIB


class Ends:
    """Processes that end together, and their homes."""

    def __init__(self, lab):
        self.lab, self.ends = lab, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in reversed(self.ends):
            with contextlib.suppress(ProcessLookupError):
                end()
        self.lab.remove_homes()

    def start(self, where, *command, **more):
        """A process, killed with the others."""
        out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
        process = subprocess.Popen([*where, *map(str, command)], text=True, **out)
        self.ends.append(lambda: (process.terminate(), process.wait()))
        return process

    def node(self, where, *command, **more):
        """A process that says something."""
        process = Proc([*where, *command], **more)
        self.ends.append(process.end)
        return process


class Scene(Ends):
    """A line with a foreground and perhaps a background, and what it has carried."""

    def __init__(self, lab, way, buffer_s=0.1, queue=Fifo):
        super().__init__(lab)
        self.way = way
        self.line = Link(RATE, ROUND_TRIP_S, int(RATE * buffer_s), KINDS, queue)

    def __enter__(self):
        self.line.__enter__()
        return self

    def __exit__(self, *_):
        super().__exit__()
        self.line.__exit__()

    def greedy(self, port, seconds, control):
        """A flow that takes what it gets; ends by itself."""
        self.start(self.line.far, "iperf3", "-s", "-1", "-p", port)
        time.sleep(0.4)
        ways = [] if self.way == "up" else ["-R"]
        return self.start(self.line.near, "iperf3", "-c", FAR_ADDR, "-p", port, "-t", seconds, "-C", control, *ways)

    def foreground(self, seconds, control="cubic"):
        return self.greedy(FOREGROUND, seconds, control)

    def seen(self):
        """Bytes by kind and slice, waits and packets by slice, of the way that matters."""
        sizes, waits = {}, {}
        for (way, kind, at), (size, waited, count, _) in self.line.carried().items():
            if way == self.way:
                sizes[kind, at] = size
                sums = waits.setdefault(at, [0.0, 0])
                sums[0] += waited
                sums[1] += count
        return sizes, waits

    def rates(self, begin, end):
        """Mbit/s by kind, mean wait in ms, between two moments."""
        sizes, waits = self.seen()
        slices = range(int(begin * SLICES_PER_S), int(end * SLICES_PER_S))
        mbit = {}
        for (kind, at), size in sizes.items():
            if at in slices:
                mbit[kind] = mbit.get(kind, 0.0) + size * 8e-6 / (end - begin)
        stood = [waits[at] for at in slices if at in waits]
        packets = max(sum(count for _, count in stood), 1)
        return {kind: mbit.get(kind, 0.0) for kind in ("foreground", "background", "second")} | {
            "wait_ms": sum(waited for waited, _ in stood) / packets * 1000
        }


def nothing(_scene):
    pass


def our_seed(lab, ends, near, name, listen, settings=(), size=SIZE, options=()):
    """An agent that shares a file, and the command of a leech that gets it from there."""
    home = lab.home(f"seed-{name}")
    source, torrent = lab.noise(size), lab.path("source", f"yield-{name}.torrent")
    agent = ends.node([*near, "env", *settings], *lab.dovetail(home, "agent", "--share", "--listen", listen))
    agent.wait_line(lambda line: line.get("type") == "listening")
    publish(lab, home, source, torrent)

    def leech(number=0):
        there = lab.home(f"leech-{name}-{number}")
        wanted = ["--metainfo", torrent, "--require-peers", "--peer", listen, "-o", there / "got.bin"]
        return ["env", *settings, *lab.dovetail(there, "get", *wanted, *options)]

    return leech


def upload(scene, name, port, leeches=1, settings=(), options=()):
    listen = f"{NEAR_ADDR}:{port}"
    leech = our_seed(scene.lab, scene, scene.line.near, name, listen, settings, SIZE // leeches, options)
    for number in range(leeches):
        scene.start(scene.line.far, *leech(number))


def our_upload(scene):
    upload(scene, "one", PEER)


def our_utp_upload(scene):
    # Only who shares has a socket for datagrams.
    options = ["--standalone", "--share", "--listen", f"{FAR_ADDR}:0"]
    upload(scene, "utp", PEER, settings=["DOVETAIL_PEER_TRANSPORT=utp"], options=options)


def our_uploads(scene):
    upload(scene, "many", PEER, leeches=8)


def our_second_upload(scene):
    """Of another device on the same line."""
    upload(scene, "second", SECOND)


def lan_upload(lab, ends, lan):
    ends.start(lan.hosts[1], *our_seed(lab, ends, lan.hosts[0], "lan", f"{ADDRS[0]}:{PEER}")())


def our_download(scene, *by):
    lab, home = scene.lab, scene.lab.home("leech-web")
    source = lab.noise(SIZE)
    folder = lab.path("nginx-yield", "x").parent
    server = Nginx(lab.nginx(), folder, f"{FAR_ADDR}:{WEB}", f"root {source.parent};", where=scene.line.far)
    scene.ends.append(server.end)
    url = f"http://{FAR_ADDR}:{WEB}/{source.name}"
    command = lab.dovetail(home, "get", url, "--background", "--overwrite", "-o", home / "got.bin")
    scene.start([*scene.line.near, *by], *command)


def our_download_with_paced_reads(scene):
    """As on a kernel that bounds no windows, which the program tells by its version."""
    our_download(scene, "setarch", "--uname-2.6")


def our_download_without_time_stamps(scene):
    for where in (scene.line.near, scene.line.far):
        subprocess.run([*where, "sysctl", "-qw", "net.ipv4.tcp_timestamps=0"], check=True)
    our_download(scene)


def plain(scene):
    scene.greedy(PLAIN, 1000, "cubic")


def their_utp(scene):
    lab, python = scene.lab, scene.lab.libtorrent()
    source, torrent = lab.noise(SIZE), lab.path("source", "yield-lt.torrent")
    if not torrent.exists():
        publish(lab, lab.home("publisher"), source, torrent)
    where = {"seed": (scene.line.near, source.parent, NEAR_ADDR), "leech": (scene.line.far, lab.path("lt", "x").parent, FAR_ADDR)}
    nodes = {}
    for role, (end, folder, addr) in where.items():
        nodes[role] = scene.node(end, python, NODE, role, torrent, folder, "utp", f"{addr}:{THEIRS}", stdin=subprocess.PIPE)
        nodes[role].wait_line(lambda line: "port" in line)
    nodes["leech"].write(f"get {NEAR_ADDR}:{THEIRS}")


BACKGROUNDS = {
    "our upload to a peer": (our_upload, "up"),
    "our uTP upload": (our_utp_upload, "up"),
    "our download from nginx": (our_download, "down"),
    "our download, no time stamps": (our_download_without_time_stamps, "down"),
    "our download, paced reads": (our_download_with_paced_reads, "down"),
    "libtorrent's uTP": (their_utp, "up"),
    "a plain CUBIC flow": (plain, "up"),
}


def backgrounds(lab):
    """Those that can run here."""
    missing = {}
    if not knows_utp(lab):
        missing[our_utp_upload] = "this program does not know the setting peer_transport"
    if not lab.nginx():
        downloads = (our_download, our_download_without_time_stamps, our_download_with_paced_reads)
        missing |= dict.fromkeys(downloads, "nginx is not installed")
    if not lab.libtorrent():
        missing[their_utp] = "there is no libtorrent"
    for name, (background, _) in BACKGROUNDS.items():
        if background in missing:
            lab.skip(f"yield, {name}", missing[background])
    return {name: it for name, it in BACKGROUNDS.items() if it[0] not in missing}


def knows_utp(lab):
    command = [str(part) for part in lab.dovetail(lab.home("asked"), "config", "--markdown")]
    return "peer_transport" in subprocess.run(command, capture_output=True, text=True).stdout
