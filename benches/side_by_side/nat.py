"""`nat`: from one site to another, each behind a NAT of each of the four classic kinds: which pairs connect, and how fast.

A public network with a coordinator, and two sites with one host each that have the same private address (`nat_box.py`). No TCP
connection enters a site. The seed is an agent that was handed a file; the other end is `get --require-peers`, so nothing comes
from anywhere else. Pairs whose NATs shut each other out meet through a relay, or over IPv6 where both sites have it, each behind
a firewall. Every run has new NATs, a new coordinator and a new agent: no hole is left from an earlier one.
Seconds count from the start of `get`.
"""

import contextlib
import os
import shutil
import subprocess
import time

from .lab import check_same, publish
from .link import ip, why_not
from .nat_box import KINDS, SYMMETRIC, Box, let_forward
from .nat_probe import check, check_v6
from .procs import MIB, Bystanders, Failed, Proc
from .table import Runs, Table, Target, number

COORDINATOR, OTHER, COORDINATOR_V6 = "198.51.100.1", "198.51.100.2", "2001:db8::1"
OUTSIDE = ("203.0.113.1", "203.0.113.2")
INSIDE_V6 = ("2001:db8:a::10", "2001:db8:b::10")
SIZE = 4 * MIB
PATIENCE_S = 20
SETTLING_S = 2
RELAY_RATE = "2MB/s"
ENV = dict(os.environ, DOVETAIL_DOWNLOAD_MODE="group", DOVETAIL_GROUP_ID="lab")


def run(lab):
    if why := why_not():
        lab.skip("nat", why)
        return [], [], []
    count = lab.runs or (1 if lab.quick else 3)
    source = lab.noise(SIZE)
    torrent = lab.path("source", "nat.torrent")
    checked = [checked_kind(kind) for kind in KINDS]
    check_firewall()
    results = {}
    for seed in KINDS:
        for leech in KINDS:
            runs = results[seed, leech] = Runs(f"{seed.name} to {leech.name}")
            for _ in range(count if can_connect(seed, leech) else 1):
                runs.add(*once(lab, Sites(seed, leech), source, torrent))
    relayed = {}
    for seed, leech in (pair for pair in results if not can_connect(*pair)):
        runs = relayed[seed, leech] = Runs(f"{seed.name} to {leech.name}, relayed")
        for _ in range(count):
            runs.add(*once(lab, Sites(seed, leech), source, torrent, "--relay", RELAY_RATE))
    over_v6 = []
    for coordinator in (COORDINATOR, COORDINATOR_V6):
        over_v6.append(Runs(f"symmetric to symmetric, both with IPv6, coordinator at {coordinator}"))
        for _ in range(count):
            over_v6[-1].add(*once(lab, Sites(SYMMETRIC, SYMMETRIC, coordinator, has_v6=True), source, torrent))
    return report(checked, results, relayed, over_v6)


def can_connect(a, b):
    """A hole towards a symmetric NAT cannot be named beforehand; only a filter that does not look at ports lets it in."""
    return all(other.filtering != "address and port" for one, other in ((a, b), (b, a)) if one.mapping != "nothing")


def checked_kind(kind):
    with Public() as public, public.site(0, kind) as box:
        return kind, check(box, COORDINATOR, OTHER)


def check_firewall():
    with Public() as public, public.site(0, SYMMETRIC, has_v6=True) as box:
        check_v6(box, COORDINATOR_V6)


