"""The other ends of transfers, one process each; what a reader got is one line of JSON.

flight URL SQL | lines URL SQL | receive HOST:PORT | send BYTES | polars ROWS OUT FILE…
"""

import json
import os
import socket
import sys
import time

CHUNK = 1 << 20


def flight(url: str, sql: str) -> dict:
    """Reads batches and lets them go; the bytes are those of their buffers."""
    from pyarrow import flight

    client = flight.connect(url)
    start, size, rows = time.perf_counter(), 0, 0
    for chunk in client.do_get(flight.Ticket(sql)):
        size += chunk.data.nbytes
        rows += chunk.data.num_rows
    return {"bytes": size, "rows": rows, "seconds": time.perf_counter() - start}


def lines(url: str, sql: str) -> dict:
    import http.client
    import urllib.parse

    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    start, size, rows = time.perf_counter(), 0, 0
    connection.request("POST", "/", sql.encode())
    answer = connection.getresponse()
    while chunk := answer.read1(CHUNK):
        size += len(chunk)
        rows += chunk.count(b"\n")
    if answer.status != 200:
        raise SystemExit(f"HTTP {answer.status}")
    return {"bytes": size, "rows": rows, "seconds": time.perf_counter() - start}


def receive(address: str) -> dict:
    host, port = address.split(":")
    buffer = memoryview(bytearray(CHUNK))
    with socket.create_connection((host, int(port))) as connection:
        start, size = time.perf_counter(), 0
        while count := connection.recv_into(buffer):
            size += count
    return {"bytes": size, "rows": 0, "seconds": time.perf_counter() - start}


def send(size: str):
    """Sends so many bytes to the one who connects, then waits to be ended."""
    left, chunk = int(size), memoryview(os.urandom(CHUNK))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("127.0.0.1:%d" % listener.getsockname()[1], flush=True)
        with listener.accept()[0] as connection:
            while left > 0:
                left -= connection.send(chunk[: min(left, CHUNK)])
    time.sleep(3600)


def polars(rows: str, out: str, *files: str) -> dict:
    """The same rows of the same files as the same text: bytes as 0x and digits."""
    import polars as pl

    def write():
        text = [("0x" + pl.col(name).bin.encode("hex")).alias(name) for name in ("tx_hash", "address", "topic0", "data")]
        table = pl.scan_parquet(list(files)).head(int(rows))
        columns = ["block_num", "tx_hash", "log_index", "address", "topic0", "data"]
        table.select(columns).with_columns(text).sink_ndjson(out)

    write()
    start, cpu = time.perf_counter(), time.process_time()
    write()
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {"bytes": os.path.getsize(out), "rows": int(rows), "seconds": seconds, "cpu_s": cpu_s}


if __name__ == "__main__":
    what = {"flight": flight, "lines": lines, "receive": receive, "send": send, "polars": polars}[sys.argv[1]]
    print(json.dumps(what(*sys.argv[2:])))
