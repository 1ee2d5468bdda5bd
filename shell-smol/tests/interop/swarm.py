"""libtorrent as the other side: sessions, v2-only torrents, waiting for the disk.

The settings are those with which a libtorrent peer works on one machine: several connections per address, no
obfuscation, TCP only, no discovery, its own limits off.
"""

import libtorrent as lt

from lab import SCRATCH, folder, free_port, until

SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_ip_notifier": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "rate_limit_ip_overhead": False,
    "connections_limit": 500,
    "alert_queue_size": 200_000,
    "min_reconnect_time": 1,
}

CATEGORIES = (
    lt.alert.category_t.status_notification
    | lt.alert.category_t.error_notification
    | lt.alert.category_t.connect_notification
    | lt.alert.category_t.storage_notification
    | lt.alert.category_t.tracker_notification
    | lt.alert.category_t.peer_log_notification
)


def make_torrent(path, piece_length, urls=(), tracker=None):
    """A v2-only torrent of one file, made by libtorrent. Returns its bytes."""
    storage = lt.file_storage()
    lt.add_files(storage, str(path))
    creator = lt.create_torrent(storage, piece_length, lt.create_torrent.v2_only)
    for url in urls:
        creator.add_url_seed(url)
    if tracker:
        creator.add_tracker(tracker)
    lt.set_piece_hashes(creator, str(path.parent))
    return lt.bencode(creator.generate())


def without_layers(torrent):
    """The same torrent without its piece layers: whoever has it must ask peers for hashes."""
    fields = lt.bdecode(torrent)
    assert fields[b"piece layers"], "a file of one piece has no layers to leave out"
    del fields[b"piece layers"]
    return lt.bencode(fields)


def info_hash(torrent):
    """The whole v2 info-hash in hex, as libtorrent computes it; checks that the torrent is v2 only."""
    info = lt.torrent_info(lt.bdecode(torrent))
    hashes = info.info_hashes()
    assert hashes.has_v2() and not hashes.has_v1()
    return str(hashes.v2)


FREQUENT = ("PIECE", "REQUEST [ piece", "FILE_ASYNC", "READ [", "WRITE [", "WROTE [", "ON_SEND", "ON_RECEIVE", "ASYNC_READ")
"""Wire messages that would hide all others in a log."""


class Peer:
    """A libtorrent session with one torrent."""

    def __init__(self, name, torrent, save_in=None, seed=False, check=False, upload_limit=0):
        self.name = name
        self.port = free_port()
        self.addr = f"127.0.0.1:{self.port}"
        self.dir = save_in or folder(name)
        self.log = open(SCRATCH / f"{name}.log", "w", encoding="utf-8")
        self.messages = []
        self.flushed = False
        settings = {**SETTINGS, "listen_interfaces": self.addr, "alert_mask": int(CATEGORIES)}
        self.session = lt.session(settings)
        what = lt.load_torrent_buffer(torrent)
        what.save_path = str(self.dir)
        what.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        if seed and not check:
            what.flags |= lt.torrent_flags.seed_mode
        self.handle = self.session.add_torrent(what)
        if upload_limit:
            # loopback is in the class of local peers, to which the limits of the session do not apply
            self.handle.set_upload_limit(upload_limit)
        until(f"{name} listens", lambda: self.session.listen_port() == self.port)
        if seed:
            until(f"{name} seeds", lambda: self.handle.status().is_seeding)

    def connect(self, addr):
        host, port = addr.rsplit(":", 1)
        self.handle.connect_peer((host, int(port)))

    def pump(self):
        """Reads its alerts: into the log, and what tests ask for into fields."""
        for alert in self.session.pop_alerts():
            text = f"{type(alert).__name__}: {alert.message()}"
            self.messages.append(text)
            if not any(frequent in text for frequent in FREQUENT):
                print(text, file=self.log, flush=True)
            if isinstance(alert, lt.cache_flushed_alert):
                self.flushed = True

    def said(self, *parts):
        """Whether some alert so far contains all of these."""
        self.pump()
        return any(all(part in message for part in parts) for message in self.messages)

    def status(self):
        self.pump()
        return self.handle.status()

    def finish(self, seconds=50):
        """Waits until it has everything, on disk: `torrent_finished` alone comes before the last write."""
        try:
            until(f"{self.name} completes", lambda: self.status().is_seeding, seconds)
        except AssertionError as late:
            s = self.status()
            raise AssertionError(
                f"{late}; {s.state}, {s.total_wanted_done} of {s.total_wanted}, {s.num_peers} peers, {s.errc.message()}"
            ) from None
        self.flushed = False
        self.handle.flush_cache()
        until(f"{self.name} flushes", lambda: self.pump() or self.flushed, 10)
