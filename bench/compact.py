"""Compaction: one-block segments into files of the target size, beside pyarrow reading and writing the same rows."""

import argparse
import sys
import threading
import time
import urllib.request

import common
from common import PLACE, say, table

DATASET = "eth_mainnet"
TABLES = ["blocks", "transactions", "logs", "withdrawals"]
# Every group of blocks that comes is a segment. One request at a time of a node that is slower than the writing of a
# block's files makes them come alone.
NODE_DELAY_MS = 20
CONFIG = """
data_dir = "data"
writer = { segment_flush_interval_secs = 0.000001 }
compaction = { compactor_enabled = false, file_lock_duration_secs = 1 }
"""
QUESTIONS = {
    "all logs of an address": "SELECT count(*) FROM eth_mainnet.logs WHERE address = X'dac17f958d2ee523a2206206994597c13d831ec7'",
    "sum over all transactions": "SELECT sum(gas_used) FROM eth_mainnet.transactions",
    "one block": "SELECT * FROM eth_mainnet.blocks WHERE block_num = 77",
}
PROVIDER = """
kind = "evm-rpc"
network = "mainnet"
url = "{url}"
concurrent_request_limit = 1
"""
MANIFEST = '{"name": "eth_mainnet", "kind": "evm-rpc", "network": "mainnet"}'
# A process of its own, so that its memory is its own.
COPY = """
import sys, pyarrow.parquet as pq
out, *files = sys.argv[1:]
first = pq.ParquetFile(files[0]).schema_arrow
with pq.ParquetWriter(out, first, compression="zstd", compression_level=1) as writer:
    for file in files:
        writer.write_table(pq.read_table(file).cast(first))
"""


def extract(folder, blocks: int):
    (folder / "nozzle.toml").write_text(CONFIG)
    for name in ("datasets", "providers"):
        (folder / name).mkdir()
    (folder / f"datasets/{DATASET}.json").write_text(MANIFEST)
    with common.replay(blocks, delay_ms=NODE_DELAY_MS) as node:
        (folder / "providers/mainnet.toml").write_text(PROVIDER.format(url=node.lines[0]))
        say(f"extracting {blocks} blocks in as many segments as there are")
        common.run([common.NOZZLE, "dump", "--dataset", DATASET], cwd=folder)


def stored(folder) -> tuple[int, int]:
    files = [file for name in TABLES for file in common.live_files(folder, DATASET, name)]
    return len(files), sum(file.stat().st_size for file in files)


def ask(url: str, sql: str) -> float:
    started = time.perf_counter()
    urllib.request.urlopen(urllib.request.Request(url, sql.encode(), method="POST"), timeout=600).read()
    return time.perf_counter() - started


def median(url: str, sql: str) -> float:
    ask(url, sql)
    return sorted(ask(url, sql) for _ in range(5))[2]


def metadata(folder) -> str:
    """Segments in the metadata, and what of the file is in use."""
    import sqlite3

    with sqlite3.connect(folder / "metadata.db") as database:
        (rows,) = database.execute("SELECT count(*) FROM segments").fetchone()
        pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ["page_count", "freelist_count", "page_size"])
    return f"{rows:,} rows of segments, {(pages - free) * size / 1e6:.1f} MB"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--blocks", type=int, default=10_000)
    arguments = arguments.parse_args()
    common.two_cores()
    machine = common.machine()
    folder = common.fresh(PLACE / "compact")
    extract(folder, arguments.blocks)
    files, size = stored(folder)
    metadata_before = metadata(folder)
    with common.nozzle_server(folder) as server:
        url = common.jsonl_url(server)
        before = {name: median(url, sql) for name, sql in QUESTIONS.items()}
        say("copying with pyarrow")
        copies = [
            common.run([sys.executable, "-c", COPY, folder / f"{name}.parquet", *common.live_files(folder, DATASET, name)])
            for name in TABLES
        ]
        say("compacting, while queries are asked")
        during, ended = [], threading.Event()

        def keep_asking():
            while not ended.is_set():
                during.append(ask(url, QUESTIONS["one block"]))
                time.sleep(0.05)

        asker = threading.Thread(target=keep_asking)
        asker.start()
        compacted = common.run([common.NOZZLE, "compact"], cwd=folder)
        ended.set()
        asker.join()
        after_files, after_size = stored(folder)
        after = {name: median(url, sql) for name, sql in QUESTIONS.items()}
    time.sleep(1)
    common.run([common.NOZZLE, "gc"], cwd=folder)
    copied_wall, copied_cpu = sum(copy.wall_s for copy in copies), sum(copy.cpu_s for copy in copies)

    def row(name, wall, cpu, rss):
        return [name, f"{wall:.1f}", f"{size / 1e6 / wall:.0f}", f"{cpu:.1f}", f"{size / 1e6 / cpu:.0f}", f"{rss / 1e6:.0f}"]

    head = ["", "s", "MB/s", "CPU s", "MB per CPU s", "peak RSS MB"]
    lines = [
        row("nozzle compact", compacted.wall_s, compacted.cpu_s, compacted.peak_rss_bytes),
        row("pyarrow, the same files", copied_wall, copied_cpu, max(copy.peak_rss_bytes for copy in copies)),
    ]
    queries = [[name, f"{before[name] * 1e3:.0f}", f"{after[name] * 1e3:.0f}"] for name in QUESTIONS]
    text = f"""# Compaction of {arguments.blocks:,} blocks

{machine}. {files:,} files of {size / 1e6:.0f} MB became {after_files} of {after_size / 1e6:.0f} MB. The metadata: {metadata_before} before,
{metadata(folder)} after collection. {len(during)} queries were answered meanwhile, the slowest in {max(during) * 1e3:.0f} ms.

{table(head, lines)}

{table(["query", "ms before", "ms after"], queries)}"""
    common.emit("compact", text)


main()
