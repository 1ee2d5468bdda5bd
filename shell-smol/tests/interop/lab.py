"""What every interop test needs: files of known bytes, Dovetail's processes, waiting with an end.

Nothing here sleeps for a guess: it waits for a line, a port, a counter, and gives up loudly.
"""

import base64
import ctypes
import faulthandler
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request

KIB = 1024
MIB = 1024 * KIB
BLOCK = 16 * KIB

LIMIT_S = 60
"""Hard limit of a test that asks for none."""

SCRATCH = pathlib.Path(os.environ.get("INTEROP_SCRATCH", "/nonexistent"))
DOVETAIL = os.environ["DOVETAIL"]

faulthandler.register(signal.SIGUSR1)


class Skip(Exception):
    """This machine cannot show it; says why."""


def limit(seconds):
    """Gives a test another hard limit."""

    def mark(function):
        function.limit_s = seconds
        return function

    return mark


def make_killable():
    """SIGTERM ends this process as an exception would: with its children."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))


def die_with_parent():
    """Between fork and exec of a child: it is killed when its parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def until(what, probe, seconds=30):
    """Waits until `probe()` is true and returns that; fails naming `what`."""
    end = time.monotonic() + seconds
    while True:
        got = probe()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.02)  # between two looks, not for a guess


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def folder(name):
    path = SCRATCH / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def payload(path, length, seed=1):
    """Writes `length` (< 256 MiB) random bytes, always the same for a seed; returns their SHA-256 in hex."""
    data = random.Random(seed).randbytes(length)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


ANY_MACHINE = {
    "DOVETAIL_MIN_RAM_ALLOWED_TO_PEER": "0B",
    "DOVETAIL_MIN_DISK_SIZE_ALLOWED_TO_PEER": "0B",
    "DOVETAIL_MIN_BATTERY_PERCENTAGE_ALLOWED_TO_UPLOAD": "1%",
    "DOVETAIL_ALLOW_VPN_PEER_CACHING": "true",
    "DOVETAIL_ALLOW_METERED": "true",
}
"""Peers are met on small machines, too, on battery, and with a VPN."""


def environment(**more):
    """Ours without the proxies and the trusted certificates of whoever runs the tests."""
    theirs = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k not in theirs}
    return {**kept, **ANY_MACHINE, **more}


class Process:
    """One `dovetail --json …`. Its lines are parsed as they come; its standard error is kept. `within` is what its
    command begins with."""

    def __init__(self, *args, home, env=None, within=()):
        self.args = [*within, DOVETAIL, "--json", "--home", str(folder(home)), *map(str, args)]
        self.name = f"{args[0]} in {home}"
        self.lines = []
        self.error_path = SCRATCH / f"{home}-{args[0]}-{time.monotonic_ns()}.log"
        self.child = subprocess.Popen(
            self.args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=open(self.error_path, "wb"),
            env=environment(**(env or {})),
            preexec_fn=die_with_parent,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(json.loads(line))

    def last(self, kind):
        """The last line of this type, or None."""
        return next((line for line in reversed(self.lines) if line["type"] == kind), None)

    def wait_for(self, kind, seconds=30, where=lambda line: True):
        """The first line of this type for which `where` holds."""

        def probe():
            found = next((l for l in list(self.lines) if l["type"] == kind and where(l)), None)
            if found is None and self.child.poll() is not None:
                self.reader.join(5)
                found = next((l for l in self.lines if l["type"] == kind and where(l)), None)
                assert found, f"{self.name} ended without {kind}: {self.lines[-3:]} {self.error()}"
            return found

        return until(f"{kind} from {self.name}", probe, seconds)

    def end(self, seconds=50):
        """Waits for its end; returns the exit code."""
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s: {self.lines[-2:]}") from None
        self.reader.join(5)
        return code

    def kill(self):
        """kill -9."""
        self.child.kill()
        self.child.wait()
        self.reader.join(5)

    def error(self):
        return self.error_path.read_text(errors="replace")


def start(role, *args, home, **more):
    """A long-running role, ready. Returns it with `.addr` set."""
    process = Process(role, *args, home=home, **more)
    process.addr = process.wait_for("listening")["listening"]
    return process


def origin(dir, *args, home="origin"):
    return start("origin", dir, "--listen", "127.0.0.1:0", *args, home=home)


def coordinator(*args, home="coordinator"):
    return start("coordinator", "--listen", "127.0.0.1:0", *args, home=home)


def agent(*args, home):
    """An agent that shares, on a free port."""
    return start("agent", "--share", "--listen", "127.0.0.1:0", *args, home=home)


def get(*args, home="get", seconds=50, env=None, within=()):
    """A `get` that must succeed; returns its `got` line."""
    process = Process("get", *args, home=home, env=env, within=within)
    code = process.end(seconds)
    assert code == 0, f"exit code {code}: {process.lines[-2:]} {process.error()}"
    return process.last("got")


def get_fails(code, *args, home="get", seconds=50, env=None):
    """A `get` that must end with this exit code and one clear message; returns its `failed` line."""
    process = Process("get", *args, home=home, env=env)
    ended = process.end(seconds)
    assert ended == code, f"exit code {ended}, not {code}: {process.lines[-2:]} {process.error()}"
    failed = process.last("failed")
    assert failed and failed["what"] and failed["why"], f"no clear message: {process.lines}"
    assert failed["exit_code"] == code, failed
    return failed


def publish(*args, home="publish"):
    process = Process("publish", *args, home=home)
    code = process.end()
    assert code == 0, f"publish: exit code {code}: {process.lines} {process.error()}"
    return process.last("published")


def share(torrent, path, home):
    """Hands a file to the agent of `home` under somebody else's torrent, over its local API."""
    body = {"metainfo": base64.b64encode(torrent).decode(), "path": str(path)}
    socket_path = folder(home) / "run/agent.sock"
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", socket_path, "http://localhost/v1/share", "--json", json.dumps(body)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"type": "shared"}, done.stdout


def recorded(out):
    """Bytes of the pieces that the resume file beside an unfinished `out` names: what no crash can cost."""
    try:
        state = json.loads(out.with_name(out.name + ".dovetail-state").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    have, length = bytes.fromhex(state["have"]), state["piece_length"]
    pieces = [n for n in range(8 * len(have)) if have[n // 8] & (0x80 >> n % 8)]
    return sum(min(length, state["length"] - n * length) for n in pieces)


def kill_with(process, out, at_least):
    """kill -9 once this much of `out` is recorded; returns how much is."""

    def enough():
        assert process.child.poll() is None, f"{process.name} ended too early: {process.lines[-1]}"
        return recorded(out) >= at_least

    until(f"{at_least} bytes of {out.name} are recorded", enough)
    process.kill()
    assert not out.exists(), "a part of a file under its final name"
    return recorded(out)


def stats(origin):
    """What a Dovetail origin has sent."""
    with urllib.request.urlopen(f"http://{origin.addr}/.dovetail/stats", timeout=10) as answer:
        return json.load(answer)


def from_peers(line):
    """Useful bytes of a `got` or `progress` line that came from peers."""
    return sum(n for source, n in line["received"].items() if source not in ("origin", "cache"))


def same(path, digest):
    got = sha256(path)
    assert got == digest, f"{path} has {got}, not {digest}"
