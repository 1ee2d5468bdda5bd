"""Where runs happen: a folder in memory, files of noise, the programs, and what is known of the machine."""

import filecmp
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from .procs import MIB, Failed

ROOT = Path(__file__).resolve().parents[2]

# Peers are met whatever this machine is like: folders in memory are small "disks".
os.environ.update(
    DOVETAIL_MIN_RAM_ALLOWED_TO_PEER="0B",
    DOVETAIL_MIN_DISK_SIZE_ALLOWED_TO_PEER="0B",
    DOVETAIL_MIN_FILE_SIZE_TO_PEER="0B",
    DOVETAIL_MIN_BATTERY_PERCENTAGE_ALLOWED_TO_UPLOAD="1%",
    DOVETAIL_ALLOW_VPN_PEER_CACHING="true",
    DOVETAIL_ALLOW_METERED="true",
)
RATE = 20_000_000


class Lab:
    """The folder all runs share, and what they may use."""

    def __init__(self, args):
        self.quick, self.long = args.quick, args.long
        self.drawing = Path(args.drawing) if args.drawing else target_folder() / "yielding.svg"
        self.runs = args.runs
        self.program = find_program(args.program)
        self.folder = make_folder(args.dir)
        self.skipped, self.notes = [], []
        self._pythons = {}

    def path(self, *parts):
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def home(self, name):
        """A fresh home for one Dovetail process."""
        path = self.path("homes", name)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        path.chmod(0o700)
        return path

    def remove_homes(self):
        """A file that was asked for takes its whole length in memory."""
        shutil.rmtree(self.folder / "homes", ignore_errors=True)

    def noise(self, size):
        """A file of this size that does not compress; the same one for all runs."""
        path = self.path("source", f"noise-{size // MIB}.bin")
        if not path.exists():
            with open(path, "wb") as file:
                for at in range(0, size, MIB):
                    file.write(os.urandom(min(MIB, size - at)))
        return path

    def dovetail(self, home, *args):
        return [self.program, "--json", "--home", home, *args]

    def skip(self, what, why):
        line = f"SKIPPED {what}: {why}"
        self.skipped.append(line)
        print(line, file=sys.stderr, flush=True)

    def note(self, line):
        """To be printed at the end."""
        self.notes.append(line)

    def libtorrent(self):
        """A Python that has libtorrent, made under target/ if need be; None if it cannot be had."""
        is_new = "libtorrent" not in self._pythons
        found = self._python("libtorrent", "libtorrent>=2.0.11,<3")
        if is_new and not found:
            self.skip("libtorrent", "it cannot be installed from PyPI here")
        return found

    def matplotlib(self):
        return self._python("matplotlib", "matplotlib>=3.8,<4")

    def _python(self, module, wanted):
        if module not in self._pythons:
            self._pythons[module] = make_python(module, wanted)
        return self._pythons[module]

    def nginx(self):
        found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
        if not found or not shutil.which("curl"):
            self.skip("get beside curl", "nginx or curl is not installed (apt-get install nginx-light curl)")
            return None
        return found

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    """Between here and its use somebody else could take it; then that says so and the run fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def target_folder():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def find_program(given):
    path = Path(given) if given else target_folder() / "release" / "dovetail"
    if not path.exists():
        raise Failed(f"{path} is not there: build it with `cargo build --release`, or name it with --program")
    return path.resolve()


def make_folder(given):
    """In memory if there is room, so that no disk is measured."""
    memory = Path("/dev/shm")
    base = given
    if base is None and memory.is_dir() and shutil.disk_usage(memory).free >= 3 << 30:
        base = memory
    return Path(tempfile.mkdtemp(prefix="dovetail-bench-", dir=base))


def make_python(module, wanted):
    """The Python under target/ that has this module; None if it cannot be had."""
    python = target_folder() / "interop" / "venv" / "bin" / "python"
    works = [python, "-c", f"import {module}"]
    if python.exists() and subprocess.run(works, capture_output=True).returncode == 0:
        return python
    steps = [
        [sys.executable, "-m", "venv", python.parent.parent],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted],
        works,
    ]
    done = all(subprocess.run(step, capture_output=True).returncode == 0 for step in steps)
    return python if done else None


def publish(lab, home, file, torrent, *more, where=()):
    """Make the metainfo file, the same for every program; hands it to the agent of this home, if one runs."""
    command = [*where, *lab.dovetail(home, "publish", file, "-o", torrent, "--overwrite", *more)]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"publish failed: {done.stdout} {done.stderr}")


def check_same(source, output):
    if not filecmp.cmp(source, output, shallow=False):
        raise Failed(f"{output} differs from {source}")


def said(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return (done.stdout + done.stderr).strip().splitlines()[0] if done.stdout + done.stderr else ""
    except OSError:
        return ""


def machine(lab):
    """What the figures belong to."""
    cpu = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    facts = {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB,
        "load": " ".join(f"{n:.1f}" for n in os.getloadavg()),
        "folder": str(lab.folder.parent),
        "commit": said("git", "describe", "--always", "--dirty", "--abbrev=10"),
        "dovetail": said(str(lab.program), "--version"),
        "curl": " ".join(said("curl", "--version").split()[:2]),
    }
    if nginx := shutil.which("nginx", path="/usr/sbin:/usr/bin"):
        facts["nginx"] = said(nginx, "-v").removeprefix("nginx version: ")
    if python := lab._pythons.get("libtorrent"):
        version = "import libtorrent; print(libtorrent.__version__)"
        facts["libtorrent"] = said(str(python), "-c", version)
    return facts
