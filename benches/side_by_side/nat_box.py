"""A router with NAT in user space: a private network on one side, one public address on the other.

It behaves as it is told (RFC 4787: mapping, filtering, whether ports are kept), which a kernel's NAT would do for two of
the four classic kinds only. UDP and TCP go out, and so do pings; what nobody inside has asked for stays outside, every opening
of a TCP connection in any case. Nothing is sent back into the site it came from (no hairpinning). A site may have IPv6
besides, with an address of its own for its host: there the router is a firewall, which lets in what answers.
Needs root, `ip` and /dev/net/tun; everything goes away with the box.
"""

import collections
import dataclasses
import fcntl
import multiprocessing
import os
import random
import select
import socket
import struct
import subprocess
import time

from .link import IFF_NO_PI, IFF_TUN, PACKET_MAX, TUNSETIFF, ip

INSIDE_ADDR, ROUTER_ADDR, ROUTER_V6 = "192.168.1.10", "192.168.1.1", "fe80::1"
UDP_TIMEOUT_S, TCP_TIMEOUT_S = 30, 3600
ICMP, TCP, UDP = 1, 6, 17
V6_HEADER = 40
CHECKSUM_AT = {TCP: 16, UDP: 6}
SYN_OR_ACK, SYN = 0x12, 0x02
ECHO_REPLY, ECHO = 0, 8
DELAY_S = 0.005
FULL_BYTES = 1000


@dataclasses.dataclass(frozen=True)
class Kind:
    """`mapping` and `filtering`: what they depend on of a remote: nothing, its address, its address and port."""

    name: str
    mapping: str
    filtering: str
    keeps_ports: bool


KINDS = [
    Kind("full cone", "nothing", "nothing", True),
    Kind("address-restricted", "nothing", "address", True),
    Kind("port-restricted", "nothing", "address and port", True),
    Kind("symmetric", "address and port", "address and port", False),
]

SYMMETRIC = KINDS[-1]

# TCP goes out from everywhere, so that only what happens to UDP differs.
TCP_KIND = Kind("TCP", "nothing", "address and port", True)


class Table:
    """The mappings of one protocol."""

    def __init__(self, kind, timeout_s):
        self.kind, self.timeout_s = kind, timeout_s
        self.by_inside, self.by_port = {}, {}

    def outward(self, inside, remote, now):
        """The outside port with which this leaves."""
        key = (inside, remote if self.kind.mapping != "nothing" else None)
        port = self.by_inside.get(key)
        if port is None or not self.remotes(port, now):
            port = self.by_inside[key] = self.free_port(inside[1], now)
            self.by_port[port] = (inside, {})
        self.by_port[port][1][remote] = now
        return port

    def inward(self, port, remote, now):
        """Whom inside this is for; None if it is not let in."""
        remotes = self.remotes(port, now)
        allowed = {
            "nothing": bool(remotes),
            "address": any(known[0] == remote[0] for known in remotes),
            "address and port": remote in remotes,
        }
        return self.by_port[port][0] if allowed[self.kind.filtering] else None

    def remotes(self, port, now):
        """Who was sent to through this port lately."""
        _, sent = self.by_port.get(port, (None, {}))
        return [remote for remote, at in sent.items() if now - at < self.timeout_s]

    def free_port(self, wanted, now):
        while not self.kind.keeps_ports or self.remotes(wanted, now):
            wanted = random.randrange(1024, 65536)
            if not self.remotes(wanted, now):
                break
        return wanted


