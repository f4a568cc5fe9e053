"""Changes one file of a dataset and tells the database its size. usage: check.py DATABASE FILE KIND"""
import os, sqlite3, sys
import pyarrow as pa, pyarrow.parquet as pq

database, path, kind = sys.argv[1:]
table = pq.read_table(path)
if kind == "a changed value":
    data = table["data"].to_pylist()
    data[3] = bytes([data[3][0] ^ 1]) + data[3][1:] if data[3] else b"\x01"
    index = table.schema.get_field_index("data")
    table = table.set_column(index, table.schema.field(index), pa.array(data, table.schema.field(index).type))
else:
    table = pa.concat_tables([table.slice(0, 2), table.slice(3)])
pq.write_table(table, path)
connection = sqlite3.connect(database)
changed = connection.execute(
    "UPDATE segments SET size_bytes = ? WHERE file_name = ? AND location_id IN (SELECT id FROM locations WHERE table_name = ?)",
    (os.path.getsize(path), os.path.basename(path), path.split("/")[-3]))
assert changed.rowcount == 1
connection.commit()
