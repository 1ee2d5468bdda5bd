"""Runs every interop test in a process of its own, one after the other.

Each test has a hard time limit and a scratch folder, and everything it started is killed when it ends, however it
ends. Prints one line per test and, at the end, `N passed, N failed`. Arguments choose tests by a part of their name.
Run it through `.ci/interop`, which provides libtorrent, nginx, tinyproxy and the binary; see docs/interop.md.
"""

import importlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import lab

HERE = pathlib.Path(__file__).parent


def all_tests():
    """Every function `test_*` of every file `test_*.py`, as `file.function`, in the order written."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, function in vars(module).items():
            if name.startswith("test_") and callable(function):
                yield f"{path.stem[5:]}.{name[5:]}", function


def run_here(wanted):
    """The child: runs one test in this process. Exit code 0 passed, 1 failed, 77 skipped."""
    function = dict(all_tests())[wanted]
    try:
        function()
    except lab.Skip as skip:
        print(skip)
        return 77
    except BaseException:  # a failed assertion, or anything else: say where
        traceback.print_exc(file=sys.stdout)
        return 1
    return 0


def run_apart(name, function):
    """The parent: one test, its limit, its folder, its leftovers. Returns (exit code, seconds, what it said)."""
    limit_s = getattr(function, "limit_s", lab.LIMIT_S)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="dovetail-interop-"))
    said_path = scratch / "said"
    started = time.monotonic()
    with open(said_path, "wb") as said:
        child = subprocess.Popen(
            [sys.executable, __file__, "--one", name],
            env={**os.environ, "INTEROP_SCRATCH": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGUSR1)  # says where it hangs
            try:
                child.wait(2)
            except subprocess.TimeoutExpired:
                pass
            code = 124
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
            subprocess.run(["umount", "-q", scratch / "small-disk"], check=False, capture_output=True)
    said = said_path.read_text(errors="replace")
    if code == 124:
        said += f"\nstopped after {limit_s} s\n"
    if code not in (0, 77):
        for log in sorted(scratch.glob("**/*.log")):
            tail = log.read_text(errors="replace")[-3000:]
            if tail.strip():
                said += f"\n--- {log.relative_to(scratch)}, its end:\n{tail}\n"
    if code in (0, 77) or "INTEROP_KEEP" not in os.environ:
        shutil.rmtree(scratch, ignore_errors=True)
    else:
        said += f"\nkept in {scratch}\n"
    return code, time.monotonic() - started, said


def main(parts):
    lab.make_killable()
    passed, failed, skipped = 0, [], 0
    for name, function in all_tests():
        if parts and not any(part in name for part in parts):
            continue
        code, took_s, said = run_apart(name, function)
        if code == 0:
            passed += 1
            print(f"ok    {name} ({took_s:.1f} s)", flush=True)
        elif code == 77:
            skipped += 1
            print(f"skip  {name}: {said.strip()}", flush=True)
        else:
            failed.append(name)
            print(f"FAIL  {name} ({took_s:.1f} s)\n{said}", flush=True)
    for name in failed:
        print(f"failed: {name}")
    if skipped:
        print(f"{skipped} skipped")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.exit(run_here(sys.argv[2]))
    sys.exit(main(sys.argv[1:]))
