"""A real nginx of our own: its own folder, port and log; killed and started again as tests ask."""

import json
import shutil
import socket
import subprocess

import lab
from lab import SCRATCH, die_with_parent, folder, free_port, until

BINARY = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

CONFIG = """
daemon off;
master_process on;
worker_processes 1;
error_log {dir}/error.log info;
pid {dir}/pid;
user {user};
events {{ worker_connections 256; }}
http {{
    log_format lines escape=json '{{"method":"$request_method","uri":"$uri","status":$status,"bytes":$body_bytes_sent,'
        '"connection":$connection,"tls":"$ssl_protocol","range":"$http_range","if_range":"$http_if_range",'
        '"accept_encoding":"$http_accept_encoding","encoding":"$sent_http_content_encoding"}}';
    access_log {dir}/access.json lines;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    types {{ }}
    default_type application/octet-stream;
    keepalive_timeout 30s;
    {http}
    server {{
        listen 127.0.0.1:{port} {tls};
        root {root};
        {server}
    }}
}}
"""


class Nginx:
    """With a `certificate` (of certs.py) it speaks HTTPS at `url`, and nothing else there."""

    def __init__(self, server="", http="", certificate=None, name="nginx"):
        assert BINARY, "nginx is not installed"
        self.dir = folder(name)
        self.root = folder(f"{name}/root")
        self.port = free_port()
        self.certificate = certificate
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        self.config(server, http)
        self.child = None
        self.start()

    def config(self, server="", http=""):
        """Says what to serve from the next start on."""
        tls = ""
        if self.certificate:
            tls = "ssl"
            server += f"ssl_certificate {self.certificate.chain}; ssl_certificate_key {self.certificate.key};"
        # as root, workers too: the scratch folder is private
        places = {"dir": self.dir, "root": self.root, "port": self.port, "user": lab_user()}
        text = CONFIG.format(server=server, http=http, tls=tls, **places)
        (self.dir / "nginx.conf").write_text(text)

    def start(self):
        self.child = subprocess.Popen(
            [BINARY, "-p", str(self.dir), "-c", str(self.dir / "nginx.conf"), "-e", str(self.dir / "start.log")],
            stdin=subprocess.DEVNULL,
            stdout=open(self.dir / "out.log", "ab"),
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
            start_new_session=False,
        )
        until("nginx accepts connections", self.accepts, 10)

    def accepts(self):
        assert self.child.poll() is None, (self.dir / "start.log").read_text()
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        """kill -9 of the master and of its workers: connections are cut, nothing is finished."""
        workers = subprocess.run(["pgrep", "-P", str(self.child.pid)], capture_output=True, text=True, check=False)
        self.child.kill()
        self.child.wait()
        for pid in workers.stdout.split():
            subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
        until("nginx is gone", self.silent, 10)

    def silent(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) != 0

    def requests(self):
        """Every finished request so far, but not the probes of our start."""
        path = self.dir / "access.json"
        if not path.exists():
            return []
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if line["method"]]

    def asked(self, uri):
        return [line for line in self.requests() if line["uri"] == uri]


def lab_user():
    import getpass

    return getpass.getuser()


def bytes_sent(requests):
    return sum(line["bytes"] for line in requests if line["status"] in (200, 206))


__all__ = ["Nginx", "bytes_sent", "SCRATCH", "lab"]
