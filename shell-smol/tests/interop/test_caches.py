"""Cache servers, ours and a real nginx: asked by `cacheHostOrigin` before the origin, and gone on without."""

import hashlib
import json
import os
import shutil
import subprocess
import time

import lab
from certs import Authority
from lab import MIB, Process, folder, get, get_fails, payload, same
from nginx import Nginx, bytes_sent

LENGTH = 24 * MIB + 77

CACHE = """
    location / {
        proxy_cache files;
        proxy_cache_key $arg_cacheHostOrigin$uri;
        proxy_cache_valid 200 1h;
        proxy_cache_lock on;
        proxy_set_header Host $arg_cacheHostOrigin;
        proxy_pass http://$arg_cacheHostOrigin$uri;
        %s
    }
"""


def cache(more=""):
    """nginx as a cache of whatever it is asked for."""
    path = folder("cache") / "files"
    http = f"proxy_cache_path {path} keys_zone=files:1m;"
    return Nginx(CACHE % more, http, name="cache")


class Ours:
    """`dovetail cache` for what this origin has."""

    def __init__(self, origin, *more, env=None):
        self.allow = f"127.0.0.1:{origin.port}"
        self.port = lab.free_port()
        self.more, self.env = more, env
        self.start()

    def start(self):
        at = f"127.0.0.1:{self.port}"
        self.process = lab.start("cache", "--allow", self.allow, "--listen", at, *self.more, home="cache", env=self.env)

    def kill(self):
        self.process.kill()

    def health(self):
        return json.loads(curl(f"http://127.0.0.1:{self.port}/.dovetail/health"))


def curl(*args):
    done = subprocess.run(["curl", "-sS", "--fail-with-body", *args], capture_output=True, check=True)
    return done.stdout


def served():
    """An origin with one file: (nginx, URL, SHA-256)."""
    origin = Nginx()
    digest = payload(origin.root / "file.bin", LENGTH)
    return origin, f"{origin.url}/file.bin", digest


def asks(server, *more):
    settings = [f"cache_host=127.0.0.1:{server.port}", *more]
    return [part for setting in settings for part in ("--set", setting)]


def test_four_devices_cost_the_origin_one_copy():
    (origin, url, digest), server = served(), cache()
    for n in range(4):
        out = folder(f"out{n}") / "file.bin"
        got = get(url, "--sha256", digest, "-o", out, *asks(server), home=f"device{n}")
        same(out, digest)
        assert got["received"]["cache"] == LENGTH and got["received"]["origin"] == 0, got
    sent = bytes_sent(origin.asked("/file.bin"))
    assert sent == LENGTH, f"{sent} bytes of the origin for {LENGTH}"
    # What it has it gives with the origin gone.
    origin.kill()
    out = folder("last") / "file.bin"
    got = get(url, "--sha256", digest, "-o", out, *asks(server), home="last")
    same(out, digest)
    assert got["received"]["cache"] == LENGTH, got


def test_a_cache_that_dies_in_mid_download_is_left():
    (_origin, url, digest), server = served(), cache("limit_rate 2m;")
    out = folder("out") / "file.bin"
    device = Process("get", url, "--sha256", digest, "-o", out, *asks(server), home="device")
    moved = lambda line: line["received"]["cache"] >= MIB
    device.wait_for("progress", where=moved)
    server.kill()
    assert device.end() == 0, device.error()
    same(out, digest)
    got = device.last("got")
    assert got["received"]["cache"] >= MIB and got["received"]["origin"] > 0, got
    # Started again, it serves the next download: bans are an agent's, not a machine's.
    server.start()
    out = folder("again") / "file.bin"
    got = get(url, "--sha256", digest, "-o", out, *asks(server), home="again")
    assert got["received"]["cache"] > 0, got


@lab.limit(90)
def test_our_cache_killed_back_and_warm_without_an_origin():
    origin, url, digest = served()
    server = Ours(origin)
    # Four devices at the same time, and the cache dies under them.
    slow = ("--limit", "4MB/s")
    outs = [folder(f"out{n}") / "file.bin" for n in range(4)]
    devices = [
        Process("get", url, "--sha256", digest, "-o", out, *slow, *asks(server), home=f"device{n}")
        for n, out in enumerate(outs)
    ]
    for device in devices:
        device.wait_for("progress", where=lambda line: line["received"]["cache"] >= MIB)
    server.kill()
    for device, out in zip(devices, outs):
        assert device.end() == 0, device.error()
        same(out, digest)
        got = device.last("got")["received"]
        assert got["cache"] >= MIB and got["origin"] > 0 and got["cache"] + got["origin"] == LENGTH, got
    # It comes back with what it had, and asks the origin for the rest only.
    server.start()
    for n in range(4, 8):
        out = folder(f"out{n}") / "file.bin"
        got = get(url, "--sha256", digest, "-o", out, *asks(server), home=f"device{n}")
        same(out, digest)
        assert got["received"]["cache"] == LENGTH, got
    assert server.health()["bytes_from_origin"] <= LENGTH, server.health()
    # With the origin gone what it has is still served, to others, too.
    origin.kill()
    out = folder("last") / "file.bin"
    got = get(url, "--sha256", digest, "-o", out, *asks(server), home="last")
    same(out, digest)
    assert got["received"]["cache"] == LENGTH, got
    host = url.split("/")[2]
    part = curl("-r", "1000000-1999999", f"http://127.0.0.1:{server.port}/file.bin?cacheHostOrigin={host}")
    assert part == out.read_bytes()[1_000_000:2_000_000]
    assert part == curl("-r", "1000000-1999999", "-H", f"Host: {host}", f"http://127.0.0.1:{server.port}/file.bin")
    health = server.health()
    assert health["bytes_saved"] > 4 * LENGTH and health["hits"] >= 4, health