class Translator:
    def __init__(self, kind, outside):
        self.outside = socket.inet_aton(outside)
        self.tables = {UDP: Table(kind, UDP_TIMEOUT_S), TCP: Table(TCP_KIND, TCP_TIMEOUT_S)}
        self.pings = {}
        self.firewall = Firewall()

    def outward(self, packet, now):
        """The packet as it leaves; None if it does not."""
        if packet[0] >> 4 == 6:
            return self.firewall.outward(packet, now)
        protocol, source, to, header = addresses(packet)
        if protocol is None or to == self.outside or to[0] >= 224:
            return None
        if protocol == ICMP:
            if packet[header] != ECHO:
                return None
            self.pings[packet[header + 4 : header + 6]] = source
            return rewritten(packet, protocol, header, 12, self.outside, None, None)
        ports = struct.unpack_from("!HH", packet, header)
        port = self.tables[protocol].outward((source, ports[0]), (to, ports[1]), now)
        return rewritten(packet, protocol, header, 12, self.outside, header, port)

    def inward(self, packet, now):
        """The packet as it enters; None if it does not."""
        if packet[0] >> 4 == 6:
            return self.firewall.inward(packet, now)
        protocol, source, to, header = addresses(packet)
        if protocol is None or to != self.outside:
            return None
        if protocol == ICMP:
            inside = self.pings.get(packet[header + 4 : header + 6])
            if packet[header] != ECHO_REPLY or inside is None:
                return None
            return rewritten(packet, protocol, header, 16, inside, None, None)
        if protocol == TCP and packet[header + 13] & SYN_OR_ACK == SYN:
            return None
        ports = struct.unpack_from("!HH", packet, header)
        inside = self.tables[protocol].inward(ports[1], (source, ports[0]), now)
        return inside and rewritten(packet, protocol, header, 16, inside[0], header + 2, inside[1])


class Firewall:
    """What IPv6 passes: nothing is translated."""

    def __init__(self):
        self.sent = {}

    def outward(self, packet, now):
        protocol, source, to = sockets(packet)
        if protocol is None:
            return None
        self.sent[protocol, source, to] = now
        return packet

    def inward(self, packet, now):
        protocol, source, to = sockets(packet)
        if protocol == TCP and packet[V6_HEADER + 13] & SYN_OR_ACK == SYN:
            return None
        timeout_s = UDP_TIMEOUT_S if protocol == UDP else TCP_TIMEOUT_S
        return packet if now - self.sent.get((protocol, to, source), -timeout_s) < timeout_s else None


def sockets(packet):
    """Protocol, source and destination of an IPv6 packet, addresses with ports; no protocol if it is nothing we carry."""
    if len(packet) < V6_HEADER + 8 or packet[6] not in (TCP, UDP) or packet[24] in (0xFE, 0xFF):
        return None, None, None
    ports = struct.unpack_from("!HH", packet, V6_HEADER)
    return packet[6], (packet[8:24], ports[0]), (packet[24:40], ports[1])


def addresses(packet):
    """Protocol, source, destination, length of the IP header; no protocol if this is nothing we carry."""
    header = (packet[0] & 15) * 4
    is_fragment = struct.unpack_from("!H", packet, 6)[0] & 0x3FFF
    carried = packet[0] >> 4 == 4 and packet[9] in (ICMP, TCP, UDP) and len(packet) >= header + 8 and not is_fragment
    return (packet[9] if carried else None), packet[12:16], packet[16:20], header


def rewritten(packet, protocol, header, addr_at, addr, port_at, port):
    out = bytearray(packet)
    before = packet[addr_at : addr_at + 4]
    adjust(out, 10, before, addr)
    out[addr_at : addr_at + 4] = addr
    if protocol in CHECKSUM_AT:
        new_port = struct.pack("!H", port)
        at = header + CHECKSUM_AT[protocol]
        if protocol == TCP or out[at : at + 2] != b"\0\0":
            adjust(out, at, before + packet[port_at : port_at + 2], addr + new_port)
        out[port_at : port_at + 2] = new_port
    return bytes(out)


def adjust(packet, at, old, new):
    """A checksum after some of what it covers has changed (RFC 1624, equation 3)."""
    words = f"!{len(old) // 2}H"
    total = struct.unpack_from("!H", packet, at)[0] ^ 0xFFFF
    total += sum(word ^ 0xFFFF for word in struct.unpack(words, old)) + sum(struct.unpack(words, new))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", packet, at, total ^ 0xFFFF)


