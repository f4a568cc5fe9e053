"""Queries: twenty questions to a running `nozzle server` and to its peers, on the same files; and planning."""

import argparse
import json
import os
import statistics
import subprocess
import sys

import common
import planning
import questions
from common import NOZZLE, PLACE, run, say, table

DATASET = "eth_mainnet"
PEERS = ["DuckDB", "chdb", "datafusion"]


def dataset(blocks: int):
    """A folder with so many blocks of the generated chain; extracted the first time and kept."""
    folder = PLACE / "data" / str(blocks)
    done = folder / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        say(f"making {blocks} blocks and extracting them into {folder}: some minutes, once")
        with common.replay(blocks, preload=False) as node:
            run([NOZZLE, "dump", "--rpc-url", node.lines[0]], cwd=folder)
        done.touch()
    return folder


def linked(folder) -> dict[str, list[str]]:
    """The live files of each table, under a second name in a folder where there is nothing else."""
    files = {}
    for name in ("logs", "transactions"):
        links = common.fresh(folder / "live" / name)
        files[name] = []
        for file in common.live_files(folder, DATASET, name):
            os.link(file, links / file.name)
            files[name].append(str(links / file.name))
    return files


def answers(task: dict) -> dict[str, dict]:
    """What one engine makes of its questions, by the question's name."""
    say(task["engine"])
    child = subprocess.run(
        [sys.executable, common.HERE / "engines.py"], input=json.dumps(task), stdout=subprocess.PIPE, text=True
    )
    results = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    if child.returncode != 0:
        asked = task["questions"][len(results)]["sql"] if len(results) < len(task["questions"]) else ""
        raise SystemExit(f"{task['engine']} failed: {asked}")
    return {result["name"]: result for result in results}


def compared(results: dict[str, dict]) -> str:
    """One row a question: processor time and time of each, and ours beside the best of the others."""
    rows, ratios_of_all = [], []
    for name in results["nozzle"]:
        of = {engine: answered[name] for engine, answered in results.items() if name in answered}
        peers = [peer for peer in PEERS if peer in of]
        ratios = [of["nozzle"][what] / min(of[peer][what] for peer in peers) for what in ("cpu_ms", "wall_ms")]
        ratios_of_all.append(ratios)
        times = [f"{of[engine]['cpu_ms']:.1f} / {of[engine]['wall_ms']:.1f}" if engine in of else "–" for engine in results]
        marked = [f"**{ratio:.2f}**" if ratio > 2 else f"{ratio:.2f}" for ratio in ratios]
        different = [peer for peer in peers if of[peer]["answer"] != of["nozzle"]["answer"]]
        same = f"**differs: {', '.join(different)}**" if different else "yes"
        rows.append([name, f"{of['nozzle']['rows']:,}", *times, *marked, same])
    means = [f"{statistics.geometric_mean(column):.2f}" for column in zip(*ratios_of_all)]
    rows.append(["geometric mean", "", *("" for _ in results), *means, ""])
    head = ["CPU ms / wall ms", "rows", *results, "CPU, of the best peer", "wall, of the best peer", "same answer"]
    return table(head, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=18_800, help="how long the chain is")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each question is repeated")
    parser.add_argument("--least", type=int, default=5, help="how often each question is repeated at least")
    parser.add_argument("--segments", type=int, nargs="*", default=[1_000, 100_000], help="planning with so many segments")
    args = parser.parse_args()
    machine = common.machine()
    common.two_cores()

    folder = dataset(args.blocks)
    files = linked(folder)
    asked_for = questions.parameters(files["logs"], files["transactions"])
    task = {"seconds": args.seconds, "least": args.least}
    with common.nozzle_server(folder) as server:
        of_nozzle = {"engine": "nozzle", "url": common.flight_url(server), "pid": server.pid}
        results = {"nozzle": answers(task | of_nozzle | {"questions": questions.asked("nozzle", asked_for)})}
        memory = server.rss_bytes()
    for peer in PEERS:
        of_peer = {"engine": peer, "files": files, "questions": questions.asked(peer, asked_for)}
        results[peer] = answers(task | of_peer)

    counts = {name: sum_rows(paths) for name, paths in files.items()}
    text = [
        f"## Queries: {counts['logs']:,} logs and {counts['transactions']:,} transactions in "
        f"{len(files['logs'])} files a table, 2 threads, warm",
        machine,
        compared(results),
        f"`nozzle server` had {memory / 1e6:.0f} MB in use after its last answer. Goal: a geometric mean of 1, nothing more than 2 × the best.",
    ]
    if args.segments:
        text += [planning.report(args.segments)]
    common.emit("query", "\n\n".join(text))


def sum_rows(paths) -> int:
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)


if __name__ == "__main__":
    main()
