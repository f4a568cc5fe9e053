"""Transfer: rows over Flight beside the same bytes over bare TCP, JSON Lines beside Polars' writer of the same rows."""

import argparse
import json
import subprocess
import sys
import threading

import common
from common import PLACE, say, table
from query import dataset, linked

QUERIES = {
    "logs, all columns": "SELECT * FROM eth_mainnet.logs LIMIT {rows}",
    "logs, 4 columns of numbers": "SELECT block_num, timestamp, tx_index, log_index FROM eth_mainnet.logs LIMIT {rows}",
}
LINES = "SELECT block_num, tx_hash, log_index, address, topic0, data FROM eth_mainnet.logs LIMIT {rows}"


class Memory:
    """Looks at a server's memory ten times a second while the `with` block runs."""

    def __init__(self, server):
        self.server = server
        self.ended = threading.Event()
        self.before = self.most = server.rss_bytes()
        self.watcher = threading.Thread(target=self.watch)

    def watch(self):
        while not self.ended.wait(0.1):
            self.most = max(self.most, self.server.rss_bytes())

    def __enter__(self):
        self.watcher.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.watcher.join()
        self.after = self.server.rss_bytes()

    def __str__(self):
        return " → ".join(f"{size / 1e6:.0f}" for size in (self.before, self.most, self.after))


def client(*argv) -> dict:
    """A reader in a process of its own: {"bytes", "rows", "seconds"}."""
    child = subprocess.run([sys.executable, common.HERE / "readers.py", *map(str, argv)], stdout=subprocess.PIPE, check=True)
    return json.loads(child.stdout)


def over_flight(server, name: str, sql: str) -> list:
    url = common.flight_url(server)
    client("flight", url, sql)
    cpu = server.cpu_s()
    with Memory(server) as memory:
        read = client("flight", url, sql)
    return row(f"Flight: {name}", read, server.cpu_s() - cpu, memory), read["bytes"]


def row(name: str, read: dict, cpu_s: float, memory) -> list:
    return [
        name,
        f"{read['rows']:,}" if read["rows"] else "–",
        f"{read['bytes'] / 1e6:.0f}",
        f"{read['seconds']:.2f}",
        f"{read['bytes'] / 1e6 / read['seconds']:.0f}",
        f"{cpu_s:.2f}",
        f"{read['bytes'] / 1e6 / cpu_s:.0f}",
        memory,
    ]


def over_tcp(name: str, size: int) -> list:
    with common.Server([sys.executable, common.HERE / "readers.py", "send", size]) as sender:
        address = sender.lines[0]
        cpu = sender.cpu_s()
        read = client("receive", address)
        return row(f"bare TCP: the bytes of {name}", read, sender.cpu_s() - cpu, "–")


def as_lines(server, rows: int) -> list:
    sql = LINES.format(rows=rows)
    url = common.jsonl_url(server)
    client("lines", url, sql)
    cpu = server.cpu_s()
    with Memory(server) as memory:
        read = client("lines", url, sql)
    return row("JSON Lines over HTTP", read, server.cpu_s() - cpu, memory)


def polars_lines(files, rows: int) -> list:
    out = PLACE / "polars.jsonl"
    measured = common.run([sys.executable, common.HERE / "readers.py", "polars", rows, out, *files])
    read = json.loads(measured.stdout)
    out.unlink()
    return row("Polars' NDJSON writer", read, read["cpu_s"], f"peak {measured.peak_rss_bytes / 1e6:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=18_800, help="how long the chain is")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows over Flight")
    parser.add_argument("--lines", type=int, default=1_000_000, help="rows as JSON Lines")
    args = parser.parse_args()
    machine = common.machine()
    common.two_cores()
    folder = dataset(args.blocks)
    files = linked(folder)["logs"]
    rows = []
    with common.nozzle_server(folder) as server:
        for name, sql in QUERIES.items():
            say(f"Flight: {name}")
            measured, size = over_flight(server, name, sql.format(rows=args.rows))
            rows += [measured, over_tcp(name, size)]
        say("JSON Lines")
        rows.append(as_lines(server, args.lines))
    rows.append(polars_lines(files, args.lines))
    head = ["", "rows", "MB", "s", "MB/s", "CPU s of the sender", "MB per CPU second", "its RSS, MB: before → most → after"]
    common.emit("transfer", f"## Transfer\n\n{machine}, sender and reader on 2 processors\n\n{table(head, rows)}")


if __name__ == "__main__":
    main()
