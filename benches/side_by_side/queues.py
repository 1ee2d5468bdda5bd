"""Queues of a line: one that drops what does not fit, and one that is fair to flows and short (RFC 8289, RFC 8290).

A packet is `(arrived, bytes, kind, flow)`. `push` says what was dropped instead, `pop` what goes onto the line at a
moment, after all that it drops.
"""

import collections


class Fifo:
    def __init__(self, bytes_max):
        self.packets, self.bytes, self.bytes_max = collections.deque(), 0, bytes_max

    def push(self, packet):
        if self.bytes + len(packet[1]) > self.bytes_max:
            return [packet]
        self.packets.append(packet)
        self.bytes += len(packet[1])
        return []

    def oldest(self):
        return self.packets[0][0] if self.packets else None

    def pop(self, _now):
        packet = self.packets.popleft()
        self.bytes -= len(packet[1])
        return packet, []


class Codel:
    """One flow of a `FairQueue`."""

    TARGET_S, INTERVAL_S = 0.005, 0.1

    def __init__(self):
        self.packets, self.bytes = collections.deque(), 0
        self.deficit, self.above_since, self.drops_at, self.drops = 0, None, None, 0

    def take(self):
        packet = self.packets.popleft()
        self.bytes -= len(packet[1])
        return packet

    def is_long(self, now, packet):
        """It has been too long for a whole interval."""
        if now - packet[0] < self.TARGET_S or self.bytes <= 1500:
            self.above_since = None
            return False
        if self.above_since is None:
            self.above_since = now
        return now >= self.above_since + self.INTERVAL_S

    def pop(self, now):
        dropped = []
        while self.packets:
            packet = self.take()
            if not self.is_long(now, packet):
                self.drops_at = None
                return packet, dropped
            if self.drops_at is None:
                # Where it left off, if that was not long ago.
                self.drops = max(self.drops - 2, 0)
                self.drops_at = now
            if now < self.drops_at:
                return packet, dropped
            dropped.append(packet)
            self.drops += 1
            self.drops_at += self.INTERVAL_S / self.drops**0.5
        return None, dropped


class FairQueue:
    QUANTUM = 1514

    def __init__(self, bytes_max):
        self.flows, self.bytes, self.bytes_max = {}, 0, bytes_max
        self.new, self.old = collections.deque(), collections.deque()

    def push(self, packet):
        flow = self.flows.setdefault(packet[3], Codel())
        flow.packets.append(packet)
        flow.bytes += len(packet[1])
        self.bytes += len(packet[1])
        if flow not in self.new and flow not in self.old:
            flow.deficit = self.QUANTUM
            self.new.append(flow)
        dropped = []
        while self.bytes > self.bytes_max:
            dropped.append(max(self.flows.values(), key=lambda it: it.bytes).take())
            self.bytes -= len(dropped[-1][1])
        return dropped

    def oldest(self):
        heads = [flow.packets[0][0] for flow in (*self.new, *self.old) if flow.packets]
        return min(heads) if heads else None

    def pop(self, now):
        dropped = []
        while self.new or self.old:
            turns = self.new or self.old
            flow = turns[0]
            if flow.deficit <= 0:
                flow.deficit += self.QUANTUM
                self.old.append(turns.popleft())
                continue
            packet, more = flow.pop(now)
            dropped += more
            self.bytes -= sum(len(it[1]) for it in more)
            if packet is None:
                turns.popleft()
                if turns is self.new:
                    self.old.append(flow)
                continue
            flow.deficit -= len(packet[1])
            self.bytes -= len(packet[1])
            return packet, dropped
        return None, dropped
