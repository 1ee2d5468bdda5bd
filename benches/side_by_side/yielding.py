"""`yield`: what background traffic leaves to a person on the same line, beside other programs' background traffic.

Lines and backgrounds are those of `scene.py`. The foreground is iperf3 with each congestion control that the kernel has,
transfers of 300 kB over fresh CUBIC connections, and ping. Some rows have a table of their own: how soon a background
gives way, eight flows of one device, two devices, a LAN. At the end the lines are drawn over time (`draw.py`).
"""

import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from . import draw, link, scene
from .lan import ADDRS, Lan
from .link import FAR_ADDR, SLICES_PER_S
from .procs import Failed
from .queues import FairQueue
from .scene import CLICKS, RATE, Scene
from .table import Table, Target, number

CLICK = Path(__file__).with_name("click.py")
LINE_MBIT = RATE * 8e-6


class Times:
    """Seconds: how long a measure is, what runs before the other joins, what is left out after that."""

    def __init__(self, quick):
        self.measure, self.before, self.settle = (8, 8, 7) if quick else (15, 10, 8)
        self.clicks, self.joins = (4, 2) if quick else (10, 7)


# --- what is asked of each


def measured(it, seconds):
    begin = time.monotonic()
    time.sleep(seconds)
    return it.rates(begin, begin + seconds)


def beside(lab, background, way, times, is_first, control="cubic", **line):
    """Mbit/s of the foreground while both run; `is_first`: the background was there before it. None if it was not."""
    with Scene(lab, way, **line) as it:
        if is_first:
            background(it)
            time.sleep(times.before)
            now = time.monotonic()
            if it.rates(now - 3, now)["background"] < LINE_MBIT / 2:
                print("the background was not there", file=sys.stderr, flush=True)
                return None
            it.foreground(1000, control)
        else:
            it.foreground(1000, control)
            time.sleep(times.before)
            background(it)
        time.sleep(times.settle)
        return measured(it, times.measure)["foreground"]


def solo(lab, times, control):
    """What a foreground gets where nobody else is."""
    with Scene(lab, "up") as it:
        it.foreground(1000, control)
        time.sleep(times.settle)
        return measured(it, times.measure)["foreground"]


def clicks(it, count):
    """Median seconds of a short transfer, median milliseconds of a ping."""
    server = it.node(it.line.far, sys.executable, CLICK, "serve", CLICKS)
    server.wait_line(lambda line: "listening" in line)
    ping = it.start(it.line.near, "ping", "-i", "0.1", FAR_ADDR, stdout=subprocess.PIPE)
    click = [*it.line.near, sys.executable, CLICK, "ask", FAR_ADDR, CLICKS, count, it.way]
    done = subprocess.run([str(part) for part in click], capture_output=True, text=True)
    ping.send_signal(signal.SIGINT)
    pings = [float(ms) for ms in re.findall(r"time=([\d.]+)", ping.communicate()[0])]
    took = [json.loads(line)["took_s"] for line in done.stdout.splitlines()]
    server.end()
    if not took or not pings:
        raise Failed(f"no short transfers: {done.stderr}")
    return {"click_s": statistics.median(took), "ping_ms": statistics.median(pings)}


def course(lab, background, way, times):
    """One after the other: by itself, beside short transfers, and beside a foreground that comes and goes."""
    with Scene(lab, way) as it:
        background(it)
        time.sleep(times.before)
        by_itself = measured(it, times.measure)
        found = {"alone": by_itself["background"] / LINE_MBIT * 100, "queue_ms": by_itself["wait_ms"]}
        found |= clicks(it, times.clicks)
        joined = []
        for _ in range(times.joins):
            time.sleep(5)
            joined.append(time.monotonic())
            it.foreground(5).wait()
        time.sleep(4)
        sizes, waits = it.seen()
        found["gives_way_each_s"] = [let_go_after(sizes, at) for at in joined]
        found["gives_way_s"] = statistics.median(found["gives_way_each_s"])
        return found, lines(sizes, waits, joined[0] - 4, joined[0] + 18)


