"""libtorrent and Dovetail, one to one, both directions: v2-only torrents over TCP."""

import json
import pathlib

import libtorrent as lt

import lab
from lab import BLOCK, KIB, MIB, Process, agent, folder, from_peers, get, kill_with, origin, payload, publish, same, until
from swarm import Peer, info_hash, make_torrent, without_layers

ODD = 40 * MIB + 12_345
"""Many pieces, the last one short, its last block shorter."""


def their_seed(length, piece_length, name="payload.bin", **more):
    """A libtorrent seed of a fresh file: (peer, path of its torrent file, SHA-256 of the file)."""
    path = folder("seed") / name
    digest = payload(path, length)
    torrent = make_torrent(path, piece_length)
    torrent_path = lab.SCRATCH / "theirs.torrent"
    torrent_path.write_bytes(torrent)
    return Peer("seeder", torrent, save_in=path.parent, seed=True, **more), torrent_path, digest


def fetch_from_libtorrent(length, piece_length, **more):
    peer, torrent, digest = their_seed(length, piece_length, **more)
    out = folder("out") / "got.bin"
    got = get("--metainfo", torrent, "--peer", peer.addr, "--require-peers", "-o", out)
    same(out, digest)
    assert from_peers(got) >= length and got["received"]["origin"] == 0, got
    assert got["verified"] == "merkle" and got["peers"] == 1, got
    assert not peer.said("invalid_request"), "we asked for something that is not there"


def test_seeds_less_than_a_block():
    fetch_from_libtorrent(12_345, 16 * KIB)


def test_seeds_one_byte():
    fetch_from_libtorrent(1, 16 * KIB)


def test_seeds_exactly_one_piece():
    fetch_from_libtorrent(MIB, MIB)


def test_seeds_pieces_of_16_kib():
    fetch_from_libtorrent(ODD, BLOCK)


def test_seeds_pieces_of_256_kib():
    fetch_from_libtorrent(ODD, 256 * KIB)


def test_seeds_pieces_of_1_mib():
    fetch_from_libtorrent(ODD, MIB)


def test_seeds_pieces_of_4_mib():
    fetch_from_libtorrent(ODD, 4 * MIB)


def test_seeds_after_checking_the_file_itself():
    """Without seed mode it knows its leaves and may answer requests for them."""
    fetch_from_libtorrent(ODD, 256 * KIB, check=True)


def test_seeds_a_torrent_without_piece_layers():
    """We have only the root, and must ask libtorrent for the piece hashes, in several requests."""
    peer, torrent, digest = their_seed(ODD, BLOCK)
    torrent.write_bytes(without_layers(torrent.read_bytes()))
    out = folder("out") / "got.bin"
    got = get("--metainfo", torrent, "--peer", peer.addr, "--require-peers", "-o", out)
    same(out, digest)
    assert got["verified"] == "merkle", got
    until("it tells of our hash requests", lambda: peer.said("HASH_REQUEST"), 5)
    assert not peer.said("HASH_REJECT")


def test_seeds_and_we_are_killed_in_mid_download():
    """kill -9, then the same command: what was recorded is not asked for again."""
    peer, torrent, digest = their_seed(ODD, 256 * KIB, upload_limit=8_000_000)
    out = folder("out") / "got.bin"
    process = Process("get", "--metainfo", torrent, "--peer", peer.addr, "--require-peers", "-o", out, home="get")
    had = kill_with(process, out, 8 * MIB)
    peer.handle.set_upload_limit(0)
    got = get("--metainfo", torrent, "--peer", peer.addr, "--require-peers", "-o", out)
    same(out, digest)
    assert got["resumed"] == had, (had, got)
    assert from_peers(got) == ODD - had, got


def our_seed(length, home="ours", args=()):
    """An agent that shares a fresh file: (agent, `published` line, SHA-256 of the file)."""
    path = folder("share") / "payload.bin"
    digest = payload(path, length)
    seed = agent(*args, home=home)
    published = publish(path, home=home)
    assert published["served"] is True, published
    assert published["sha256"] == digest
    return seed, published, digest