class Box:
    """A site with one host, `where` its programs run (a prefix of commands), behind a NAT at `outside` of `public`; with
    `inside_v6` it has that address, too."""

    def __init__(self, name, public, outside, kind, inside_v6=None):
        self.name, self.public, self.outside, self.kind, self.inside_v6 = name, public, outside, kind, inside_v6
        self.router = f"{name}r"
        self.where = ["ip", "netns", "exec", name]
        self.tuns, self.process = [], None
        self.full_at = multiprocessing.Value("d", 0.0)

    def __enter__(self):
        try:
            self.add_lan()
            self.add_tun(self.router, f"{self.name}i")
            ip("-n", self.router, "route", "add", "default", "dev", f"{self.name}i")
            self.add_tun(self.public, f"{self.name}o")
            ip("-n", self.public, "route", "add", self.outside, "dev", f"{self.name}o")
            if self.inside_v6:
                ip("-n", self.router, "-6", "route", "add", "default", "dev", f"{self.name}i")
                ip("-n", self.public, "-6", "route", "add", self.inside_v6, "dev", f"{self.name}o")
            work = (*self.tuns, Translator(self.kind, self.outside), self.full_at)
            self.process = multiprocessing.Process(target=forward, args=work, daemon=True)
            self.process.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def add_lan(self):
        """The host and its router. A host at the TUN device itself would be one in a VPN, whose addresses nobody is told."""
        host, router = ("-n", self.name), ("-n", self.router)
        for namespace in (self.name, self.router):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        let_forward(self.router)
        ip(*router, "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip(*router, "addr", "add", f"{ROUTER_ADDR}/24", "dev", "lan")
        ip(*host, "addr", "add", f"{INSIDE_ADDR}/24", "dev", "eth0")
        ip(*router, "link", "set", "lan", "up")
        ip(*host, "link", "set", "eth0", "up")
        ip(*host, "route", "add", "default", "via", ROUTER_ADDR)
        if self.inside_v6:
            ip(*router, "addr", "add", f"{ROUTER_V6}/64", "dev", "lan", "nodad")
            ip(*router, "-6", "route", "add", self.inside_v6, "dev", "lan")
            ip(*host, "addr", "add", f"{self.inside_v6}/64", "dev", "eth0", "nodad")
            ip(*host, "-6", "route", "add", "default", "via", ROUTER_V6, "dev", "eth0")

    def add_tun(self, namespace, name):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.tuns.append(tun)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        ip("link", "set", name, "netns", namespace)
        ip("-n", namespace, "link", "set", name, "up")

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.join()
        for tun in self.tuns:
            os.close(tun)
        for namespace in (self.name, self.router):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def let_forward(namespace):
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        ip("netns", "exec", namespace, "sh", "-c", f"echo 1 > /proc/sys/net/{setting}")


def forward(inside, outside, translator, full_at):
    """The line to the router is DELAY_S long, either way; translated is at its near end.

    `full_at`: when the first full UDP packet came in, which only data from a peer is.
    """
    up, down = collections.deque(), collections.deque()
    while True:
        now = time.monotonic()
        while up and up[0][0] <= now:
            write(outside, up.popleft()[1])
        while down and down[0][0] <= now:
            packet = translator.inward(down.popleft()[1], now)
            write(inside, packet)
            if packet and not full_at.value and is_full(packet):
                full_at.value = now
        due = [way[0][0] for way in (up, down) if way]
        ready = select.select([inside, outside], [], [], max(min(due) - now, 0) if due else None)[0]
        now = time.monotonic()
        if inside in ready and (packet := read(inside)):
            up.append((now + DELAY_S, translator.outward(packet, now)))
        if outside in ready and (packet := read(outside)):
            down.append((now + DELAY_S, packet))


def is_full(packet):
    protocol = packet[6] if packet[0] >> 4 == 6 else packet[9]
    return protocol == UDP and len(packet) >= FULL_BYTES


def read(tun):
    try:
        return os.read(tun, PACKET_MAX)
    except BlockingIOError:
        return None


def write(tun, packet):
    if packet:
        try:
            os.write(tun, packet)
        except OSError:
            pass
