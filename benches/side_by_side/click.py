"""Short transfers over fresh CUBIC connections, as a person's clicks are. Run by `yielding.py` at either end of a line.

    click.py serve PORT
    click.py ask ADDRESS PORT COUNT up|down
"""

import json
import socket
import struct
import sys
import time

SIZE = 300_000
EVERY_S = 3.0
TCP_CONGESTION = 13


def as_cubic(stream):
    stream.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, b"cubic")
    return stream


def serve(port):
    listener = socket.create_server(("0.0.0.0", port))
    print(json.dumps({"listening": port}), flush=True)
    while True:
        stream, _ = listener.accept()
        as_cubic(stream)
        size, is_down = struct.unpack("!IB", stream.recv(5, socket.MSG_WAITALL))
        if is_down:
            stream.sendall(bytes(size))
        else:
            while size > 0:
                size -= len(stream.recv(65536))
            stream.sendall(b"k")
        stream.close()


def ask(address, port, is_down):
    began = time.monotonic()
    stream = as_cubic(socket.socket())
    stream.connect((address, port))
    stream.sendall(struct.pack("!IB", SIZE, is_down) + (b"" if is_down else bytes(SIZE)))
    left = SIZE if is_down else 1
    while left > 0:
        left -= len(stream.recv(65536))
    stream.close()
    return time.monotonic() - began


def main():
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    address, port, count, way = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    for _ in range(count):
        took_s = ask(address, port, way == "down")
        print(json.dumps({"took_s": took_s}), flush=True)
        time.sleep(max(0.0, EVERY_S - took_s))


main()
