"""`utp`: one peer to one peer over uTP, ours and libtorrent's in all four pairs, without loss and with it.

Without loss both run in one network namespace, over its loopback. With loss there is a cable (veth) between two, and
nftables drops packets by lot at both ends; each datagram crosses it by itself, as none is lost together with its
neighbours on a real line. Wall time, CPU of both ends: as for `transfer`.
"""

import os
import shutil
import subprocess
from pathlib import Path

from .lab import check_same, publish
from .link import ip
from .procs import MIB, Bystanders, Failed, Proc, cpu_s
from .table import Runs, Table, Target, number, ratio, runs_cell

NODE = Path(__file__).with_name("lt_node.py")
# Percent of datagrams, and runs of each pair: at 3 % libtorrent takes a quarter of an hour.
LOSSES = {0: 3, 1: 3, 3: 1}
PATIENCE_S = 3600
ADDRS = ("10.78.0.1", "10.78.0.2")


def run(lab):
    if why := why_not():
        lab.skip("utp", why)
        return [], [], []
    python = lab.libtorrent()
    size = (32 if lab.quick else 200) * MIB
    source = lab.noise(size)
    torrent = lab.path("source", "utp.torrent")
    ends = [Ours(lab, source, torrent)] + ([Theirs(lab, python, source, torrent)] if python else [])
    ends[0].make_torrent()
    results = {}
    for loss, count in LOSSES.items():
        with Cable(loss) as cable:
            for _ in range(lab.runs or (1 if lab.quick else count)):
                for seed in ends:
                    for leech in ends:
                        runs = results.setdefault((loss, seed.name, leech.name), Runs(f"{seed.name} to {leech.name}, {loss} %"))
                        runs.add(*once(cable, seed, leech, source))
    return report(size, results)


def why_not():
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nft") if not shutil.which(name)]
    return f"{missing[0]} is not installed (apt-get install iproute2 nftables)" if missing else None


class Cable:
    """`near` and `far`: where the two ends run (the same place if nothing is lost), as prefixes of commands."""

    def __init__(self, loss_percent):
        self.loss = loss_percent
        self.names = [f"dvu{os.getpid()}{end}" for end in ("nf" if loss_percent else "n")]
        self.near, self.far = (["ip", "netns", "exec", name] for name in (self.names[0], self.names[-1]))
        self.near_addr, self.far_addr = ADDRS if loss_percent else ("127.0.0.1", "127.0.0.1")

    def __enter__(self):
        try:
            for name in self.names:
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            if self.loss:
                self.lay()
        except BaseException:
            self.__exit__()
            raise
        return self

    def lay(self):
        near, far = self.names
        ip("link", "add", near, "netns", near, "type", "veth", "peer", "name", far, "netns", far)
        for name, addr in zip(self.names, ADDRS):
            ip("-n", name, "addr", "add", f"{addr}/24", "dev", name)
            ip("-n", name, "link", "set", name, "gso_max_segs", "1", "up")
            rule = f"meta l4proto udp numgen random mod 1000 < {10 * self.loss} drop"
            table = "table inet loss {\nchain in {\ntype filter hook input priority 0;\n" + rule + "\n}\n}\n"
            done = subprocess.run(["ip", "netns", "exec", name, "nft", "-f", "-"], input=table, text=True, capture_output=True)
            if done.returncode != 0:
                raise Failed(f"nft: {done.stderr.strip()}")

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Ours:
    name = "dovetail"

    def __init__(self, lab, source, torrent):
        self.lab, self.source, self.torrent = lab, source, torrent

    def make_torrent(self):
        home = self.lab.home("publish")
        done = subprocess.run(
            [str(arg) for arg in self.lab.dovetail(home, "publish", self.source, "--url", "http://127.0.0.1/none", "-o", self.torrent)],
            capture_output=True, text=True,
        )
        if done.returncode != 0:
            raise Failed(f"publish: {done.stdout}{done.stderr}")

    def seed(self, where, addr):
        home = self.lab.home("utp-seed")
        program = self.lab.dovetail(home, "agent", "--share", "--listen", f"{addr}:0")
        agent = Proc(where + program, env=UTP)
        address = agent.wait_line(lambda line: line.get("type") == "listening")["listening"]
        publish(self.lab, home, self.source, self.torrent)
        return agent, address

    def leech(self, where, addr, peer):
        home = self.lab.home("utp-leech")
        output = home / "got.bin"
        options = ["--metainfo", self.torrent, "--require-peers", "--peer", peer, "--standalone"]
        options += ["--share", "--listen", f"{addr}:0", "-o", output]
        get = Proc(where + self.lab.dovetail(home, "get", *options), env=UTP)
        try:
            life = get.run(timeout=PATIENCE_S)
        finally:
            get.end()
        return life["wall_s"], life["cpu_s"], output


class Theirs:
    name = "libtorrent"

    def __init__(self, lab, python, source, torrent):
        self.lab, self.python, self.source, self.torrent = lab, python, source, torrent

    def node(self, where, role, folder, addr):
        node = Proc(where + [self.python, NODE, role, self.torrent, folder, "utp", f"{addr}:0"], stdin=-1)
        return node, node.wait_line(lambda line: "port" in line)["port"]

    def seed(self, where, addr):
        node, port = self.node(where, "seed", self.source.parent, addr)
        return node, f"{addr}:{port}"

    def leech(self, where, addr, peer):
        folder = self.lab.path("utp-leech-lt", "x").parent
        node, _ = self.node(where, "leech", folder, addr)
        try:
            node.write(f"get {peer}")
            done = node.wait_line(lambda line: "done" in line, PATIENCE_S)
        finally:
            node.end()
        return done["wall_s"], done["cpu_s"], folder / self.source.name


UTP = dict(os.environ, DOVETAIL_PEER_TRANSPORT="utp")


def once(cable, seed, leech, source):
    process, address = seed.seed(cable.near, cable.near_addr)
    try:
        others, before = Bystanders(), cpu_s(process.pid)
        wall_s, leech_cpu_s, output = leech.leech(cable.far, cable.far_addr, address)
        seed_cpu_s = cpu_s(process.pid) - before
        cores = others.cores()
    finally:
        process.end()
    check_same(source, output)
    output.unlink()
    size = source.stat().st_size
    return cores, {
        "wall_s": wall_s,
        "mib_per_s": size / MIB / wall_s,
        "pair_cpu_s_per_gib": (leech_cpu_s + seed_cpu_s) * (1 << 30) / size,
    }


def report(size, results):
    table = Table(f"utp: {size // MIB} MiB, one peer to one peer (medians)", "loss, seed to leech", "MiB/s", "CPU s/GiB pair", "runs")
    for (loss, seed, leech), runs in results.items():
        speed, cpu = number(runs.median("mib_per_s"), 1), number(runs.median("pair_cpu_s_per_gib"))
        table.row(f"{loss} %: {seed} to {leech}", speed, cpu, runs_cell(runs))
    targets = []
    for loss in LOSSES:
        mine, theirs = (results.get((loss, name, name)) for name in (Ours.name, Theirs.name))
        speed = ratio(mine.median("mib_per_s"), theirs.median("mib_per_s")) if theirs else None
        targets.append(Target(f"utp, {loss} % loss: speed ÷ libtorrent's", speed, 1.0 if loss else 5.0, at_most=False))
        if not loss:
            cpu = ratio(mine.median("pair_cpu_s_per_gib"), theirs.median("pair_cpu_s_per_gib")) if theirs else None
            targets.append(Target("utp, 0 % loss: CPU per byte ÷ libtorrent's", cpu, 0.5))
    return [table], targets, [runs.summary() for runs in results.values()]
