"""Extraction: `nozzle dump` beside stock JSON parsers on the same bytes and beside cryo."""

import argparse
import json
import sys

import common
from common import NOZZLE, PLACE, TESTKIT, fresh, run, say, table

DATASET = "eth_mainnet"


def dump(url: str, jobs: int, folder) -> common.Measured:
    argv = [NOZZLE, "dump", "--rpc-url", url, "-j", jobs]
    return run(argv, cwd=fresh(folder))


def cryo(url: str, blocks: int, folder) -> common.Measured:
    return run([sys.executable, common.HERE / "cryo_peer.py", url, blocks, fresh(folder)])


def parse(blocks: int, parser: str) -> dict:
    return json.loads(run([TESTKIT, "parse", "--mainnet-like", blocks, "--with", parser]).stdout)


def rows_and_bytes(files) -> tuple[int, int]:
    # Only now: see common.
    import pyarrow.parquet

    rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return rows, sum(file.stat().st_size for file in files)


def best(measure, rounds: int) -> common.Measured:
    """The round that took the least processor time: others disturb, nobody helps."""
    return min((measure() for _ in range(rounds)), key=lambda measured: measured.cpu_s)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=2000, help="how long the chain is")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured; the best one counts")
    parser.add_argument("--without-cryo", action="store_true")
    args = parser.parse_args()
    blocks, machine, place = args.blocks, common.machine(), PLACE / "extract"

    dumps = {}
    say(f"making {blocks} blocks and keeping them in memory")
    with common.replay(blocks) as node:
        url = node.lines[0]
        for jobs in (1, 2):
            say(f"nozzle dump -j {jobs}")
            folder = place / f"nozzle-j{jobs}"
            dumps[f"nozzle dump -j {jobs}"] = best(lambda: dump(url, jobs, folder), args.rounds), folder / ".nozzle/data"
        if not args.without_cryo:
            say("cryo 0.3.2")
            folder = place / "cryo"
            dumps["cryo 0.3.2"] = best(lambda: cryo(url, blocks, folder), args.rounds), folder
    parsed = {}
    for name in ("serde-json", "sonic-rs"):
        say(f"parsing with {name}")
        results = (parse(blocks, name) for _ in range(args.rounds))
        parsed[name] = min(results, key=lambda result: result["cpu_seconds"])

    megabytes = parsed["sonic-rs"]["bytes"] / 1e6
    per_cpu_second = {name: blocks / measured.cpu_s for name, (measured, _) in dumps.items()}
    per_cpu_second |= {name: blocks / result["cpu_seconds"] for name, result in parsed.items()}
    cryo_rate = per_cpu_second.get("cryo 0.3.2")

    def ratio(name):
        return f"{per_cpu_second[name] / cryo_rate:.2f}" if cryo_rate else "–"

    rows = []
    for name, (measured, folder) in dumps.items():
        count, size = rows_and_bytes(sorted(folder.rglob("*.parquet")))
        rows.append([
            name,
            f"{blocks / measured.wall_s:.0f}",
            f"**{per_cpu_second[name]:.0f}**",
            f"{megabytes / measured.wall_s:.0f}",
            f"{measured.peak_rss_bytes / 1e6:.0f}",
            f"{count:,}",
            f"{size / count:.0f}",
            f"{size / 1e6:.1f}",
            ratio(name),
        ])
    for name, result in parsed.items():
        title = {"serde-json": "serde_json into `Value`, nothing else", "sonic-rs": "sonic-rs into `Value`, nothing else"}[name]
        speed = f"{megabytes / result['cpu_seconds']:.0f}"
        rows.append([title, "–", f"{per_cpu_second[name]:.0f}", speed, "–", "–", "–", "–", ratio(name)])
    head = ["", "blocks/s", "blocks per CPU second", "MB/s of JSON", "peak RSS, MB", "rows", "bytes per row", "MB on disk", "of cryo's rate"]
    target = "Target: 240 blocks per CPU second under 300 MB, with the default checks (`header`)."
    common.emit(
        "extract",
        f"## Extraction: {blocks:,} blocks, {megabytes:.0f} MB of JSON\n\n{machine}\n\n{table(head, rows)}\n\n{target}",
    )


if __name__ == "__main__":
    main()
