"""Swarms of both kinds, and the coordinator as the tracker of standard clients."""

import pathlib
import urllib.parse
import urllib.request

import libtorrent as lt

import lab
from lab import KIB, MIB, Process, agent, coordinator, folder, from_peers, origin, payload, publish, same, until
from swarm import Peer, info_hash, make_torrent

LENGTH = 32 * MIB + 777


@lab.limit(120)
def test_swarm_of_four_around_one_libtorrent_seed():
    """2 libtorrent and 2 Dovetail, all knowing each other, and one seed too slow to serve them all alone."""
    path = folder("seed") / "payload.bin"
    digest = payload(path, LENGTH)
    torrent = make_torrent(path, 256 * KIB)
    torrent_path = lab.SCRATCH / "swarm.torrent"
    torrent_path.write_bytes(torrent)
    seed = Peer("seed", torrent, save_in=path.parent, seed=True, upload_limit=8_000_000)
    theirs = [Peer(f"theirs{n}", torrent) for n in (1, 2)]
    first = agent("--peer", seed.addr, "--peer", theirs[0].addr, "--peer", theirs[1].addr, home="ours1")
    second = agent(
        "--peer", seed.addr, "--peer", theirs[0].addr, "--peer", theirs[1].addr, "--peer", first.addr, home="ours2"
    )
    downloads = [
        Process("get", "--metainfo", torrent_path, "--require-peers", "-o", folder("out") / home, home=home)
        for home in ("ours1", "ours2")
    ]
    for peer in theirs:
        peer.connect(seed.addr)
        peer.connect(first.addr)
        peer.connect(second.addr)
    theirs[0].connect(theirs[1].addr)
    for peer in theirs:
        peer.finish(90)
        same(peer.dir / "payload.bin", digest)
    for download, home in zip(downloads, ("ours1", "ours2")):
        assert download.end(90) == 0, download.error()
        same(folder("out") / home, digest)
        assert from_peers(download.last("got")) >= LENGTH
    sent = seed.status().total_payload_upload
    assert sent < 3.5 * LENGTH, f"the seed sent {sent / LENGTH:.2f} copies: the four did not share"


@lab.limit(120)
def test_swarm_of_four_around_one_dovetail_seed():
    """The same around our seed, meeting only through our coordinator: agents ask it, libtorrent announces to it."""
    path = folder("seed") / "payload.bin"
    digest = payload(path, LENGTH)
    meet = coordinator()
    url = f"http://{meet.addr}"
    source = origin(path.parent)
    seed = agent("--coordinator", url, "--upload-limit", "8MB/s", home="seed")
    file_url = f"http://{source.addr}/payload.bin"
    published = publish(path, "--url", file_url, "--coordinator", url, home="seed")
    assert published["served"] is True and published["coordinator"], published
    torrent = with_tracker(pathlib.Path(published["torrent"]).read_bytes(), f"{url}/announce")
    theirs = [Peer(f"theirs{n}", torrent) for n in (1, 2)]
    for home in ("ours1", "ours2"):
        agent("--coordinator", url, home=home)
    torrent_path = lab.SCRATCH / "swarm.torrent"
    torrent_path.write_bytes(torrent)
    downloads = [
        Process("get", "--metainfo", torrent_path, "--require-peers", "-o", folder("out") / home, home=home)
        for home in ("ours1", "ours2")
    ]
    for peer in theirs:
        peer.finish(90)
        same(peer.dir / "payload.bin", digest)
        assert peer.said("tracker_reply_alert"), "it completed without our coordinator"
    for download, home in zip(downloads, ("ours1", "ours2")):
        assert download.end(90) == 0, download.error()
        same(folder("out") / home, digest)
    assert lab.stats(source)["bytes_sent"] == 0, "nobody was to use the origin"


def with_tracker(torrent, announce):
    """Our torrent with a tracker and without web seeds, its info dict untouched."""
    fields = lt.bdecode(torrent)
    fields[b"announce"] = announce.encode()
    fields.pop(b"url-list", None)
    changed = lt.bencode(fields)
    assert info_hash(changed) == info_hash(torrent)
    return changed


def test_a_dovetail_download_finds_a_libtorrent_seed_through_the_coordinator():
    """libtorrent announces as a standard client; `get` asks the coordinator in our own words, and they meet."""
    path = folder("seed") / "payload.bin"
    digest = payload(path, 4 * MIB + 3)
    meet = coordinator()
    url = f"http://{meet.addr}"
    torrent = make_torrent(path, 64 * KIB, tracker=f"{url}/announce")
    torrent_path = lab.SCRATCH / "swarm.torrent"
    torrent_path.write_bytes(torrent)
    seed = Peer("seed", torrent, save_in=path.parent, seed=True)
    until("the coordinator answers libtorrent", lambda: seed.said("tracker_reply_alert"))
    out = folder("out") / "got.bin"
    got = lab.get("--metainfo", torrent_path, "--coordinator", url, "--require-peers", "-o", out)
    same(out, digest)
    assert got["peers"] == 1, got


def test_announce_as_any_client_would():
    """BEP 3 and 23 by hand: compact peers by default, and a clear refusal of nonsense."""
    meet = coordinator()
    hash20 = urllib.parse.quote(bytes(range(20)))

    def ask(port, event, left):
        query = (
            f"info_hash={hash20}&peer_id=-XX0001-{port:012d}&port={port}"
            f"&uploaded=0&downloaded=0&left={left}&compact=1&event={event}"
        )
        with urllib.request.urlopen(f"http://{meet.addr}/announce?{query}", timeout=10) as answer:
            return lt.bdecode(answer.read())

    assert ask(7001, "started", 0)[b"peers"] == b""
    second = ask(7002, "started", 5)
    assert second[b"peers"] == bytes([127, 0, 0, 1]) + (7001).to_bytes(2, "big"), second
    assert second[b"interval"] > 0 and second[b"complete"] == 1, second
    ask(7001, "stopped", 0)
    assert ask(7002, "", 5)[b"peers"] == b"", "it was told that the other one left"
    with urllib.request.urlopen(f"http://{meet.addr}/announce?port=1&left=0", timeout=10) as answer:
        refusal = lt.bdecode(answer.read())
    assert b"failure reason" in refusal, refusal
