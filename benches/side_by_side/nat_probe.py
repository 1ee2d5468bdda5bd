"""What a NAT does, found out with plain sockets on both its sides: so that the table of pairs means something."""

import contextlib
import ctypes
import os
import socket

from .nat_box import INSIDE_ADDR
from .procs import Failed

CLONE_NEWNET = 0x40000000
PORT = 7680
WAIT_S = 0.5


@contextlib.contextmanager
def within(namespace):
    """Sockets opened meanwhile belong to this namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", encoding="ascii") as home, open(f"/run/netns/{namespace}", encoding="ascii") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise Failed(f"no way into {namespace}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


class Sockets(contextlib.ExitStack):
    def udp(self, namespace, addr, port):
        with within(namespace):
            end = self.enter_context(socket.socket(family(addr), socket.SOCK_DGRAM))
        end.bind((addr, port))
        end.settimeout(WAIT_S)
        return end

    def tcp(self, namespace, addr):
        with within(namespace):
            end = self.enter_context(socket.socket(family(addr), socket.SOCK_STREAM))
        end.settimeout(WAIT_S)
        return end


def family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


def hear(end):
    """From where the next datagram comes; None if none does."""
    try:
        return end.recvfrom(100)[1][:2]
    except TimeoutError:
        return None


def found(box, addr, other_addr):
    """What two public addresses find out about this NAT."""
    with Sockets() as sockets:
        remotes = [sockets.udp(box.public, *at) for at in [(addr, PORT), (addr, PORT + 1), (other_addr, PORT)]]
        mapped = sockets.udp(box.name, INSIDE_ADDR, PORT)
        seen = []
        for remote in remotes:
            mapped.sendto(b"mapping", remote.getsockname())
            seen.append(hear(remote))
        if any(at is None or at[0] != box.outside for at in seen):
            raise Failed(f"{box.kind.name}: what goes out is seen from {seen}, not from {box.outside}")
        asking = sockets.udp(box.name, INSIDE_ADDR, PORT + 1)
        asking.sendto(b"filtering", remotes[0].getsockname())
        hole = hear(remotes[0])
        answers = []
        for remote in remotes:
            remote.sendto(b"answer", hole)
            answers.append(hear(asking) == remote.getsockname())
        asking.sendto(b"hairpin", seen[0])
        return {
            "ports kept": seen[0][1] == PORT and hole[1] == PORT + 1,
            "one port to all": len(set(seen)) == 1,
            "the asked may answer": answers[0],
            "from another port": answers[1],
            "from another address": answers[2],
            "hairpin": hear(mapped) is not None,
            "TCP out": connects(sockets, box.public, addr, box.name, addr),
            "TCP in": connects(sockets, box.name, INSIDE_ADDR, box.public, box.outside),
        }


def connects(sockets, namespace, addr, other, towards):
    listener = sockets.tcp(namespace, addr)
    listener.bind((addr, PORT))
    listener.listen()
    dialer = sockets.tcp(other, towards)
    try:
        dialer.connect((towards, PORT))
        peer = sockets.enter_context(listener.accept()[0])
        dialer.sendall(b"stream")
        peer.settimeout(WAIT_S)
        return peer.recv(100) == b"stream"
    except OSError:
        return False


def expected(kind):
    return {
        "ports kept": kind.keeps_ports,
        "one port to all": kind.mapping == "nothing",
        "the asked may answer": True,
        "from another port": kind.filtering != "address and port",
        "from another address": kind.filtering == "nothing",
        "hairpin": False,
        "TCP out": True,
        "TCP in": False,
    }


def check(box, addr, other_addr):
    """What was found; fails if it is not what this kind is."""
    facts = found(box, addr, other_addr)
    if facts != expected(box.kind):
        wrong = [name for name, value in expected(box.kind).items() if facts[name] != value]
        raise Failed(f"the NAT that should be {box.kind.name} is not: {', '.join(wrong)}")
    return facts


def check_v6(box, addr):
    """Fails if IPv6 does not pass the router as it should: out as it is, and in as an answer only."""
    with Sockets() as sockets:
        inside, outside, other = (sockets.udp(*at) for at in [(box.name, box.inside_v6, PORT), (box.public, addr, PORT), (box.public, addr, PORT + 1)])
        outside.sendto(b"unasked", (box.inside_v6, PORT))
        comes_unasked = hear(inside)
        inside.sendto(b"question", (addr, PORT))
        is_as_it_was = hear(outside) == (box.inside_v6, PORT)
        outside.sendto(b"answer", (box.inside_v6, PORT))
        answers = hear(inside) == (addr, PORT)
        other.sendto(b"from another port", (box.inside_v6, PORT))
        facts = {
            "nothing comes unasked": not comes_unasked,
            "what goes out is not translated": is_as_it_was,
            "answers come": answers,
            "nothing comes from another port": not hear(inside),
            "TCP goes out": connects(sockets, box.public, addr, box.name, addr),
            "TCP does not come in": not connects(sockets, box.name, box.inside_v6, box.public, box.inside_v6),
        }
    if wrong := [name for name, is_so in facts.items() if not is_so]:
        raise Failed(f"the firewall of IPv6 is none: not so: {', '.join(wrong)}")
