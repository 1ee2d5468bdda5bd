"""Ports of a router: miniupnpd between two network namespaces, asked by PCP, NAT-PMP and UPnP-IGD.

The device has the private address 192.168.7.2 behind the router's NAT; outside are a coordinator and another device. The
router's address outside only looks public: miniupnpd refuses the ranges that are set aside for documents.
"""

import os
import re
import shutil
import subprocess
import sys

import lab
from lab import MIB, Skip, folder, payload, same, until
from test_dns_sd import Network

OUTSIDE, ROUTER_OUT, ROUTER_IN, DEVICE = "11.8.0.2", "11.7.0.1", "192.168.7.1", "192.168.7.2"

NAT = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "in" accept
        jump miniupnpd
    }
    chain miniupnpd { }
    chain prerouting {
        type nat hook prerouting priority -100;
        jump prerouting_miniupnpd
    }
    chain prerouting_miniupnpd { }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump postrouting_miniupnpd
        oifname "out" masquerade
    }
    chain postrouting_miniupnpd { }
}
"""
"""What a home router does: nobody gets in from outside, everybody out, and the chains that miniupnpd fills."""


class Site:
    """device --- router --- outside. The two outside are in no common network, as on the Internet."""

    def __init__(self):
        if os.geteuid() != 0:
            raise Skip("network namespaces need root")
        if not shutil.which("nft") or not shutil.which("miniupnpd"):
            raise Skip("no nft or no miniupnpd")
        self.device, self.router, self.outside = Network(), Network(), Network()
        try:
            self.cable(self.device, "eth0", f"{DEVICE}/24", "in", f"{ROUTER_IN}/24")
            self.cable(self.outside, "eth0", f"{OUTSIDE}/32", "out", f"{ROUTER_OUT}/32")
            self.outside.run("ip", "route", "add", ROUTER_OUT, "dev", "eth0")
            self.router.run("ip", "route", "add", OUTSIDE, "dev", "out")
            self.device.run("ip", "route", "add", "default", "via", ROUTER_IN)
            self.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        except subprocess.CalledProcessError as failed:
            raise Skip(f"no router between network namespaces: {failed.stderr.strip()}") from None
        rules = folder("router") / "nat.nft"
        rules.write_text(NAT)
        self.router.run("nft", "-f", rules)

    def cable(self, network, name, address, port, router_address):
        self.router.run("ip", "link", "add", port, "type", "veth", "peer", "name", name, "netns", network.holder.pid)
        for end, link, addr in ((network, name, address), (self.router, port, router_address)):
            end.run("ip", "addr", "add", addr, "dev", link)
            end.run("ip", "link", "set", link, "up")
            end.run("ip", "link", "set", "lo", "up")

    def serve(self, *lines):
        """Runs miniupnpd; what these lines of its configuration do not switch on is off."""
        conf, self.leases = folder("router") / "miniupnpd.conf", folder("router") / "leases"
        self.leases.write_text("")
        conf.write_text(
            "\n".join(
                [
                    "ext_ifname=out",
                    "listening_ip=in",
                    "http_port=0",
                    f"lease_file={self.leases}",
                    "secure_mode=yes",
                    "ipv6_disable=yes",
                    "uuid=6a3b1b4e-0000-4000-8000-d07e7a11d07e",
                    "upnp_table_name=filter",
                    "upnp_nat_table_name=filter",
                    "upnp_forward_chain=miniupnpd",
                    "upnp_nat_chain=prerouting_miniupnpd",
                    "upnp_nat_postrouting_chain=postrouting_miniupnpd",
                    "allow 1024-65535 192.168.7.0/24 1024-65535",
                    *lines,
                    "",
                ]
            )
        )
        self.log = open(folder("router") / "miniupnpd.log", "wb")
        pid = folder("router") / "pid"
        command = [*self.router.within, "miniupnpd", "-d", "-f", str(conf), "-P", str(pid)]
        self.server = subprocess.Popen(command, stdout=self.log, stderr=self.log, preexec_fn=lab.die_with_parent)
        until("miniupnpd runs", lambda: pid.exists() or self.server.poll() is not None)
        assert self.server.poll() is None, "miniupnpd has ended"

    def mapped(self):
        """Ports that the kernel leads to the device: `tcp 7680 -> 7680`."""
        rules = self.router.run("nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd")
        # As nft prints what miniupnpd writes: the ninth byte of the IP header is the protocol.
        found = re.findall(r"@nh,72,8 (0x6|0x11) th dport (\d+) dnat ip to ([0-9.]+):(\d+)", rules)
        assert len(found) == rules.count("dnat"), rules
        assert all(to == DEVICE for _, _, to, _ in found), rules
        names = {"0x6": "tcp", "0x11": "udp"}
        return {f"{names[protocol]} {outside} -> {inside}" for protocol, outside, _, inside in found}


BOTH = {"tcp 7680 -> 7680", "udp 7680 -> 7680"}
INTERNET = {"DOVETAIL_DOWNLOAD_MODE": "internet"}


def share(site, *args, home="device", env=INTERNET):
    """The agent behind the router."""
    return lab.start("agent", "--share", "--listen", "0.0.0.0:7680", *args, home=home, env=env, within=site.device.within)


def port(home="device"):
    """What the agent says of its port."""
    status = lab.Process("status", home=home)
    assert status.end() == 0, status.error()
    return status.last("status")["nat"]["port_mapping"]


def is_mapped(protocol):
    now = port()
    return now["state"] == "mapped" and now["protocol"] == protocol and now


def comes_in(site):
    """A stranger outside reaches the agent at the router's address."""
    probe = "import socket,sys; socket.create_connection((sys.argv[1], 7680), 3)"
    done = subprocess.run([*site.outside.within, sys.executable, "-c", probe, ROUTER_OUT], capture_output=True, check=False)
    return done.returncode == 0


