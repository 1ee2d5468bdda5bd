"""Bad input and bad luck: one clear message, the exit code of docs/exit-codes.md, and what was good is kept."""

import os
import pathlib
import signal
import subprocess

import libtorrent as lt

import lab
from lab import MIB, Process, Skip, agent, folder, free_port, from_peers, get, get_fails, kill_with, origin, payload, publish, same
from swarm import make_torrent

LENGTH = 48 * MIB + 4321


def served(*args, length=LENGTH):
    """A Dovetail origin with one fresh file: (origin, URL, SHA-256)."""
    shelf = folder("shelf")
    digest = payload(shelf / "file.bin", length)
    source = origin(shelf, *args)
    return source, f"http://{source.addr}/file.bin", digest


def small_disk(options):
    """A tmpfs of its own; only root can have one."""
    path = folder("small-disk")
    if os.geteuid() != 0:
        raise Skip("needs root, to mount a small tmpfs")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    return path


def test_killed_in_mid_download_the_rest_is_fetched():
    """kill -9, then the same command: the origin sends only what was missing."""
    source, url, digest = served("--limit", "10MB/s")
    out = folder("out") / "file.bin"
    first = Process("get", url, "--sha256", digest, "-o", out, home="get")
    had = kill_with(first, out, LENGTH // 3)
    before = lab.stats(source)["bytes_sent"]
    got = get(url, "--sha256", digest, "-o", out)
    same(out, digest)
    sent = lab.stats(source)["bytes_sent"] - before
    assert got["resumed"] == had, (had, got)
    assert sent <= LENGTH - had + MIB, (sent, LENGTH - had, got)
    assert sorted(p.name for p in out.parent.iterdir()) == ["file.bin"], "leftovers beside the output"


def test_killed_again_and_again():
    """Five deaths in one download, and the origin has sent little more than one copy at the end."""
    source, url, digest = served("--limit", "10MB/s")
    published = publish(lab.SCRATCH / "shelf/file.bin", "--url", url, "-o", lab.SCRATCH / "f.torrent", home="publish")
    out = folder("out") / "file.bin"
    for share in range(1, 6):
        download = Process("get", "--metainfo", published["torrent"], "-o", out, home="get")
        had = kill_with(download, out, LENGTH * share // 8)
    got = get("--metainfo", published["torrent"], "-o", out)
    same(out, digest)
    assert got["resumed"] == had, (had, got)
    copies = lab.stats(source)["bytes_sent"] / LENGTH
    assert copies <= 1.5, f"{copies:.2f} copies in six runs; {got}"


def test_interrupted_by_ctrl_c():
    source, url, digest = served("--limit", "10MB/s")
    out = folder("out") / "file.bin"
    first = Process("get", url, "--sha256", digest, "-o", out, home="get")
    first.wait_for("progress", where=lambda line: line["done"] >= 8 * MIB)
    first.child.send_signal(signal.SIGINT)
    assert first.end() == 130, first.lines[-1]
    assert first.last("failed")["kind"] == "interrupted"
    before = lab.stats(source)["bytes_sent"]
    got = get(url, "--sha256", digest, "-o", out)
    same(out, digest)
    assert got["resumed"] >= 7 * MIB, got
    assert lab.stats(source)["bytes_sent"] - before <= LENGTH - got["resumed"] + MIB


def test_the_agent_is_killed_and_the_same_get_goes_on():
    """The state belongs to the home: a new agent of it resumes what the old one had."""
    source, url, digest = served("--limit", "10MB/s")
    out = folder("out") / "file.bin"
    first = agent(home="ours")
    download = Process("get", url, "--sha256", digest, "-o", out, home="ours")
    had = kill_with(first, out, LENGTH // 3)
    assert download.end() == 3, "its agent was killed"
    before = lab.stats(source)["bytes_sent"]
    agent(home="ours")
    got = get(url, "--sha256", digest, "-o", out, home="ours")
    same(out, digest)
    assert got["resumed"] == had, (had, got)
    sent = lab.stats(source)["bytes_sent"] - before
    assert sent <= LENGTH - had + MIB, (sent, LENGTH - had, got)


def test_the_disk_is_full():
    disk = small_disk("size=8m")
    _, url, digest = served()
    failed = get_fails(5, url, "--sha256", digest, "-o", disk / "file.bin")
    assert failed["kind"] == "disk" and "space" in failed["why"], failed
    assert not (disk / "file.bin").exists()
    subprocess.run(["mount", "-o", "remount,size=128m", disk], check=True)
    get(url, "--sha256", digest, "-o", disk / "file.bin")
    same(disk / "file.bin", digest)


def test_the_disk_is_read_only():
    disk = small_disk("size=8m,ro")
    _, url, _ = served(length=MIB)
    failed = get_fails(5, url, "-o", disk / "file.bin")
    assert failed["kind"] == "disk" and "read-only" in failed["why"].lower(), failed


def test_there_is_no_such_folder():
    _, url, _ = served(length=MIB)
    failed = get_fails(5, url, "-o", lab.SCRATCH / "nowhere" / "file.bin")
    assert "nowhere" in failed["what"], failed


def test_the_folder_is_not_ours():
    if os.geteuid() == 0:
        raise Skip("root may write everywhere; the read-only disk shows the same")
    _, url, _ = served(length=MIB)
    locked = folder("locked")
    locked.chmod(0o555)
    get_fails(5, url, "-o", locked / "file.bin")


def test_the_output_exists():
    source, url, digest = served(length=MIB)
    out = folder("out") / "file.bin"
    out.write_bytes(b"precious")
    failed = get_fails(6, url, "-o", out)
    assert "--overwrite" in failed["remedy"], failed
    assert out.read_bytes() == b"precious" and lab.stats(source)["bytes_sent"] == 0
    get(url, "--overwrite", "-o", out)
    same(out, digest)


def test_the_coordinator_is_unreachable():
    """The download goes on over HTTP, and says why nobody helped."""
    _, url, digest = served()
    out = folder("out") / "file.bin"
    nobody = f"http://127.0.0.1:{free_port()}"
    process = Process("get", url, "--sha256", digest, "--coordinator", nobody, "-o", out, home="get")
    assert process.end() == 0, (process.lines[-2:], process.error())
    same(out, digest)
    said = [line["text"] for line in process.lines if line["type"] == "log"]
    assert any("coordinator" in text for text in said), process.lines


def test_the_coordinator_dies_in_mid_download():
    source, url, digest = served("--limit", "20MB/s")
    meet = lab.coordinator()
    publish(lab.SCRATCH / "shelf/file.bin", "--url", url, "--coordinator", f"http://{meet.addr}", home="publish")
    out = folder("out") / "file.bin"
    download = Process("get", url, "--coordinator", f"http://{meet.addr}", "-o", out, home="get")
    download.wait_for("progress", where=lambda line: line["done"] >= 4 * MIB)
    meet.kill()
    assert download.end() == 0, download.error()
    same(out, digest)
    assert download.last("got")["verified"] == "merkle"
    assert lab.stats(source)["bytes_sent"] <= 1.05 * LENGTH


def test_two_agents_on_one_port():
    first = agent(home="one")
    second = Process("agent", "--share", "--listen", first.addr, home="two")
    assert second.end() == 8, second.lines
    failed = second.last("failed")
    assert first.addr in failed["what"] and "in use" in failed["why"], failed
    status = Process("status", home="one")
    assert status.end() == 0, "the first one must live on"


def test_two_agents_in_one_home():
    agent(home="one")
    second = Process("agent", "--share", "--listen", "127.0.0.1:0", home="one")
    assert second.end() in (7, 8), second.lines
    assert second.last("failed")["why"]
    status = Process("status", home="one")
    assert status.end() == 0, "the first one must live on"


def test_nobody_listens_at_the_origin():
    failed = get_fails(3, f"http://127.0.0.1:{free_port()}/x", "-o", folder("out") / "x", seconds=55)
    assert "refused" in failed["why"], failed


def test_urls_that_make_no_sense():
    for url in ("ftp://127.0.0.1/x", "http://", "nonsense", "http://127.0.0.1:99999/x"):
        get_fails(2, url, "-o", folder("out") / "x")


def malformed():
    """Torrents that are wrong in one way each, by what is wrong with them."""
    path = folder("shelf") / "x.bin"
    payload(path, MIB + 5)
    good = make_torrent(path, 64 * 1024)

    def with_info(**changes):
        fields = lt.bdecode(good)
        for key, value in changes.items():
            key = key.replace("_", " ").encode()
            if value is None:
                del fields[b"info"][key]
            else:
                fields[b"info"][key] = value
        return lt.bencode(fields)

    def with_layers(change):
        fields = lt.bdecode(good)
        ((root, layer),) = fields[b"piece layers"].items()
        fields[b"piece layers"] = change(root, layer)
        return lt.bencode(fields)

    def two_files():
        fields = lt.bdecode(good)
        tree = fields[b"info"][b"file tree"]
        (entry,) = tree.values()
        return with_info(file_tree={b"a": entry, b"b": entry})

    return {
        "empty": b"",
        "not bencode": b"<html>404 not found</html>",
        "cut off": good[: len(good) // 2],
        "garbage after the end": good + b"x",
        "version 1 only": b"d4:infod6:lengthi5e4:name1:x12:piece lengthi16384e6:pieces20:" + bytes(20) + b"ee",
        "of another version": with_info(meta_version=3),
        "pieces of no power of two": with_info(piece_length=65_537),
        "pieces too small": with_info(piece_length=8192),
        "pieces of no length": with_info(piece_length=0),
        "without a file tree": with_info(file_tree=None),
        "with two files": two_files(),
        "with a name that climbs": with_info(name=b"../../etc/passwd", file_tree={b"../../etc/passwd": lt.bdecode(good)[b"info"][b"file tree"][b"x.bin"]}),
        "layers of another tree": with_layers(lambda root, layer: {root: bytes(len(layer))}),
        "layers too short": with_layers(lambda root, layer: {root: layer[:-32]}),
        "a negative length": good.replace(b"lengthi1048581e", b"lengthi-1048581e"),
        "deep nesting": b"l" * 100_000 + b"e" * 100_000,
    }


def test_malformed_torrents():
    out = folder("out") / "x"
    for wrong, torrent in malformed().items():
        path = lab.SCRATCH / "wrong.torrent"
        path.write_bytes(torrent)
        process = Process("get", "--metainfo", path, "-o", out, home="get")
        code = process.end(20)
        assert code == 2, f"{wrong}: exit code {code}: {process.lines} {process.error()}"
        failed = process.last("failed")
        assert failed["kind"] == "usage" and failed["why"], f"{wrong}: {failed}"
        assert "panicked" not in process.error(), wrong
        assert not any(pathlib.Path(out).parent.iterdir()), wrong


def test_the_origin_has_another_file_than_the_torrent_says():
    """Every piece from it is wrong: nothing is kept, nothing appears."""
    source, url, _ = served(length=5 * MIB)
    other = folder("other") / "file.bin"
    payload(other, 5 * MIB, seed=9)
    published = publish(other, "--url", url, "-o", lab.SCRATCH / "f.torrent", home="publish")
    out = folder("out") / "file.bin"
    failed = get_fails(4, "--metainfo", published["torrent"], "-o", out)
    assert failed["kind"] == "mismatch", failed
    assert not out.exists()
    assert lab.stats(source)["bytes_sent"] <= 5 * 5 * MIB, "it must give up soon"


def test_a_file_that_changed_after_publishing_is_never_served():
    """The agent checks what it is to offer, and so does whoever gets it."""
    shelf = folder("shelf")
    digest = payload(shelf / "file.bin", 5 * MIB)
    seed = agent(home="seed")
    published = publish(shelf / "file.bin", home="seed")
    with open(shelf / "file.bin", "r+b") as f:
        f.seek(3 * MIB)
        f.write(b"bit rot")
    good = folder("good") / "file.bin"
    payload(good, 5 * MIB)
    source = origin(good.parent)
    out = folder("out") / "file.bin"
    got = get(f"http://{source.addr}/file.bin", "--metainfo", published["torrent"], "--peer", seed.addr, "-o", out)
    same(out, digest)
    assert got["received"]["origin"] >= 1 and from_peers(got) < 5 * MIB, got
