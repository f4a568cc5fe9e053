"""Counts and sums of Nozzle's files by three readers. usage: readers.py table=file,file …"""
import json, sys
import duckdb, polars as pl, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq

files = {name: paths.split(",") for name, paths in (arg.split("=", 1) for arg in sys.argv[1:])}
SUMS = {"gas_used": ("transactions", "gas_used"), "value": ("transactions", "value"), "log_index": ("logs", "log_index")}
answer = {"duckdb": {}, "polars": {}, "pyarrow": {}, "pandas": []}

for table, paths in files.items():
    count = duckdb.sql(f"SELECT count(*), count(DISTINCT _block_num) FROM read_parquet({paths!r})").fetchall()[0]
    answer["duckdb"][table] = str(count[0])
    frame = pl.read_parquet(paths)
    assert frame["_block_num"].is_sorted()
    answer["polars"][table] = str(frame.height)
    arrow = pa.concat_tables([pq.read_table(path) for path in paths])
    answer["pyarrow"][table] = str(arrow.num_rows)
    assert len(arrow.to_pandas()) == arrow.num_rows
    answer["pandas"].append(table)
for name, (table, column) in SUMS.items():
    paths = files[table]
    answer["duckdb"][name] = str(duckdb.sql(f"SELECT sum({column}) FROM read_parquet({paths!r})").fetchall()[0][0])
    answer["polars"][name] = str(pl.read_parquet(paths)[column].sum())
    arrow = pa.concat_tables([pq.read_table(path) for path in paths])
    answer["pyarrow"][name] = str(pc.sum(arrow[column]).as_py())
# Time functions work: the stamps are zoned microseconds.
hours = duckdb.sql(f"SELECT count(DISTINCT date_trunc('hour', timestamp)) FROM read_parquet({files['blocks']!r})")
assert hours.fetchall()[0][0] > 0
print(json.dumps(answer))
