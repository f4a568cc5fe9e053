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
elif kind.startswith("changed: "):
    # The third value of a column, by one bit or by one.
    name = kind.removeprefix("changed: ")
    index = table.schema.get_field_index(name)
    field = table.schema.field(index)
    if pa.types.is_fixed_size_binary(field.type):
        values = table[name].to_pylist()
        values[2] = bytes([values[2][0] ^ 1]) + values[2][1:]
        column = pa.array(values, field.type)
    else:
        values = table[name].cast(pa.int64()).to_pylist()
        values[2] += 1
        column = pa.array(values, pa.int64()).cast(field.type)
    table = table.set_column(index, field, column)
elif kind == "a missing row":
    table = pa.concat_tables([table.slice(0, 2), table.slice(3)])
else:
    # As an older version wrote it: without the columns after the colon.
    table = table.drop_columns(kind.removeprefix("without: ").split(" "))
# Lists as the program writes them.
pq.write_table(table, path, use_compliant_nested_type=False)
connection = sqlite3.connect(database)
changed = connection.execute(
    "UPDATE segments SET size_bytes = ? WHERE file_name = ? AND location_id IN (SELECT id FROM locations WHERE table_name = ?)",
    (os.path.getsize(path), os.path.basename(path), path.split("/")[-3]))
assert changed.rowcount == 1
if kind.startswith("without"):
    file = open(path, "rb").read()
    footer = file[-8 - int.from_bytes(file[-8:-4], "little"):-8]
    connection.execute(
        "UPDATE footers SET footer = ? WHERE segment_id = (SELECT s.id FROM segments s JOIN locations l ON l.id = s.location_id"
        " WHERE s.file_name = ? AND l.table_name = ?)",
        (footer, os.path.basename(path), path.split("/")[-3]))
connection.commit()
