"""nginx with a configuration of its own, in a folder of its own."""

import os
import pwd
import subprocess
import time

from .procs import Failed, cpu_s, peak_bytes

CONFIG = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
user {user};
events {{ worker_connections 1024; }}
http {{
    log_format sent "$body_bytes_sent";
    access_log {log};
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 100000;
    default_type application/octet-stream;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    {more}
    server {{ listen {at}; location / {{ {location} }} }}
}}
"""


class Nginx:
    """Runs from its making to `end`; `where` is a prefix for its command and for those who look whether it is up."""

    def __init__(self, program, folder, at, location, more="", log="off", where=()):
        self.at = at
        user = pwd.getpwuid(os.getuid()).pw_name
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, user=user, at=at, location=location, more=more, log=log))
        command = [*where, program, "-p", str(folder), "-c", str(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_for(at, self.process, where)
        except Failed as failed:
            self.end()
            raise Failed(f"nginx does not start: {failed} {(folder / 'error.log').read_text()}") from failed

    def workers(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def cpu_s(self):
        return sum(map(cpu_s, self.workers()))

    def peak(self):
        return max(map(peak_bytes, self.workers()), default=0)

    def end(self):
        self.process.terminate()
        self.process.wait()


def wait_for(at, process, where=()):
    """Until somebody answers HTTP there."""
    probe = [*where, "curl", "-s", "-o", "/dev/null", f"http://{at}/"]
    until = time.monotonic() + 10
    while subprocess.run(probe, capture_output=True).returncode != 0:
        if time.monotonic() > until or process.poll() is not None:
            raise Failed(f"nobody answers at {at}")
        time.sleep(0.05)
