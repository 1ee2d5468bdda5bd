"""DNS-SD against another implementation (the zeroconf package), over a cable between two network namespaces."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import lab
from lab import MIB, Skip, folder, get, payload, same, until

TYPE = "_dovetail-cache._tcp.local."


class Network:
    """A network namespace that lasts as long as this test."""

    def __init__(self):
        holder = ["unshare", "--net", "sleep", "infinity"]
        self.holder = subprocess.Popen(holder, preexec_fn=lab.die_with_parent, stderr=subprocess.DEVNULL)
        mine, theirs = (pathlib.Path(f"/proc/{pid}/ns/net") for pid in ("self", self.holder.pid))
        until("a network of its own", lambda: self.holder.poll() is not None or os.readlink(mine) != os.readlink(theirs))
        self.within = ["nsenter", f"--net={theirs}"]

    def run(self, *command):
        return subprocess.run([*self.within, *map(str, command)], capture_output=True, text=True, check=True).stdout


def cable():
    """Two networks, 10.1.0.1 and 10.1.0.2."""
    if os.geteuid() != 0:
        raise Skip("network namespaces need root")
    near, far = Network(), Network()
    try:
        near.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", far.holder.pid)
    except subprocess.CalledProcessError as failed:
        raise Skip(f"no cable between two network namespaces: {failed.stderr.strip()}") from None
    for network, name, address in ((near, "near", "10.1.0.1/24"), (far, "far", "10.1.0.2/24")):
        network.run("ip", "addr", "add", address, "dev", name)
        network.run("ip", "link", "set", name, "up")
        network.run("ip", "link", "set", "lo", "up")
    return near, far


class Mdns:
    """mdns.py in a network; its lines as they come."""

    def __init__(self, network, *args):
        script = pathlib.Path(__file__).with_name("mdns.py")
        self.child = subprocess.Popen(
            [*network.within, sys.executable, script, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lab.die_with_parent,
        )
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(json.loads(line))

    def wait_for(self, key):
        return until(f"{key} in {self.lines}", lambda: next((line for line in self.lines if key in line), None))

    def end(self):
        self.child.stdin.close()
        self.child.wait(10)


def test_a_browser_finds_our_cache_and_hears_that_it_goes():
    near, far = cable()
    browser = Mdns(far, "browse", TYPE)
    more = ("--allow", "origin.example", "--listen", "0.0.0.0:0", "--announce")
    cache = lab.start("cache", *more, home="cache", within=near.within)
    found = browser.wait_for("found")
    assert found["addresses"] == ["10.1.0.1"], found
    assert found["port"] == int(cache.addr.rsplit(":", 1)[1]), found
    assert found["host"].startswith("dovetail-"), found
    # What it found answers there.
    health = far.run("curl", "-sS", "--fail", f"http://10.1.0.1:{found['port']}/.dovetail/health")
    assert json.loads(health)["status"] == "ok", health
    # Without a farewell that would take two minutes.
    cache.child.terminate()
    assert browser.wait_for("gone")["gone"] == found["found"]


def test_an_agent_uses_what_others_announce_while_it_may():
    near, far = cable()
    digest = payload(folder("files") / "file.bin", 3 * MIB)
    origin = lab.start("origin", folder("files"), "--listen", "127.0.0.1:0", home="origin", within=near.within)
    at = origin.addr
    cache = lab.start("cache", "--allow", at, "--listen", "0.0.0.0:0", home="cache", within=near.within)
    theirs = Mdns(near, "announce", TYPE, cache.addr.rsplit(":", 1)[1])
    theirs.wait_for("announced")
    device = lab.start("agent", home="device", within=far.within)

    def caches():
        status = lab.Process("status", home="device")
        assert status.end() == 0, status.error()
        return status.last("status")["policy"]["caches"]

    def config(*args):
        done = lab.Process("config", *args, home="device")
        assert done.end() == 0, done.error()

    found = [f"http://10.1.0.1:{cache.addr.rsplit(':', 1)[1]}"]
    until("the agent finds the cache", lambda: caches() == found)
    # The device has no way to the origin: all it gets, it gets from there.
    out = folder("out") / "file.bin"
    got = get(f"http://{at}/file.bin", "--sha256", digest, "-o", out, home="device", within=far.within)
    same(out, digest)
    assert got["received"]["cache"] == 3 * MIB, got
    config("set", "cache_host_source", "dhcp")
    until("the agent looks no longer", lambda: caches() == [])
    config("unset", "cache_host_source")
    until("the agent looks again", lambda: caches() == found)
    theirs.end()
    until("the agent hears that it is gone", lambda: caches() == [])
    device.child.terminate()
    assert device.end() == 0, device.error()