def serve_libtorrent(length, change=lambda torrent: torrent):
    """libtorrent dials us, and takes everything. Returns its peer for more questions."""
    seed, published, digest = our_seed(length)
    torrent = change(pathlib.Path(published["torrent"]).read_bytes())
    assert info_hash(torrent) == published["info_hash"], "the same file must have the same identity on both sides"
    leech = Peer("leech", torrent)
    leech.connect(seed.addr)
    leech.finish()
    same(leech.dir / "payload.bin", digest)
    for bad in ("hash_failed", "peer_ban", "invalid_request", "peer_error"):
        assert not leech.said(bad), [m for m in leech.messages if bad in m][:3]
    return seed, leech


def test_leeches_less_than_a_block():
    serve_libtorrent(12_345)


def test_leeches_one_piece():
    serve_libtorrent(256 * KIB)


def test_leeches_many_pieces():
    serve_libtorrent(ODD)


def test_leeches_more_pieces_than_one_request_can_name():
    """2561 pieces of 16 KiB under libtorrent's own torrent, without layers: hashes in requests of 512."""
    path = folder("share") / "payload.bin"
    digest = payload(path, ODD)
    torrent = make_torrent(path, BLOCK)
    seed = agent(home="ours")
    lab.share(torrent, path, home="ours")
    leech = Peer("leech", without_layers(torrent))
    leech.connect(seed.addr)
    leech.finish()
    same(leech.dir / "payload.bin", digest)
    answers = [m for m in leech.messages if "HASHES" in m]
    assert len(answers) >= 6, f"one answer for each 512 pieces: {answers}"
    odd = [m for m in leech.messages if "HASH_REJECT" in m or "hash_failed" in m]
    assert not odd, [m for m in leech.messages if "HASH" in m]


def test_leeches_without_piece_layers():
    """It has only the root, and must ask us for the piece hashes."""
    _, leech = serve_libtorrent(ODD, change=without_layers)
    assert leech.said("HASHES"), "it must have asked us for hashes"
    assert not leech.said("HASH_REJECT")


def test_leeches_when_we_dial():
    """The other direction of the connection: our agent dials a libtorrent that has nothing, and feeds it."""
    path = folder("share") / "payload.bin"
    digest = payload(path, ODD)
    source = origin(path.parent)
    torrent = make_torrent(path, 256 * KIB, urls=[f"http://{source.addr}/payload.bin"])
    torrent_path = lab.SCRATCH / "theirs.torrent"
    torrent_path.write_bytes(torrent)
    bare = make_torrent(path, 256 * KIB)
    leech = Peer("leech", bare)
    agent("--peer", leech.addr, home="ours")
    out = folder("out") / "got.bin"
    # it dials peers of what it downloads, and goes on serving afterwards
    download = Process("get", "--metainfo", torrent_path, "--limit", "10MB/s", "-o", out, home="ours")
    leech.finish()
    same(leech.dir / "payload.bin", digest)
    assert download.end() == 0, download.error()
    same(out, digest)
    assert leech.said("incoming"), "we were to dial, not libtorrent"


def test_their_torrents_load_here():
    """Of many piece lengths; the proof is a download over HTTP checked against the tree."""
    shelf = folder("shelf")
    source = origin(shelf)
    for n, (length, piece_length) in enumerate(
        [(1, 16 * KIB), (BLOCK, BLOCK), (BLOCK + 1, BLOCK), (5 * MIB + 7, 32 * KIB), (9 * MIB, 2 * MIB), (3 * MIB, 8 * MIB)]
    ):
        name = f"file {n} ü.bin"
        digest = payload(shelf / name, length, seed=n)
        url = f"http://{source.addr}/file%20{n}%20%C3%BC.bin"
        torrent_path = lab.SCRATCH / f"{n}.torrent"
        torrent_path.write_bytes(make_torrent(shelf / name, piece_length, urls=[url]))
        got = get("--metainfo", torrent_path, "-o", folder("out"), home="get")
        same(folder("out") / name, digest)
        assert got["verified"] == "merkle", got