BAN_S = 15 * 60


@lab.limit(BAN_S + 120)
def test_four_agents_go_on_in_time_and_come_back_after_the_ban():
    """The cache is killed under downloads of four running agents and started again; a ban takes its time."""
    if "INTEROP_SLOW" not in os.environ:
        raise lab.Skip("it takes a quarter of an hour; INTEROP_SLOW=1 runs it")
    origin, url, digest = served()
    for n in (2, 3):
        shutil.copy(origin.root / "file.bin", origin.root / f"file{n}.bin")
    server, delay_s = Ours(origin), 5
    late = f"delay_cache_server_fallback_foreground={delay_s}s"
    homes = [f"device{n}" for n in range(4)]
    agents = [lab.start("agent", *asks(server, late), home=home) for home in homes]

    def all_get(name, *more):
        outs = [folder(home) / name for home in homes]
        where = url.replace("file.bin", name)
        downloads = [Process("get", where, "--sha256", digest, "-o", out, *more, home=home) for home, out in zip(homes, outs)]
        return outs, downloads

    def all_got(outs, downloads):
        for out, download in zip(outs, downloads):
            assert download.end() == 0, download.error()
            same(out, digest)
            yield download.last("got")["received"]

    outs, downloads = all_get("file.bin", "--limit", "2MB/s")
    for download in downloads:
        download.wait_for("progress", where=lambda line: line["received"]["cache"] >= MIB)
    server.kill()
    for download in downloads:
        download.wait_for("progress", seconds=delay_s + 1, where=lambda line: line["received"]["origin"] > 0)
    banned = time.monotonic()
    server.start()
    for got in all_got(outs, downloads):
        assert got["cache"] >= MIB and got["cache"] + got["origin"] == LENGTH, got
    for got in all_got(*all_get("file2.bin")):
        assert (got["cache"], got["origin"]) == (0, LENGTH), f"asked before the end of its ban: {got}"
    time.sleep(banned + BAN_S + 5 - time.monotonic())
    for got in all_got(*all_get("file3.bin")):
        assert (got["cache"], got["origin"]) == (LENGTH, 0), f"not asked after its ban: {got}"
    for agent in agents:
        assert agent.child.poll() is None, agent.error()


def test_an_origin_over_https():
    """Agents say that it is; for clients that cannot, the cache is told. Fetched once for both."""
    trusted = Authority()
    origin = Nginx(certificate=trusted.certificate("IP:127.0.0.1"))
    digest = payload(origin.root / "file.bin", LENGTH)
    host = f"127.0.0.1:{origin.port}"
    server = Ours(origin, "--https-origin", host, env=trusted.trust)
    out = folder("out") / "file.bin"
    got = get(f"{origin.url}/file.bin", "--sha256", digest, "-o", out, *asks(server), env=trusted.trust)
    same(out, digest)
    assert got["received"]["cache"] == LENGTH, got
    asked = origin.asked("/file.bin")
    assert asked and all(line["tls"] for line in asked), asked
    # To learn its length costs a byte.
    once = LENGTH + 1
    assert bytes_sent(asked) <= once, f"{bytes_sent(asked)} bytes of the origin for {LENGTH}"
    ours = f"http://127.0.0.1:{server.port}/file.bin"
    for plain in ((f"{ours}?cacheHostOrigin={host}",), ("-H", f"Host: {host}", ours)):
        assert hashlib.sha256(curl(*plain)).hexdigest() == digest
    assert bytes_sent(origin.asked("/file.bin")) <= once, "clients that cannot say https cost another copy"


def test_an_https_origin_the_cache_does_not_trust():
    trusted = Authority()
    origin = Nginx(certificate=trusted.certificate("IP:127.0.0.1"))
    digest = payload(origin.root / "file.bin", LENGTH)
    server = Ours(origin, env=Authority("another").trust)
    https = f"cacheHostOrigin=127.0.0.1:{origin.port}&cacheHostOriginScheme=https"
    ours = ["curl", "-sS", "-w", "%{http_code}", f"http://127.0.0.1:{server.port}/file.bin?{https}"]
    refused = subprocess.run(ours, capture_output=True, check=True, text=True).stdout
    assert refused.endswith("502") and "nobody this machine trusts" in refused, refused
    # An agent that does trust it goes on by itself.
    out = folder("out") / "file.bin"
    got = get(f"{origin.url}/file.bin", "--sha256", digest, "-o", out, *asks(server), env=trusted.trust)
    same(out, digest)
    assert got["received"] == {**got["received"], "cache": 0, "origin": LENGTH}, got


def test_without_a_fallback_the_origin_is_never_asked():
    (origin, url, digest), server = served(), cache()
    server.kill()
    never = asks(server, "delay_cache_server_fallback_foreground=never")
    failed = get_fails(3, url, "--sha256", digest, "-o", folder("out") / "f", *never)
    assert "delay_cache_server_fallback" in failed["remedy"], failed
    assert f"127.0.0.1:{server.port}" in failed["why"], failed
    assert not origin.requests(), origin.requests()


