"""Planning: what a query costs before the first file is opened, with few and with many segments.

A small real dataset is copied, and its metadata database is given more segments above the real ones: rows like
the real ones, which name the real files again. So 100 real blocks can be asked for, and the rest only planned.
"""

import json
import shutil
import sqlite3
import subprocess
import sys

import common
from common import NOZZLE, PLACE, run, say, table

REAL_BLOCKS = 200
COLUMNS = "location_id, prev_hash, hash, file_name, size_bytes, row_count, e_tag, object_version, added_seq"

QUERIES = [
    ("nothing: `SELECT 1`", "SELECT 1"),
    ("EXPLAIN of 100 blocks", "EXPLAIN SELECT count(*), max(data) FROM eth_mainnet.logs WHERE block_num BETWEEN 50 AND 149"),
    ("EXPLAIN of all blocks", "EXPLAIN SELECT count(*), max(data) FROM eth_mainnet.logs"),
    ("100 blocks, run", "SELECT count(*), max(data) FROM eth_mainnet.logs WHERE block_num BETWEEN 50 AND 149"),
]


def real():
    """A folder with a small dataset in many segments; extracted the first time and kept."""
    folder = PLACE / "data" / "planning"
    done = folder / "complete"
    if not done.exists():
        common.fresh(folder)
        with common.replay(REAL_BLOCKS) as node:
            run([NOZZLE, "dump", "--rpc-url", node.lines[0], "--partition-size-mb", 1], cwd=folder)
        done.touch()
    return folder


def grown(count: int):
    """The same with so many live segments in each table. The copy shares the files."""
    source, folder = real(), common.fresh(PLACE / "planning")
    shutil.copytree(source / ".nozzle", folder / ".nozzle", ignore=shutil.ignore_patterns("data"))
    database = sqlite3.connect(folder / ".nozzle/metadata.db")
    database.execute("PRAGMA synchronous = off")
    with database:
        for (location,) in database.execute("SELECT id FROM locations").fetchall():
            add_segments(database, location, count)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("ANALYZE")
    database.close()
    return folder


def add_segments(database, location: int, count: int):
    where = f"location_id = {location} AND replaced_seq IS NULL"
    ids, ends = zip(*database.execute(f"SELECT id, end_block FROM segments WHERE {where} ORDER BY start_block"))
    step = REAL_BLOCKS // len(ids)
    for at in range(len(ids), count):
        like, start = ids[at % len(ids)], ends[-1] + 1 + (at - len(ids)) * step
        added = database.execute(
            f"INSERT INTO segments (start_block, end_block, {COLUMNS}) SELECT ?, ?, {COLUMNS} FROM segments WHERE id = ?",
            (start, start + step - 1, like),
        )
        database.execute("INSERT INTO footers SELECT ?, footer FROM footers WHERE segment_id = ?", (added.lastrowid, like))


def measured(count: int) -> list[dict]:
    say(f"planning with {count} segments")
    with common.nozzle_server(grown(count)) as server:
        asked = [{"name": name, "sql": sql, "ordered": True} for name, sql in QUERIES]
        task = {"engine": "nozzle", "url": common.flight_url(server), "pid": server.pid, "questions": asked}
        task |= {"seconds": 2.0, "least": 5}
        child = subprocess.run(
            [sys.executable, common.HERE / "engines.py"], input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True
        )
        return [json.loads(line) for line in child.stdout.splitlines()]


def report(counts: list[int]) -> str:
    by_count = {count: measured(count) for count in counts}
    rows = [
        [name, *(f"{of['cpu_ms']:.1f} / {of['wall_ms']:.1f}" for of in (by_count[count][at] for count in counts))]
        for at, (name, _) in enumerate(QUERIES)
    ]
    title = "### Planning, over Flight: CPU ms / wall ms"
    goal = "Goal: planning under 10 ms at 1,000 segments and under 50 ms at 100,000."
    return "\n\n".join([title, table(["", *(f"{count:,} segments a table" for count in counts)], rows), goal])
