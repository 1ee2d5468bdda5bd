"""A real nginx as the origin: ranges, kept-alive connections, restarts, changes, refusals."""

import hashlib
import os

import lab
from lab import MIB, Process, folder, get, get_fails, kill_with, payload, publish, same
from nginx import Nginx, bytes_sent

LENGTH = 48 * MIB + 4321


def served(server="", http="", length=LENGTH, name="file.bin"):
    """nginx with one fresh file: (nginx, URL, SHA-256)."""
    nginx = Nginx(server, http)
    digest = payload(nginx.root / name, length)
    return nginx, f"{nginx.url}/{name}", digest


def test_whole_file_by_ranges_over_kept_connections():
    nginx, url, digest = served()
    out = folder("out") / "file.bin"
    got = get(url, "--sha256", digest, "-o", out)
    same(out, digest)
    assert got["verified"] == "sha256" and got["received"]["origin"] == LENGTH, got
    asked = nginx.asked("/file.bin")
    assert all(line["status"] in (200, 206) for line in asked), asked
    assert any(line["status"] == 206 for line in asked), asked
    connections = {line["connection"] for line in asked}
    assert len(connections) <= 8, f"{len(connections)} connections for {len(asked)} requests"
    assert bytes_sent(asked) <= 1.05 * LENGTH, f"{bytes_sent(asked)} bytes for {LENGTH}"


def test_nobody_gave_a_hash():
    nginx, url, digest = served(length=3 * MIB + 1)
    out = folder("out") / "file.bin"
    got = get(url, "-o", out)
    same(out, digest)
    assert got["verified"] == "length" and "not verified" in got["summary"], got
    assert bytes_sent(nginx.asked("/file.bin")) <= 1.05 * (3 * MIB + 1)


def test_tiny_and_empty_files():
    nginx = Nginx()
    for name, length in (("empty", 0), ("one", 1), ("block", lab.BLOCK)):
        digest = payload(nginx.root / name, length)
        get(f"{nginx.url}/{name}", "--sha256", digest, "-o", folder("out") / name)
        same(folder("out") / name, digest)


def test_with_a_metainfo_file_every_piece_is_checked():
    nginx, url, digest = served()
    published = publish(nginx.root / "file.bin", "--url", url, "-o", lab.SCRATCH / "f.torrent", home="publish")
    out = folder("out") / "file.bin"
    got = get("--metainfo", published["torrent"], "-o", out)
    same(out, digest)
    assert got["verified"] == "merkle", got
    assert bytes_sent(nginx.asked("/file.bin")) <= 1.05 * LENGTH


def test_nginx_is_killed_in_mid_download_and_comes_back():
    """The download outlives it, and does not fetch again what it had."""
    nginx, url, digest = served("limit_rate 4m;")
    out = folder("out") / "file.bin"
    download = Process("get", url, "--sha256", digest, "-o", out, home="get")
    before = download.wait_for("progress", where=lambda line: line["done"] >= 8 * MIB)
    nginx.kill()
    assert download.child.poll() is None, f"the download was over: {download.lines[-1]}"
    nginx.config("limit_rate 0;")
    nginx.start()
    assert download.end() == 0, f"{download.lines[-2:]} {download.error()}"
    got = download.last("got")
    same(out, digest)
    # a killed nginx logs no request it had not finished: only what was asked afterwards is known
    after = bytes_sent(nginx.asked("/file.bin"))
    assert after <= LENGTH - before["done"] + 4 * MIB or got["wasted"] == 0, (after, before, got)
    assert got["received"]["origin"] + got["wasted"] <= LENGTH + 4 * MIB, got


def test_resumes_after_our_own_death():
    """kill -9 of `get`, then the same command: only the rest is asked for."""
    nginx, url, digest = served("limit_rate 4m;")
    out = folder("out") / "file.bin"
    first = Process("get", url, "--sha256", digest, "-o", out, home="get")
    had = kill_with(first, out, 12 * MIB)
    nginx.kill()
    (nginx.dir / "access.json").unlink(missing_ok=True)
    nginx.config()
    nginx.start()
    got = get(url, "--sha256", digest, "-o", out)
    same(out, digest)
    assert got["resumed"] == had, (had, got)
    again = nginx.asked("/file.bin")
    assert bytes_sent(again) <= LENGTH - got["resumed"] + MIB, (bytes_sent(again), got)
    assert all(line["if_range"] for line in again if line["status"] == 206 and line["range"]), again
    assert sorted(p.name for p in out.parent.iterdir()) == ["file.bin"], "leftovers beside the output"


def replace(path, length, seed):
    """Another version of the file, at once, with another ETag."""
    beside = path.with_name("next")
    digest = payload(beside, length, seed)
    os.utime(beside, (1_700_000_000 + seed, 1_700_000_000 + seed))
    os.replace(beside, path)
    return digest


