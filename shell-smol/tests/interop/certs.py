"""Authorities and certificates of our own, made with openssl when a test asks; no machine trusts them by itself."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lab import folder

DAY_S = 24 * 3600
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

CONFIG = """
[ca]
default_ca = ours
[ours]
database = {dir}/issued
new_certs_dir = {dir}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
"""


@dataclass
class Certificate:
    chain: Path
    """What a server sends: its own certificate, then those of intermediate authorities."""
    key: Path


def self_signed(*names, authority):
    """Signed by nobody else."""
    where = folder("certs/itself")
    made = Certificate(where / "chain.pem", where / "server.key")
    (where / "req.conf").write_text("[req]\ndistinguished_name = any\n[any]\n")
    openssl(
        *("req", "-x509", *KEY, "-config", where / "req.conf", "-subj", "/CN=itself"),
        *("-addext", f"subjectAltName={','.join(names)}"),
        *("-addext", f"basicConstraints=critical,CA:{str(authority).upper()}"),
        *("-keyout", made.key, "-out", made.chain),
    )
    return made


class Authority:
    """Issues certificates. `trust` is the environment of a `get` that trusts it, and nobody else."""

    def __init__(self, name="test-ca", parent=None):
        self.dir = folder(f"certs/{name}")
        self.parent = parent
        self.file = self.dir / "authority.pem"
        self.key = self.dir / "authority.key"
        self.trust = {"SSL_CERT_FILE": str(self.file)}
        (self.dir / "issued").touch()
        (self.dir / "ca.conf").write_text(CONFIG.format(dir=self.dir))
        extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
        signer = parent or self
        signer.issue(f"/CN={name}", self.file, self.key, extensions, (-30 * DAY_S, 30 * DAY_S))

    def certificate(self, *names, valid_s=(-DAY_S, DAY_S), sends_parent=True):
        """For these subjectAltNames, `DNS:localhost` or `IP:127.0.0.1`; valid between two moments from now."""
        where = folder(f"{self.dir}/{'-'.join(names).replace(':', '-')}{valid_s[0]}")
        made = Certificate(where / "chain.pem", where / "server.key")
        extensions = f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n"
        self.issue("/CN=interop", made.chain, made.key, extensions, valid_s)
        if self.parent and sends_parent:
            made.chain.write_bytes(made.chain.read_bytes() + self.file.read_bytes())
        return made

    def issue(self, subject, path, key, extensions, valid_s):
        """Makes a key, and a certificate for it that this authority signs; its own first one signs itself."""
        request, options = path.with_suffix(".csr"), path.with_suffix(".ext")
        options.write_text(extensions)
        openssl("req", "-new", *KEY, "-subj", subject, "-keyout", key, "-out", request)
        signer = ["-cert", self.file, "-keyfile", self.key] if self.file.exists() else ["-selfsign", "-keyfile", key]
        begin, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + s)) for s in valid_s)
        openssl(
            *("ca", "-batch", "-notext", "-config", self.dir / "ca.conf", *signer),
            *("-startdate", begin, "-enddate", end, "-extfile", options, "-in", request, "-out", path),
        )


def openssl(*args):
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"openssl {args[0]}: {done.stderr}"
