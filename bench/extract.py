"""Extraction: `nozzle dump` beside stock JSON parsers on the same bytes, cryo and ethereum-etl."""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import typing

import common
from common import NOZZLE, PLACE, TESTKIT, fresh, run, say, table

CRYO = "cryo 0.3.2"
ETL = "ethereum-etl 2.4.2"


def dump(url: str, jobs: int, verify: str, folder) -> common.Measured:
    argv = [NOZZLE, "dump", "--rpc-url", url, "-j", jobs, "--verify", verify]
    # Merging its files at the end is measured by itself: compact.py.
    env = os.environ | {"NOZZLE_CONFIG_COMPACTION__COMPACTOR_ENABLED": "false"}
    return run(argv, cwd=fresh(folder), env=env)


def cryo(url: str, blocks: int, folder) -> common.Measured:
    return run([sys.executable, common.HERE / "cryo_peer.py", url, blocks, fresh(folder)])


def etl(program: str, url: str, blocks: int, folder) -> common.Measured:
    return run([common.HERE / "etl_peer.sh", program, url, blocks, fresh(folder)], stderr=subprocess.DEVNULL)


def parse(blocks: int, parser: str) -> dict:
    return json.loads(run([TESTKIT, "parse", "--mainnet-like", blocks, "--with", parser]).stdout)


def rows_and_bytes(files) -> tuple[int, int]:
    # Only now: see common.
    import pyarrow.parquet

    rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return rows, sum(file.stat().st_size for file in files)


class Extracted(typing.NamedTuple):
    """What an extraction of so many blocks took, and the folder of its files."""

    blocks: int
    measured: common.Measured
    folder: pathlib.Path


def best(measure, rounds: int) -> common.Measured:
    """The round that took the least processor time: others disturb, nobody helps."""
    return min((measure() for _ in range(rounds)), key=lambda measured: measured.cpu_s)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=2000, help="how long the chain is")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured; the best one counts")
    parser.add_argument("--without-cryo", action="store_true")
    parser.add_argument("--etl-blocks", type=int, default=100, help="how many of them ethereum-etl extracts; 0: none")
    args = parser.parse_args()
    blocks, machine, place = args.blocks, common.machine(), PLACE / "extract"

    dumps = {}
    say(f"making {blocks} blocks and keeping them in memory")
    with common.replay(blocks) as node:
        url = node.lines[0]
        measured = [(jobs, "header") for jobs in (1, 2)]
        measured += [(1, verify) for verify in ("links", "full", "senders")]
        for jobs, verify in measured:
            name = f"nozzle dump -j {jobs}" + ("" if verify == "header" else f" --verify {verify}")
            say(name)
            folder = place / f"nozzle-j{jobs}-{verify}"
            # Bound now: the loop goes on.
            one = functools.partial(dump, url, jobs, verify, folder)
            dumps[name] = Extracted(blocks, best(one, args.rounds), folder / ".nozzle/data")
        if not args.without_cryo:
            say(CRYO)
            folder = place / "cryo"
            dumps[CRYO] = Extracted(blocks, best(lambda: cryo(url, blocks, folder), args.rounds), folder)
        if args.etl_blocks:
            say(f"{ETL}, {args.etl_blocks} blocks")
            folder, count = place / "etl", min(args.etl_blocks, blocks)
            dumps[ETL] = Extracted(count, etl(os.environ["NOZZLE_BENCH_ETL"], url, count, folder), folder)
    parsed = {}
    for name in ("serde-json", "sonic-rs"):
        say(f"parsing with {name}")
        results = (parse(blocks, name) for _ in range(args.rounds))
        parsed[name] = min(results, key=lambda result: result["cpu_seconds"])

    megabytes = parsed["sonic-rs"]["bytes"] / 1e6
    per_cpu_second = {name: extracted.blocks / extracted.measured.cpu_s for name, extracted in dumps.items()}
    per_cpu_second |= {name: blocks / result["cpu_seconds"] for name, result in parsed.items()}
    cryo_rate = per_cpu_second.get(CRYO)

    def ratio(name):
        return f"{per_cpu_second[name] / cryo_rate:.2f}" if cryo_rate else "–"

    rows = []
    for name, (count, measured, folder) in dumps.items():
        files = sorted(folder.rglob("*.parquet"))
        stored, size = rows_and_bytes(files) if files else ("–", 0)
        rows.append([
            name,
            f"{count / measured.wall_s:.0f}",
            f"**{per_cpu_second[name]:.0f}**",
            f"{megabytes / blocks * count / measured.wall_s:.0f}",
            f"{measured.peak_rss_bytes / 1e6:.0f}",
            f"{stored:,}" if files else "–",
            f"{size / stored:.0f}" if files else "–",
            f"{size / 1e6:.1f}" if files else "–",
            ratio(name),
        ])
    for name, result in parsed.items():
        title = {"serde-json": "serde_json into `Value`, nothing else", "sonic-rs": "sonic-rs into `Value`, nothing else"}[name]
        speed = f"{megabytes / result['cpu_seconds']:.0f}"
        rows.append([title, "–", f"{per_cpu_second[name]:.0f}", speed, "–", "–", "–", "–", ratio(name)])
    head = ["", "blocks/s", "blocks per CPU second", "MB/s of JSON", "peak RSS, MB", "rows", "bytes per row", "MB on disk", "of cryo's rate"]
    target = "Target: 400 blocks per CPU second and 5 × cryo under 300 MB, with the default checks (`header`)."
    common.emit(
        "extract",
        f"## Extraction: {blocks:,} blocks, {megabytes:.0f} MB of JSON\n\n{machine}\n\n{table(head, rows)}\n\n{target}",
    )


if __name__ == "__main__":
    main()
