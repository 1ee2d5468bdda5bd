"""One libtorrent process, for the other side of a comparison. Run by the Python that has libtorrent.

    lt_node.py seed|super|leech TORRENT FOLDER [RATE | utp ADDRESS:PORT]

Prints one JSON object per line, and is told on its standard input what to do next; its end ends it.
"""

import json
import resource
import sys
import time

import libtorrent as lt

SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_ip_notifier": False,
    "allow_multiple_connections_per_ip": True,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "mixed_mode_algorithm": 0,
    "upload_rate_limit": 0,
    "download_rate_limit": 0,
    "rate_limit_ip_overhead": False,
    "connections_limit": 500,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "alert_queue_size": 200000,
    "alert_mask": lt.alert.category_t.status_notification
    | lt.alert.category_t.error_notification
    | lt.alert.category_t.storage_notification,
}


def say(**line):
    print(json.dumps(line), flush=True)


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def add(session, role, torrent, folder, rate):
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if role != "leech":
        params.flags |= lt.torrent_flags.seed_mode
    if role == "super":
        params.flags |= lt.torrent_flags.super_seeding
    handle = session.add_torrent(params)
    if rate:
        # The session's own limit does not count for addresses of this machine.
        handle.set_upload_limit(rate)
    return handle


def wait_for(session, kind):
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            if isinstance(alert, kind):
                return
            if isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert)):
                sys.exit(alert.message())


def main():
    role, torrent, folder = sys.argv[1:4]
    more, rate, settings = sys.argv[4:], 0, dict(SETTINGS)
    if more[:1] == ["utp"]:
        settings |= {f"enable_{way}_utp": True for way in ("incoming", "outgoing")}
        settings |= {f"enable_{way}_tcp": False for way in ("incoming", "outgoing")}
        settings["listen_interfaces"] = more[1]
    elif more:
        rate = int(more[0])
    session = lt.session(settings)
    handle = None if role == "leech" else add(session, role, torrent, folder, rate)
    say(port=session.listen_port())
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "get":
            began, used = time.monotonic(), cpu_s()
            handle = add(session, role, torrent, folder, rate)
            for peer in rest:
                address, _, port = peer.rpartition(":")
                handle.connect_peer((address or "127.0.0.1", int(port)))
            wait_for(session, lt.torrent_finished_alert)
            # Finished comes before the last bytes are in the file.
            handle.flush_cache()
            wait_for(session, lt.cache_flushed_alert)
            say(done=True, wall_s=time.monotonic() - began, cpu_s=cpu_s() - used)
        if word == "sent":
            say(sent=handle.status().total_payload_upload)


main()
