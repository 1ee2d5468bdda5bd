"""A real tinyproxy of our own: its own port and log; killed and started again as tests ask."""

import re
import shutil
import socket
import subprocess

from lab import die_with_parent, folder, free_port, until

BINARY = shutil.which("tinyproxy") or shutil.which("tinyproxy", path="/usr/sbin:/usr/local/sbin")

CONFIG = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 50
LogLevel Info
LogFile "{dir}/proxy.log"
{more}
"""


class Proxy:
    """`more` are lines of tinyproxy.conf."""

    def __init__(self, more="", name="proxy"):
        assert BINARY, "tinyproxy is not installed"
        self.dir = folder(name)
        self.port = free_port()
        self.addr = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.addr}"
        (self.dir / "tinyproxy.conf").write_text(CONFIG.format(port=self.port, dir=self.dir, more=more))
        self.child = None
        self.start()

    def start(self):
        self.child = subprocess.Popen(
            [BINARY, "-d", "-c", self.dir / "tinyproxy.conf"],
            stdin=subprocess.DEVNULL,
            stdout=open(self.dir / "out.log", "ab"),
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        until("the proxy accepts connections", self.accepts, 10)

    def accepts(self):
        assert self.child.poll() is None, (self.dir / "out.log").read_text()
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        """kill -9: it has one process, so every connection is cut."""
        self.child.kill()
        self.child.wait()

    def requests(self):
        """`(method, target)` of everything it was asked so far."""
        return re.findall(r"Request \(file descriptor \d+\): (\S+) (\S+) HTTP", self.log())

    def log(self):
        return (self.dir / "proxy.log").read_text(errors="replace")