def test_our_torrents_load_there():
    """And have the info-hash that we say, and the very tree that libtorrent builds."""
    shelf = folder("shelf")
    for n, length in enumerate([1, BLOCK, BLOCK + 1, MIB, 3 * MIB + 5, ODD]):
        path = shelf / f"file {n} ü.bin"
        payload(path, length, seed=n)
        published = publish(path, home="publish")
        torrent = pathlib.Path(published["torrent"]).read_bytes()
        assert info_hash(torrent) == published["info_hash"]
        piece_length = lt.bdecode(torrent)[b"info"][b"piece length"]
        theirs = make_torrent(path, piece_length)
        assert info_hash(theirs) == published["info_hash"], "libtorrent describes the same file otherwise"


def takes_from_our_origin(source, leech, digest):
    leech.finish()
    same(leech.dir / "payload.bin", digest)
    sent = lab.stats(source)
    assert ODD <= sent["bytes_sent"] <= 1.3 * ODD, json.dumps(sent)


def test_our_web_seed_that_is_a_folder():
    """A URL with a slash at its end: libtorrent adds the name (BEP 19), and so do we."""
    shelf = folder("shelf")
    digest = payload(shelf / "payload.bin", ODD)
    source = origin(shelf)
    published = publish(shelf / "payload.bin", "--url", f"http://{source.addr}/", home="publish")
    torrent = pathlib.Path(published["torrent"])
    takes_from_our_origin(source, Peer("leech", torrent.read_bytes()), digest)
    out = folder("out") / "got.bin"
    get("--metainfo", torrent, "-o", out)
    same(out, digest)


def test_our_web_seed_that_is_a_file():
    """libtorrent 2.1.1 adds a slash and then the name to such a URL of a v2-only torrent of one file: its fault."""
    shelf = folder("shelf")
    digest = payload(shelf / "payload.bin", ODD)
    source = origin(shelf)
    published = publish(shelf / "payload.bin", "--url", f"http://{source.addr}/payload.bin", home="publish")
    leech = Peer("leech", pathlib.Path(published["torrent"]).read_bytes())
    until("it asks", lambda: leech.status().is_seeding or leech.said("url_seed_alert"))
    if leech.said("url_seed_alert", "payload.bin/", "failed"):
        raise lab.Skip(f"libtorrent {lt.__version__} asks for payload.bin/payload.bin")
    takes_from_our_origin(source, leech, digest)


def test_web_seeds_that_are_not_http_are_passed_over():
    """Torrents in the wild name FTP servers and worse beside what we can use."""
    shelf = folder("shelf")
    digest = payload(shelf / "payload.bin", MIB)
    source = origin(shelf)
    urls = ["ftp://127.0.0.1/payload.bin", "http://", "nonsense", f"http://{source.addr}/"]
    torrent_path = lab.SCRATCH / "theirs.torrent"
    torrent_path.write_bytes(make_torrent(shelf / "payload.bin", 256 * KIB, urls=urls))
    out = folder("out") / "got.bin"
    get("--metainfo", torrent_path, "-o", out)
    same(out, digest)


def test_corrupt_seed_is_left_and_an_honest_one_taken():
    """A libtorrent whose file has got a wrong byte in every piece after it was checked."""
    path = folder("honest") / "payload.bin"
    digest = payload(path, 4 * MIB + 99)
    torrent = make_torrent(path, 256 * KIB)
    torrent_path = lab.SCRATCH / "theirs.torrent"
    torrent_path.write_bytes(torrent)
    payload(folder("liar") / "payload.bin", 4 * MIB + 99)
    liar = Peer("liar", torrent, seed=True, check=True)
    with open(folder("liar") / "payload.bin", "r+b") as rotten:
        for at in range(1000, 4 * MIB, 64 * KIB):
            rotten.seek(at)
            rotten.write(b"rot")
    honest = Peer("honest", torrent, seed=True, upload_limit=2_000_000)
    out = folder("out") / "got.bin"
    got = get("--metainfo", torrent_path, "--peer", liar.addr, "--peer", honest.addr, "--require-peers", "-o", out)
    same(out, digest)
    assert got["wasted"] > 0, f"the liar was never asked: {got}"
