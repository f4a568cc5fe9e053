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


def measure(history: int, rounds: int) -> dict:
    """By table, what each round took: the dump of new blocks, and before it one that has nothing to do."""
    folder = fresh(PLACE / f"upkeep-{history}")
    measured = {name: [] for name in TABLES}
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
                empty = dump(folder, name, end - NEW)
                measured[name].append((dump(folder, name, end), empty))
    shutil.rmtree(folder)
    return measured


def medians(rounds: list, of: str) -> tuple[float, float]:
    """Milliseconds of the new blocks alone, and of a dump that has nothing to do."""
    of_each = [(getattr(new, of) * 1000, getattr(empty, of) * 1000) for new, empty in rounds]
    return statistics.median(new - empty for new, empty in of_each), statistics.median(empty for _, empty in of_each)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=10_000, help="blocks of the short history")
    parser.add_argument("--long", type=int, default=1_000_000, help="blocks of the long one")
    parser.add_argument("--rounds", type=int, default=11, help="how often 100 blocks are added")
    args = parser.parse_args()
    machine = common.machine()
    common.two_cores()
    short, long = (measure(blocks, args.rounds) for blocks in (args.short, args.long))

    def row(name):
        numbers = []
        for of in ("wall_s", "cpu_s"):
            (few, few_empty), (many, many_empty) = medians(short[name], of), medians(long[name], of)
            numbers += [few, many, many / few if few > 0 else float("nan"), few_empty, many_empty]
        return [name, *(f"{number:.2f}" if number < 10 else f"{number:.0f}" for number in numbers)]

    behind = [f"{args.short:,}", f"{args.long:,}"]
    head = [""] + [title for unit in ("ms", "CPU ms") for title in (*(f"{unit} behind {blocks}" for blocks in behind), "ratio", *(f"empty, {unit} behind {blocks}" for blocks in behind))]
    text = table(head, [row(name) for name in TABLES])
    note = f"Medians of {args.rounds} rounds; each is a `nozzle dump` of {NEW} new blocks less one right before it that has nothing to do (empty), so that the start and the end of the process hide nothing. Goal: a ratio under 1.20, and an empty dump that takes the same behind both."
    common.emit("upkeep", f"## Upkeep of derived tables\n\n{machine}\n\n{text}\n\n{note}")


if __name__ == "__main__":
    main()
