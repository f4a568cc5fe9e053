"""One engine answers all questions: a process of its own, so that its processor time is its own.

Reads a JSON object from standard input, {"engine", "files": {table: [path]} or "url" and "pid",
"questions": [{"name", "sql", "ordered"}], "seconds", "least"}, and writes one line of JSON for each question:
{"name", "rows", "answer", "cpu_ms", "wall_ms", "times"}. The first time each question is asked is not measured.
"""

import datetime
import decimal
import hashlib
import json
import os
import statistics
import sys
import time

import pyarrow as pa

from common import cpu_s

THREADS = 2
MOST = 200


def duckdb_engine(task):
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}; SET parquet_metadata_cache = true; SET TimeZone = 'UTC'")
    for table, files in task["files"].items():
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files})")
    return lambda sql: connection.sql(sql).to_arrow_table(), lambda answer: answer


def chdb_engine(task):
    from chdb.session import Session

    session = Session()
    session.query("CREATE DATABASE bench ENGINE = Atomic")
    session.query("USE bench")
    session.query(f"SET max_threads = {THREADS}, output_format_arrow_string_as_string = 0")
    for table, files in task["files"].items():
        names = ",".join(os.path.basename(file) for file in files)
        folder = os.path.dirname(files[0])
        session.query(f"CREATE VIEW {table} AS SELECT * FROM file('{folder}/{{{names}}}', Parquet)")
    return lambda sql: session.query(sql, "ArrowStream"), lambda answer: pa.ipc.open_stream(answer.bytes()).read_all()


def datafusion_engine(task):
    import datafusion

    config = datafusion.SessionConfig().with_target_partitions(THREADS)
    context = datafusion.SessionContext(config)
    for table, files in task["files"].items():
        context.register_parquet(table, os.path.dirname(files[0]))
    return lambda sql: context.sql(sql).collect(), lambda batches: pa.Table.from_batches(batches)


def nozzle_engine(task):
    from pyarrow import flight

    client = flight.connect(task["url"])
    return lambda sql: client.do_get(flight.Ticket(sql)).read_all(), lambda answer: answer


ENGINES = {"DuckDB": duckdb_engine, "chdb": chdb_engine, "datafusion": datafusion_engine, "nozzle": nozzle_engine}


def plain(value) -> str:
    """A value as text, the same whichever engine it is from."""
    match value:
        case None:
            return "-"
        case bool():
            return str(int(value))
        case int():
            return str(value)
        case bytes():
            return value.hex()
        case decimal.Decimal():
            return str(int(value))
        case datetime.datetime():
            # Always UTC; some engines say so.
            return str(int(value.replace(tzinfo=datetime.UTC).timestamp() * 1_000_000))
        # chdb has no list that is null.
        case []:
            return "-"
        case list():
            return "[" + ",".join(map(plain, value)) + "]"
        case dict():
            return "(" + ",".join(map(plain, value.values())) + ")"
    return str(value)


def fingerprint(table: pa.Table, ordered: bool) -> str:
    rows = [" ".join(plain(value) for value in row) for row in zip(*(column.to_pylist() for column in table.columns))]
    if not ordered:
        rows.sort()
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def measure(ask, sql: str, pid: int, seconds: float, least: int) -> dict:
    cpu_ms, wall_ms, end = [], [], time.perf_counter() + seconds
    while len(wall_ms) < least or (time.perf_counter() < end and len(wall_ms) < MOST):
        cpu, wall = cpu_s(pid), time.perf_counter()
        ask(sql)
        wall_ms.append((time.perf_counter() - wall) * 1000)
        cpu_ms.append((cpu_s(pid) - cpu) * 1000)
    return {"cpu_ms": statistics.median(cpu_ms), "wall_ms": statistics.median(wall_ms), "times": len(wall_ms)}


def main():
    task = json.load(sys.stdin)
    ask, to_table = ENGINES[task["engine"]](task)
    for question in task["questions"]:
        answer = to_table(ask(question["sql"]))
        result = {"name": question["name"], "rows": answer.num_rows, "answer": fingerprint(answer, question["ordered"])}
        del answer
        result |= measure(ask, question["sql"], task.get("pid", os.getpid()), task["seconds"], task["least"])
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