def changed_in_mid_download(length):
    nginx, url, old = served("limit_rate 4m;")
    out = folder("out") / "file.bin"
    download = Process("get", url, "-o", out, home="get")
    download.wait_for("progress", where=lambda line: line["done"] >= 8 * MIB)
    new = replace(nginx.root / "file.bin", length, seed=2)
    nginx.kill()
    nginx.config()
    nginx.start()
    code = download.end()
    if code == 0:
        assert lab.sha256(out) == new, "spliced from two versions"
        assert lab.sha256(out) != old
    else:
        assert code in (3, 4), f"{code}: {download.lines[-1]}"
        assert download.last("failed")["why"] and not out.exists()
    return code


def test_the_file_changes_in_mid_download_and_keeps_its_length():
    changed_in_mid_download(LENGTH)


def test_the_file_changes_in_mid_download_and_grows():
    changed_in_mid_download(LENGTH + 5 * MIB)


def test_the_file_changes_in_mid_download_and_shrinks():
    changed_in_mid_download(LENGTH - 17 * MIB)


def test_the_file_changes_between_two_runs():
    nginx, url, _ = served("limit_rate 4m;")
    out = folder("out") / "file.bin"
    first = Process("get", url, "-o", out, home="get")
    kill_with(first, out, 8 * MIB)
    new = replace(nginx.root / "file.bin", LENGTH, seed=3)
    nginx.kill()
    nginx.config()
    nginx.start()
    get(url, "-o", out)
    same(out, new)


def test_wrong_sha256():
    nginx, url, digest = served(length=5 * MIB)
    wrong = hashlib.sha256(b"something else").hexdigest()
    out = folder("out") / "file.bin"
    failed = get_fails(4, url, "--sha256", wrong, "-o", out)
    assert failed["kind"] == "mismatch", failed
    assert not out.exists(), "wrong bytes under the final name"
    get(url, "--sha256", digest, "-o", out)
    same(out, digest)
    assert nginx.asked("/file.bin")


def test_not_found_and_forbidden():
    nginx, _, _ = served("location /secret { deny all; }", length=1)
    out = folder("out") / "file.bin"
    failed = get_fails(3, f"{nginx.url}/missing", "-o", out)
    assert "404" in failed["why"], failed
    failed = get_fails(3, f"{nginx.url}/secret", "-o", out)
    assert "403" in failed["why"], failed
    assert not out.exists()


def test_redirects():
    _, url, digest = served(
        """
        location = /relative { return 302 /file.bin; }
        location = /absolute { return 301 http://$host:$server_port/relative; }
        location = /loop { return 302 /loop; }
        """
    )
    base = url.rsplit("/", 1)[0]
    out = folder("out")
    get(f"{base}/relative", "--sha256", digest, "-o", out / "a")
    get(f"{base}/absolute", "--sha256", digest, "-o", out / "b")
    same(out / "a", digest)
    same(out / "b", digest)
    get_fails(3, f"{base}/loop", "-o", out / "c")


def test_gzip_is_on_and_we_ask_for_the_bytes_themselves():
    """A file that would shrink, offered compressed to whoever accepts it."""
    nginx = Nginx(http="gzip on; gzip_types *; gzip_min_length 1;")
    text = b"all the same words again and again\n" * 200_000
    (nginx.root / "words.txt").write_bytes(text)
    out = folder("out") / "words.txt"
    get(f"{nginx.url}/words.txt", "-o", out)
    same(out, hashlib.sha256(text).hexdigest())
    asked = nginx.asked("/words.txt")
    assert all(line["encoding"] == "" for line in asked), asked
    assert all("gzip" not in line["accept_encoding"] for line in asked), asked


def test_without_ranges_it_is_one_stream():
    """`max_ranges 0`: nginx answers 200 to every range."""
    nginx, url, digest = served("max_ranges 0;")
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out)
    same(out, digest)
    asked = nginx.asked("/file.bin")
    assert all(line["status"] == 200 for line in asked), asked
    assert bytes_sent(asked) <= 1.5 * LENGTH, f"{bytes_sent(asked) / LENGTH:.2f} copies"


def test_connections_are_closed_after_every_answer():
    """`keepalive_timeout 0`, as some servers do."""
    _, url, digest = served("keepalive_timeout 0;")
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out)
    same(out, digest)


def test_too_many_requests_at_once():
    """`limit_conn 1` answers 503 to the second connection: the file still comes, over the one."""
    _, url, digest = served(
        "limit_conn one 1;", http="limit_conn_zone $binary_remote_addr zone=one:1m;", length=16 * MIB
    )
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out)
    same(out, digest)


def test_every_url_is_an_alternative():
    """The first host has nothing, the second nobody listens, the third has it."""
    _, url, digest = served(length=5 * MIB)
    base = url.rsplit("/", 1)[0]
    out = folder("out") / "file.bin"
    get(f"{base}/missing", f"http://127.0.0.1:{lab.free_port()}/file.bin", url, "--sha256", digest, "-o", out)
    same(out, digest)
