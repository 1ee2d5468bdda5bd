"""Processes that are measured: started, watched, ended.

CPU seconds are user and system time of a process with all its threads. Peak memory is the kernel's own
high-water mark (VmHWM), read again and again until the process ends: what wait4 tells would begin with the
memory of this Python process.
"""

import json
import os
import signal
import subprocess
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024


class Failed(Exception):
    """A program that is measured did not do its work."""


def stat_fields(pid):
    """The fields of /proc/PID/stat after the name; [] once it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()
    except OSError:
        return []


def cpu_s(pid):
    """CPU seconds that a living process has used."""
    fields = stat_fields(pid)
    return sum(int(n) for n in fields[11:13]) / TICK if fields else 0.0


def peak_bytes(pid):
    """The most memory a living process has had resident."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def tree_cpu_s(root):
    """CPU seconds of a process, of all below it, and of those of them that have ended."""
    parents, used = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(name)):
            parents[int(name)] = int(fields[1])
            used[int(name)] = sum(int(n) for n in fields[11:15]) / TICK
    total = 0.0
    for pid, cpu in used.items():
        at = pid
        while at not in (root, 0) and at in parents:
            at = parents[at]
        total += cpu if at == root else 0.0
    return total


def machine_cpu_s():
    """CPU seconds that the whole machine has been busy."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


class Bystanders:
    """What others used of this machine between two moments, in cores."""

    def __init__(self):
        self.started = time.monotonic()
        self.machine, self.own = machine_cpu_s(), tree_cpu_s(os.getpid())

    def cores(self):
        span = time.monotonic() - self.started
        busy = machine_cpu_s() - self.machine - (tree_cpu_s(os.getpid()) - self.own)
        return max(busy / span, 0.0) if span > 0 else 0.0


class Proc:
    """A process whose lines of JSON we read."""

    def __init__(self, args, stdin=None, env=None):
        self.args = [str(arg) for arg in args]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.args,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        self.pid = self.process.pid
        self.said = []
        self.errors = b""
        self.peak = 0
        self.mutex = threading.Condition()
        self.readers = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        for reader in self.readers:
            reader.start()

    def _read(self):
        for line in self.process.stdout:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            with self.mutex:
                self.said.append(value)
                self.mutex.notify_all()
        with self.mutex:
            self.said.append(None)
            self.mutex.notify_all()

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors = (self.errors + line)[-4000:]

    def wait_line(self, wanted, timeout=120):
        """The first line, from now or earlier, of which `wanted` is true."""
        until, at = time.monotonic() + timeout, 0
        with self.mutex:
            while True:
                for line in self.said[at:]:
                    at += 1
                    if line is None:
                        raise Failed(f"{self.args} ended early: {self.errors.decode(errors='replace')}")
                    if wanted(line):
                        return line
                if not self.mutex.wait(max(until - time.monotonic(), 0)):
                    raise Failed(f"{self.args} says nothing")

    def write(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, timeout=600):
        """Wait for its end: wall seconds, CPU seconds and peak memory of its whole life."""
        over = threading.Event()
        threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        late = threading.Timer(timeout, self.process.kill)
        late.start()
        _, status, usage = os.wait4(self.pid, 0)
        wall = time.monotonic() - self.started
        late.cancel()
        over.set()
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            said = json.dumps([line for line in self.said if line][-1:])
            raise Failed(f"{self.args} failed: {said} {self.errors.decode(errors='replace')}")
        return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak": self.peak}

    def _watch(self, over):
        while not over.wait(0.01):
            self.peak = max(self.peak, peak_bytes(self.pid))

    def end(self):
        """Stop it, nicely at first."""
        if self.process.returncode is None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for reader in self.readers:
            reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                try:
                    pipe.close()
                except (OSError, ValueError):
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