def about_routers(agent):
    return [line["text"] for line in agent.lines if line["type"] == "log" and "router" in line["text"]]


def mapped_used_and_given_back(protocol, *lines, change=lambda site: None):
    site = Site()
    site.serve(*lines)
    change(site)
    agent = share(site)
    until(f"a port by {protocol}", lambda: is_mapped(protocol))
    assert port()["outside"] == f"{ROUTER_OUT}:7680", port()
    until(f"both ports, not {site.mapped()}", lambda: site.mapped() == BOTH)
    assert len(site.leases.read_text().splitlines()) == 2, site.leases.read_text()
    assert comes_in(site)
    assert about_routers(agent) == [f"the router {ROUTER_IN} lets peers in at {ROUTER_OUT}:7680 ({protocol})"]
    agent.child.terminate()
    assert agent.end() == 0, agent.error()
    assert site.mapped() == set()
    assert not comes_in(site)


def test_pcp():
    mapped_used_and_given_back("PCP", "enable_natpmp=yes", "enable_upnp=no")


def test_nat_pmp():
    """The server speaks both: whatever is PCP (version 2) is kept from it."""

    def without_pcp(site):
        site.router.run("nft", "add", "table", "inet", "old")
        site.router.run("nft", "add chain inet old input { type filter hook input priority -1; }")
        site.router.run("nft", "add rule inet old input udp dport 5351 @th,64,8 2 drop")

    mapped_used_and_given_back("NAT-PMP", "enable_natpmp=yes", "enable_upnp=no", change=without_pcp)


def test_igd():
    mapped_used_and_given_back("UPnP-IGD", "enable_natpmp=no", "enable_upnp=yes")


def test_a_setting_gives_the_port_back_and_asks_for_it_again():
    site = Site()
    site.serve("enable_natpmp=yes", "enable_upnp=no")
    agent = share(site, env={})
    assert port()["state"] == "off" and port()["setting"].startswith("download_mode = lan"), port()
    lab.Process("config", "set", "download_mode", "internet", home="device").end()
    until("a port in mode internet", lambda: site.mapped() == BOTH)
    lab.Process("config", "set", "port_mapping", "false", home="device").end()
    until("no port without leave", lambda: site.mapped() == set())
    assert port()["setting"].startswith("port_mapping = false"), port()
    lab.Process("config", "unset", "port_mapping", home="device").end()
    until("a port again", lambda: site.mapped() == BOTH)
    # Another network, another router, which maps nothing; and back.
    site.device.run("ip", "addr", "add", "192.168.9.2/24", "dev", "eth0")
    site.device.run("ip", "route", "replace", "default", "via", "192.168.9.1")
    until("no port elsewhere", lambda: port()["state"] != "mapped")
    site.device.run("ip", "route", "replace", "default", "via", ROUTER_IN)
    until("a port at home", lambda: is_mapped("PCP"))
    agent.child.terminate()
    assert agent.end() == 0, agent.error()
    assert site.mapped() == set()


@lab.limit(120)
def test_it_is_renewed():
    site = Site()
    site.serve("enable_natpmp=yes", "enable_upnp=no", "min_lifetime=20", "max_lifetime=40")
    agent = share(site)
    until("a port", lambda: is_mapped("PCP"))

    def ends():
        return [int(line.split(":")[4]) for line in site.leases.read_text().splitlines()]

    first = ends()
    assert len(first) == 2, site.leases.read_text()
    # Twice, each time half of its 40 s later.
    until("later ends of both leases", lambda: len(ends()) == 2 and min(ends()) >= max(first) + 36, seconds=60)
    assert site.mapped() == BOTH
    assert comes_in(site)
    assert len(about_routers(agent)) == 1, about_routers(agent)
    agent.child.terminate()
    assert agent.end() == 0, agent.error()


def test_a_router_without_any_of_them():
    site = Site()
    agent = share(site)
    until("the router is given up", lambda: port()["state"] == "failed")
    why = port()["why"]
    assert why == "PCP: connection refused, NAT-PMP: connection refused, UPnP-IGD: no answer", why
    assert len(about_routers(agent)) == 1, about_routers(agent)
    agent.child.terminate()
    assert agent.end(5) == 0, agent.error()


def test_another_site_downloads_through_the_port():
    """The coordinator outside sees the router's address; it names the port, and a device outside comes in."""
    site = Site()
    site.serve("enable_natpmp=yes", "enable_upnp=yes")
    digest = payload(folder("files") / "file.bin", 3 * MIB)
    listen = ("--listen", f"{OUTSIDE}:7681")
    coordinator = lab.start("coordinator", *listen, home="coordinator", within=site.outside.within)
    url = f"http://{coordinator.addr}"
    agent = share(site, "--coordinator", url)
    until("a port", lambda: is_mapped("PCP"))
    torrent = folder("files") / "file.bin.torrent"
    published = lab.Process("publish", folder("files") / "file.bin", home="device", within=site.device.within)
    assert published.end() == 0, published.error()
    out = folder("out") / "file.bin"
    got = lab.get(
        "--metainfo", torrent, "--coordinator", url, "--require-peers", "--sha256", digest, "-o", out,
        home="taker", env=INTERNET, within=site.outside.within,
    )
    same(out, digest)
    assert got["received"]["internet"] == 3 * MIB, got
    agent.child.terminate()
    assert agent.end() == 0, agent.error()