class Public:
    """The network between the sites; its addresses are one machine's."""

    def __init__(self):
        self.name = f"dvn{os.getpid()}"
        self.where = ["ip", "netns", "exec", self.name]

    def site(self, at, kind, has_v6=False):
        return Box(f"{self.name}{'ab'[at]}", self.name, OUTSIDE[at], kind, INSIDE_V6[at] if has_v6 else None)

    def __enter__(self):
        try:
            ip("netns", "add", self.name)
            ip("-n", self.name, "link", "set", "lo", "up")
            for addr in (COORDINATOR, OTHER):
                ip("-n", self.name, "addr", "add", f"{addr}/32", "dev", "lo")
            ip("-n", self.name, "addr", "add", f"{COORDINATOR_V6}/128", "dev", "lo")
            let_forward(self.name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


class Sites(contextlib.ExitStack):
    """The public network with a coordinator at one of its addresses, and two sites: `near`, with the seed, and `far`."""

    def __init__(self, seed, leech, coordinator=COORDINATOR, has_v6=False):
        super().__init__()
        self.kinds, self.has_v6 = (seed, leech), has_v6
        self.host = f"[{coordinator}]" if ":" in coordinator else coordinator
        self.url = f"http://{self.host}:7681"
        self.any = "[::]:7680" if has_v6 else "0.0.0.0:7680"

    def __enter__(self):
        self.public = self.enter_context(Public())
        self.near, self.far = (self.enter_context(self.public.site(at, kind, self.has_v6)) for at, kind in enumerate(self.kinds))
        return self


def once(lab, sites, source, torrent, *more):
    listen = ["--listen", f"{sites.host}:7681", "--rendezvous", f"{sites.host}:3544", *more]
    shares = ["--share", "--listen", sites.any, "--coordinator", sites.url]
    with sites, started(lab, sites.public, "nat-coordinator", "coordinator", *listen):
        with started(lab, sites.near, "nat-seed", "agent", *shares):
            hand_over(lab, sites, source, torrent)
            time.sleep(SETTLING_S)
            return fetch(lab, sites.far, source, torrent, shares)


def started(lab, where, home, *args):
    process = Proc(where.where + lab.dovetail(lab.home(home), *args), env=ENV)
    try:
        process.wait_line(lambda line: line.get("type") == "listening")
    except BaseException:
        process.end()
        raise
    return process


def hand_over(lab, sites, source, torrent):
    home = lab.path("homes", "nat-seed")
    publish(lab, home, source, torrent, "--url", f"http://{OTHER}/file", "--coordinator", sites.url, where=sites.near.where)


def fetch(lab, far, source, torrent, shares):
    home = lab.home("nat-leech")
    output = home / "got.bin"
    options = ["--metainfo", torrent, "--require-peers", "--standalone", *shares, "-o", output]
    others = Bystanders()
    get = Proc(far.where + lab.dovetail(home, "get", *options), env=ENV)
    try:
        get.wait_line(has_bytes, PATIENCE_S)
        wall_s = get.run(timeout=60)["wall_s"]
        check_same(source, output)
        figures = {"first_s": far.full_at.value - get.started, "wall_s": wall_s}
    except Failed:
        figures = {"why": reason(get)}
    finally:
        get.end()
    cores = others.cores()
    shutil.rmtree(home)
    return cores, figures


def has_bytes(line):
    """Something has come from a peer."""
    return sum(line.get("received", {}).values()) > 0


def reason(get):
    """What a download that came to nothing said."""
    lines = [line for line in get.said if line]
    errors = [line.get("what", line) for line in lines if line.get("type") == "error"]
    told = [line["text"] for line in lines if line.get("type") == "log" and "no way to the peer" in line["text"]]
    return next(reversed(errors + told), f"nothing came within {PATIENCE_S} s")


def report(checked, results, relayed, over_v6):
    facts = list(checked[0][1])
    kinds = Table("nat: what the NATs do, checked with plain sockets", "NAT", *facts)
    for kind, found in checked:
        kinds.row(kind.name, *("yes" if found[fact] else "no" for fact in facts))
    pairs = Table(
        f"nat: {SIZE // MIB} MiB from a seed behind the NAT of the row to one behind the NAT of the column,"
        " seconds to the first bytes / to the end (medians)",
        "seed behind", *(kind.name for kind in KINDS),
    )
    for seed in KINDS:
        pairs.row(seed.name, *(cell(results[seed, leech], can_connect(seed, leech)) for leech in KINDS))
    relays = Table(f"nat: the others, through a coordinator with --relay {RELAY_RATE}, seconds likewise", "seed to downloader", "s")
    for runs in relayed.values():
        relays.row(runs.what, cell(runs, True))
    past = Table("nat: two symmetric NATs, both sites with IPv6 behind a firewall, seconds likewise", "coordinator over", "s")
    for family, runs in zip(("IPv4", "IPv6"), over_v6):
        past.row(family, cell(runs, True))
    failed = Table("nat: what downloads said that came to nothing", "pair", "said", "runs")
    every = [*results.values(), *relayed.values(), *over_v6]
    for runs in every:
        reasons = [one["why"] for one in runs.runs if "why" in one]
        for why in sorted(set(reasons)):
            failed.row(runs.what, why, f"{reasons.count(why)} of {len(runs.runs)}")
    possible = [runs for pair, runs in results.items() if can_connect(*pair)]
    connected = [runs for runs in possible if all("first_s" in one for one in runs.runs)]
    slowest = max((runs.median("first_s") for runs in connected), default=None)
    through, led_past = (
        sum(all("first_s" in one for one in runs.runs) for runs in way) for way in (relayed.values(), over_v6)
    )
    targets = [
        Target("nat: pairs that can connect and always do", len(connected), len(possible), at_most=False),
        Target("nat: s to the first bytes, the slowest pair's median", slowest, 2.0),
        Target("nat: pairs that need a relay and always connect through it", through, len(relayed), at_most=False),
        Target("nat: the same with IPv6, that always connect past the NATs", led_past, len(over_v6), at_most=False),
    ]
    return [kinds, pairs, relays, past, failed], targets, [runs.summary() for runs in every]


def cell(runs, can):
    """`none`: as it must be; `NONE`: as it must not."""
    if runs.median("wall_s") is None:
        return "NONE" if can else "none"
    lost = sum("why" in one for one in runs.runs)
    times = f"{number(runs.median('first_s'))} / {number(runs.median('wall_s'))}"
    return f"{times}, {lost} failed" if lost else times
