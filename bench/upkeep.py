"""Upkeep: what 100 new blocks cost derived tables, behind a short history and behind a long one."""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess

import common
from common import NOZZLE, PLACE, TESTKIT, Server, fresh, run, say, table

NEW = 100
TRANSFER = "Transfer(address indexed from, address indexed to, uint256 value)"
# One table a dataset, so that each is measured by itself.
TABLES = {
    "projection": "SELECT block_num, address, topic1, data FROM chain.logs",
    "decoded": f"SELECT block_num, address, evm_decode_log(topic1, topic2, topic3, data, '{TRANSFER}') AS t FROM chain.logs",
    "counted": "SELECT block_num, count(*) AS n, min(log_index) AS first FROM chain.logs GROUP BY block_num",
    "joined_by_block": "SELECT l.block_num, l.address, b.gas_used FROM chain.logs AS l JOIN chain.blocks AS b ON l.block_num = b.block_num",
    # Keys that only recent blocks have, and keys of which nothing tells that.
    "joined_by_time": "SELECT l.block_num, l.address, b.gas_used FROM chain.logs AS l JOIN chain.blocks AS b ON l.timestamp = b.timestamp",
    "joined_by_hash": 'SELECT l.block_num, l.log_index, t."from" FROM chain.logs AS l JOIN chain.transactions AS t ON l.tx_hash = t.tx_hash',
}


def define(folder: pathlib.Path, url: str):
    for name in ("datasets", "providers"):
        (folder / name).mkdir()
    (folder / "nozzle.toml").write_text('data_dir = "data"\n')
    (folder / "providers/node.toml").write_text(f'kind = "evm-rpc"\nnetwork = "chain-1337"\nurl = "{url}"\n')
    (folder / "datasets/eth.json").write_text('{"name": "eth", "kind": "evm-rpc", "network": "chain-1337", "verify": "links"}')
    for name, sql in TABLES.items():
        manifest = {"name": name, "version": "1.0.0", "kind": "manifest", "dependencies": {"chain": {"name": "eth"}}}
        (folder / f"datasets/{name}.json").write_text(json.dumps(manifest | {"tables": {"t": {"input": {"sql": sql}}}}))


def dump(folder, dataset: str, end: int):
    ignored = ["--ignore-deps"] if dataset in TABLES else []
    return run([NOZZLE, "dump", "--dataset", dataset, "-e", end, *ignored], cwd=folder, stderr=subprocess.DEVNULL)


def measure(history: int, rounds: int) -> tuple[dict, dict]:
    """CPU seconds and seconds of each round, by table."""
    folder = fresh(PLACE / f"upkeep-{history}")
    cpu, wall = ({name: [] for name in TABLES} for _ in range(2))
    shape = f"{history + NEW * (rounds + 1)},1,1,7"
    with Server([TESTKIT, "replay", "--synthetic", shape, "--chain-id", 1337, "--ignore-stdin"], stdin=subprocess.DEVNULL) as node:
        define(folder, node.lines[0])
        say(f"{history:,} blocks of history")
        for dataset in ["eth", *TABLES]:
            dump(folder, dataset, history - 1)
        run([NOZZLE, "compact"], cwd=folder, stderr=subprocess.DEVNULL)
        say(f"{rounds} times {NEW} blocks more")
        for turn in range(rounds):
            end = history + NEW * (turn + 1) - 1
            dump(folder, "eth", end)
            for name in TABLES:
                measured = dump(folder, name, end)
                cpu[name].append(measured.cpu_s)
                wall[name].append(measured.wall_s)
    shutil.rmtree(folder)
    return cpu, wall


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=10_000, help="blocks of the short history")
    parser.add_argument("--long", type=int, default=1_000_000, help="blocks of the long one")
    parser.add_argument("--rounds", type=int, default=11, help="how often 100 blocks are added")
    args = parser.parse_args()
    machine = common.machine()
    common.two_cores()
    (short_cpu, short_wall), (long_cpu, long_wall) = (measure(blocks, args.rounds) for blocks in (args.short, args.long))
    median = statistics.median

    def row(name):
        few, many = median(short_wall[name]), median(long_wall[name])
        few_cpu, many_cpu = median(short_cpu[name]), median(long_cpu[name])
        numbers = [few * 1000, many * 1000, many / few, few_cpu * 1000, many_cpu * 1000, many_cpu / few_cpu]
        return [name, *(f"{number:.2f}" if number < 10 else f"{number:.0f}" for number in numbers)]

    head = ["", f"ms behind {args.short:,}", f"ms behind {args.long:,}", "ratio", "CPU ms", "CPU ms", "ratio"]
    text = table(head, [row(name) for name in TABLES])
    note = f"Medians of {args.rounds} rounds; each is a `nozzle dump` of {NEW} new blocks, start and end of the process included."
    common.emit("upkeep", f"## Upkeep of derived tables\n\n{machine}\n\n{text}\n\n{note}")


if __name__ == "__main__":
    main()
