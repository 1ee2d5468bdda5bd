"""A LAN of three hosts: network namespaces on a bridge, with 1 Gbit/s (the kernel's tbf) out of the first of them."""

import os
import subprocess

from .link import ip

RATE = "1gbit"
ADDRS = ("10.78.0.1", "10.78.0.2", "10.78.0.3")


class Lan:
    """`hosts` are prefixes for commands that are to run there."""

    def __init__(self):
        self.names = [f"dvl{os.getpid()}{part}" for part in "abcx"]
        self.hosts = [["ip", "netns", "exec", name] for name in self.names[:3]]

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        *hosts, bridge = self.names
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
        ip("-n", bridge, "link", "set", "bridge", "up")
        for name, addr in zip(hosts, ADDRS):
            ip("-n", name, "link", "add", "lan", "type", "veth", "peer", "name", name[-5:], "netns", bridge)
            ip("-n", bridge, "link", "set", name[-5:], "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{addr}/24", "dev", "lan")
            # Packets as long as on a wire: else the bucket is too small for them.
            ip("-n", name, "link", "set", "lan", "up", "gso_max_size", "9000")
        shape = ["tc", "qdisc", "add", "dev", "lan", "root", "tbf", "rate", RATE, "burst", "128kb", "limit", "2mb"]
        subprocess.run([*self.hosts[0], *shape], check=True, capture_output=True)

    def received(self, host):
        """Bytes that have come to this host."""
        path = "/sys/class/net/lan/statistics/rx_bytes"
        return int(subprocess.run([*self.hosts[host], "cat", path], capture_output=True, text=True, check=True).stdout)

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
