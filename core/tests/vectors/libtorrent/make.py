#!/usr/bin/env python3
"""Makes the .torrent files of this folder with libtorrent 2.1.1 from PyPI, and prints facts.txt.

    python3 -m venv venv && venv/bin/pip install libtorrent && venv/bin/python make.py .
"""
import os, sys, tempfile
import libtorrent as lt


def content(length):
    """The bytes of every file here; `core/tests/interop_vectors.rs` has the same rule."""
    return bytes((i * i // 7 + i) % 251 for i in range(length))


CASES = [  # file name, length, piece length, flags
    ("tiny.bin", 1, 16384, "v2"),
    ("one-block.bin", 16384, 16384, "v2"),
    ("one-piece.bin", 50000, 65536, "v2"),
    ("exact-pieces.bin", 131072, 32768, "v2"),
    ("short-tail.bin", 300001, 32768, "v2"),
    ("many.bin", 1100000, 16384, "v2"),
    ("hybrid.bin", 100000, 32768, "hybrid"),
    ("v1.bin", 100000, 32768, "v1"),
    ("folder", 40000, 16384, "v2"),
]
FLAGS = {"v2": lt.create_torrent.v2_only, "v1": lt.create_torrent.v1_only, "hybrid": 0}

out = sys.argv[1]
with tempfile.TemporaryDirectory() as work:
    for name, length, piece_length, kind in CASES:
        path = os.path.join(work, name)
        files = [path]
        if name == "folder":
            os.mkdir(path)
            files = [os.path.join(path, f) for f in ("a.bin", "b.bin")]
        for file in files:
            with open(file, "wb") as f:
                f.write(content(length))
        storage = lt.file_storage()
        lt.add_files(storage, path)
        maker = lt.create_torrent(storage, piece_length, FLAGS[kind])
        if name == "short-tail.bin":
            maker.add_url_seed("http://example.org/short-tail.bin")
            maker.add_url_seed("https://mirror.example.org/short-tail.bin")
            maker.add_tracker("http://tracker.example.org/announce", 0)
            maker.add_tracker("udp://tracker.example.org:6969", 1)
            maker.set_comment("made by libtorrent")
        lt.set_piece_hashes(maker, work)
        entry = maker.generate()
        entry.pop(b"creation date", None)
        torrent = lt.bencode(entry)
        with open(os.path.join(out, name + ".torrent"), "wb") as f:
            f.write(torrent)
        if kind != "v1" and name != "folder":
            info = lt.torrent_info(torrent)
            leaf = entry[b"info"][b"file tree"][name.encode()][b""]
            print(name, length, piece_length, leaf[b"pieces root"].hex(), info.info_hashes().v2)
