"""A line between two network namespaces, in user space: rate, delay, and a queue (`queues.py`).

Kernels without netem can do it, too. Needs root, `ip` and /dev/net/tun; everything goes away with the line.
What it carries is counted where it is carried, by the ports of `kinds`, in hundredths of seconds (`Link.carried`).
"""

import collections
import contextlib
import fcntl
import multiprocessing
import os
import select
import shutil
import struct
import subprocess
import time

from .procs import Failed
from .queues import Fifo

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
NEAR_ADDR, FAR_ADDR = "10.77.0.1", "10.77.0.2"
PACKET_MAX = 2048
SLICES_PER_S = 100


def why_not():
    """Why there can be no line here; None if there can."""
    if os.geteuid() != 0:
        return "a line with a delay needs root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    return None if shutil.which("ip") else "ip is not installed (apt-get install iproute2)"


def ip(*args):
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"ip {' '.join(args)}: {done.stderr.strip()}")


class Link:
    """`near` and `far` are prefixes for commands that are to run at either end."""

    def __init__(self, bytes_per_s, round_trip_s, buffer_bytes, kinds=None, queue=Fifo):
        self.shape = (bytes_per_s, round_trip_s / 2, buffer_bytes, kinds or {}, queue)
        self.meter, self.asked = multiprocessing.Pipe()
        self.names = [f"dvt{os.getpid()}{end}" for end in "nf"]
        self.near, self.far = (["ip", "netns", "exec", name] for name in self.names)
        self.tuns, self.forwarder = [], None

    def __enter__(self):
        try:
            for name, addr, other in zip(self.names, (NEAR_ADDR, FAR_ADDR), (FAR_ADDR, NEAR_ADDR)):
                self.add_end(name, addr, other)
            self.forwarder = multiprocessing.Process(target=forward, args=(self.asked, *self.tuns, *self.shape), daemon=True)
            self.forwarder.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def add_end(self, name, addr, other):
        ip("netns", "add", name)
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.tuns.append(tun)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        ip("link", "set", name, "netns", name)
        ip("-n", name, "addr", "add", addr, "peer", other, "dev", name)
        ip("-n", name, "link", "set", name, "up")
        ip("-n", name, "link", "set", "lo", "up")

    def carried(self):
        """By way ("up": near to far), kind and hundredth of a second of `time.monotonic`: bytes, seconds that packets
        waited, packets, drops."""
        self.meter.send("all")
        return self.meter.recv()

    def __exit__(self, *_):
        if self.forwarder:
            self.forwarder.kill()
            self.forwarder.join()
        for tun in self.tuns:
            os.close(tun)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Way:
    """One direction."""

    def __init__(self, name, source, sink, bytes_per_s, delay_s, buffer_bytes, kinds, queue):
        self.name, self.kinds, self.carried = name, kinds, {}
        self.source, self.sink = source, sink
        self.bytes_per_s, self.delay_s, self.queue = bytes_per_s, delay_s, queue(buffer_bytes)
        self.free_at, self.flying = 0.0, collections.deque()

    def take(self):
        while True:
            try:
                packet = os.read(self.source, PACKET_MAX)
            except BlockingIOError:
                return
            now = time.monotonic()
            for dropped in self.queue.push((now, packet, *self.kind(packet))):
                self.count(now, dropped, None)

    def move(self):
        """Put onto the line what begins by now, deliver what has arrived; when there is more to do."""
        now = time.monotonic()
        begins = self.begins()
        while begins is not None and begins <= now:
            packet, dropped = self.queue.pop(begins)
            for it in dropped:
                self.count(begins, it, None)
            if packet:
                self.free_at = begins + len(packet[1]) / self.bytes_per_s
                self.flying.append((self.free_at + self.delay_s, packet[1]))
                self.count(begins, packet, begins - packet[0])
            begins = self.begins()
        while self.flying and self.flying[0][0] <= now:
            with contextlib.suppress(OSError):
                os.write(self.sink, self.flying.popleft()[1])
        dues = [begins, self.flying[0][0] if self.flying else None]
        return min((at for at in dues if at is not None), default=None)

    def begins(self):
        """When the next packet goes onto the line: as if nobody were ever late."""
        oldest = self.queue.oldest()
        return None if oldest is None else max(self.free_at, oldest)

    def count(self, at, packet, waits_s):
        key = (self.name, packet[2], int(at * SLICES_PER_S))
        sums = self.carried.setdefault(key, [0, 0.0, 0, 0])
        if waits_s is None:
            sums[3] += 1
        else:
            sums[0] += len(packet[1])
            sums[1] += waits_s
            sums[2] += 1

    def kind(self, packet):
        """Whose it is, and of which flow."""
        header = (packet[0] & 15) * 4
        if packet[0] >> 4 == 4 and packet[9] in (6, 17) and len(packet) >= header + 4:
            source, to = struct.unpack_from("!HH", packet, header)
            return self.kinds.get(to) or self.kinds.get(source) or "other", (packet[9], source, to)
        return "other", None


def forward(asked, near, far, *shape):
    ways = {near: Way("up", near, far, *shape), far: Way("down", far, near, *shape)}
    while True:
        due = [at for at in [way.move() for way in ways.values()] if at is not None]
        wait = max(min(due) - time.monotonic(), 0) if due else None
        for ready in select.select([*ways, asked], [], [], wait)[0]:
            if ready is asked:
                asked.recv()
                asked.send({key: sums for way in ways.values() for key, sums in way.carried.items()})
            else:
                ways[ready].take()