def let_go_after(sizes, joined):
    """From the foreground's first data to the moment after which the background has less than a tenth of the line for
    a second, and had less in each tenth of it."""
    at = lambda kind, first, count: sum(sizes.get((kind, first + n), 0) for n in range(count))
    slices = range(int(joined * SLICES_PER_S), int((joined + 5) * SLICES_PER_S))
    tenth = RATE / 10 / SLICES_PER_S
    begin = next((slice for slice in slices if at("foreground", slice, 1) >= 3000), None)
    if begin is None:
        raise Failed("the foreground never came")
    calm = (
        slice for slice in range(begin, slices.stop)
        if all(at("background", slice + part, 10) <= 10 * tenth for part in range(0, 100, 10))
    )
    return (next(calm, slices.stop) - begin) / SLICES_PER_S


def lines(sizes, waits, begin, until, step=SLICES_PER_S // 5):
    """Mbit/s of both and milliseconds of queue, five times a second."""
    out = {"foreground": [], "background": [], "queue_ms": []}
    for first in range(int(begin * SLICES_PER_S), int(until * SLICES_PER_S), step):
        slices = range(first, first + step)
        for kind in ("foreground", "background"):
            size = sum(sizes.get((kind, at), 0) for at in slices)
            out[kind].append(round(size * 8e-6 * SLICES_PER_S / step, 1))
        stood = [waits[at] for at in slices if at in waits]
        packets = max(sum(count for _, count in stood), 1)
        out["queue_ms"].append(round(sum(waited for waited, _ in stood) / packets * 1000, 1))
    return out


def jain(rates):
    return sum(rates) ** 2 / max(len(rates) * sum(rate**2 for rate in rates), 1e-9)


def two_devices(lab):
    """Jain's index a minute and two after the second began, 15 s late."""
    with Scene(lab, "up") as it:
        scene.our_upload(it)
        time.sleep(15)
        scene.our_second_upload(it)
        begin = time.monotonic()
        time.sleep(200)
        found = {}
        for name, (since, until) in {"soon": (50, 60), "later": (120, 200)}.items():
            rates = it.rates(begin + since, begin + until)
            found[name] = jain([rates["background"], rates["second"]])
        return found


def on_a_lan(lab, times):
    """Mbit/s of an upload alone, and of a foreground alone and beside it; milliseconds of ping."""
    found, seconds = {}, min(times.measure, 6)
    for name, parts in {"alone": "u", "foreground alone": "f", "beside": "uf"}.items():
        with Lan() as lan, scene.Ends(lab) as ends:
            if "u" in parts:
                scene.lan_upload(lab, ends, lan)
                time.sleep(2)
            if "f" in parts:
                ends.start(lan.hosts[2], "iperf3", "-s", "-1")
                time.sleep(0.4)
                ends.start(lan.hosts[0], "iperf3", "-c", ADDRS[2], "-t", 100, "-C", "cubic")
                time.sleep(2)
            ping = ends.start(lan.hosts[0], "ping", "-i", "0.05", ADDRS[1], stdout=subprocess.PIPE)
            begin, before = time.monotonic(), [lan.received(host) for host in (1, 2)]
            time.sleep(seconds)
            span, after = time.monotonic() - begin, [lan.received(host) for host in (1, 2)]
            ping.send_signal(signal.SIGINT)
            pings = [float(ms) for ms in re.findall(r"time=([\d.]+)", ping.communicate()[0])]
            ours, theirs = ((b - a) * 8e-6 / span for a, b in zip(before, after))
            found[name] = {"ours": ours, "foreground": theirs, "ping_ms": statistics.median(pings)}
    return found


# --- the tables


def columns(controls, quick):
    """Name of a column: how the background and a foreground meet there."""
    found = {
        "100 ms, first": {"is_first": True},
        "100 ms, late": {"is_first": False},
    }
    if not quick:
        found |= {
            "300 ms, first": {"is_first": True, "buffer_s": 0.3},
            "300 ms, late": {"is_first": False, "buffer_s": 0.3},
            "60 kB, first": {"is_first": True, "buffer_s": 0.024},
            "60 kB, late": {"is_first": False, "buffer_s": 0.024},
            "fair, first": {"is_first": True, "queue": FairQueue},
        }
    others = [control for control in controls if control != "cubic"]
    return found | {f"{control.upper()}, first": {"is_first": True, "control": control} for control in others}


def controls(quick):
    """Those of a foreground that this kernel has."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()
    return [control for control in ("cubic", "bbr", "reno") if control in known and not (quick and control == "reno")]


def shares(lab, times, found, drawings):
    """The large table. In a quick run rows other than `our` ones have only its first column."""
    foregrounds = {control: solo(lab, times, control) for control in controls(lab.quick)}
    with Scene(lab, "up") as it:
        calm = clicks(it, times.clicks)
    ways = columns(foregrounds, lab.quick)
    digits = {"alone": 1, "queue_ms": 1, "click_s": 2, "ping_ms": 1}
    more = ("alone %", "its queue ms", "300 kB s", "ping ms", "gives way s")
    table = Table("yield: what a foreground flow keeps of 20 Mbit/s, 20 ms (% of what it has alone)", "background", *ways, *more)
    table.row("nothing", *["100"] * len(ways), "–", "–", number(calm["click_s"]), number(calm["ping_ms"], 1), "–")
    for name, (background, way) in scene.backgrounds(lab).items():
        row = {"background": name}
        for column, how in list(ways.items())[: 1 if lab.quick and not name.startswith("our") else None]:
            own = foregrounds[how.get("control", "cubic")]
            kept = beside(lab, background, way, times, **how)
            row[column] = None if kept is None else kept / own * 100
        more, drawings[name] = course(lab, background, way, times)
        row |= more
        found.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        figures = [number(row.get(column), 1) for column in ways] + [number(row[key], places) for key, places in digits.items()]
        table.row(name, *figures, "never" if row["gives_way_s"] >= 4 else number(row["gives_way_s"]))
    return table, foregrounds, calm


def aims(row, calm):
    what = f"yield: {row['background']}"
    longest = [row[column] for column in ("300 ms, first", "300 ms, late") if row.get(column)]
    return [
        Target(f"{what}: a CUBIC flow keeps, background first (%)", row["100 ms, first"], 97, at_most=False),
        Target(f"{what}: ... background late", row["100 ms, late"], 95, at_most=False),
        Target(f"{what}: ... 300 ms, the worse", min(longest, default=None), 95, at_most=False),
        Target(f"{what}: a BBR flow keeps (%)", row.get("BBR, first"), 93, at_most=False),
        Target(f"{what}: of the line, alone (%)", row["alone"], 92, at_most=False),
        Target(f"{what}: its own queue (ms)", row["queue_ms"], 16),
        Target(f"{what}: a transfer of 300 kB (s)", row["click_s"], 0.35),
        Target(f"{what}: ping, more than on the idle line (ms)", row["ping_ms"] - calm["ping_ms"], 8),
        Target(f"{what}: gives way within (s)", row["gives_way_s"], 0.5),
    ]


def others(lab, times, foreground_mbit, found):
    """Rows with figures of their own."""
    table = Table("yield: more", "what", "figure", "")
    targets = []

    def row(what, value, limit, unit, at_most=False):
        found.append({"what": what, "value": value})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
        table.row(what, number(value, 3 if limit <= 1 else 1), unit)
        targets.append(Target(f"yield: {what}", value, limit, at_most))

    eight = beside(lab, scene.our_uploads, "up", times, is_first=True)
    row("8 uploads of one device: a CUBIC flow keeps", eight and eight / foreground_mbit * 100, 95, "%")
    lan = on_a_lan(lab, times)
    found.append({"lan": lan})
    own = lan["foreground alone"]["foreground"]
    row("LAN, 1 Gbit/s: our upload alone", lan["alone"]["ours"], 900, "Mbit/s")
    row("LAN, 1 Gbit/s: a CUBIC flow keeps", lan["beside"]["foreground"] / own * 100, 95, "%")
    for name, part in lan.items():
        table.row(f"LAN, ping, {name}", number(part["ping_ms"], 2), "ms")
    if lab.long:
        index = two_devices(lab)
        row("two devices, one 15 s late: Jain's index within a minute", index["soon"], 0.9, "")
        row("two devices, one 15 s late: ... after two", index["later"], 0.98, "")
    return table, targets


def run(lab):
    missing = next((f"{name} is not installed" for name in ("iperf3", "ping", "tc") if not shutil.which(name)), None)
    if why := link.why_not() or missing:
        lab.skip("yield", why)
        return [], [], []
    times, found, drawings = Times(lab.quick), [], {}
    table, foregrounds, calm = shares(lab, times, found, drawings)
    ours = [row for row in found if row["background"].startswith("our")]
    targets = [aim for row in ours for aim in aims(row, calm)]
    second, more = others(lab, times, foregrounds["cubic"], found)
    draw.write(lab, drawings)
    return [table, second], targets + more, found
