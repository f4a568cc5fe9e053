"""Sums of all rows of Parquet files: {name: {table: [file, …]}} of the file named on the command line
becomes a line of JSON {table: [rows, sum of their hashes]} for each name, in its order. A wrong, missing
or doubled row, or a value in another row, gives other sums."""

import json
import sys

import duckdb

with open(sys.argv[1]) as file:
    wanted = json.load(file)

for name, tables in wanted.items():
    sums = {}
    for table, files in tables.items():
        if not files:
            sums[table] = [0, "0"]
            continue
        query = "SELECT count(*), sum(hash(t)::HUGEINT)::VARCHAR FROM read_parquet(?) AS t"
        sums[table] = list(duckdb.execute(query, [files]).fetchone())
    print(json.dumps({"name": name, "sums": sums}))
