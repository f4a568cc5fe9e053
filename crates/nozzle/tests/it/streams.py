"""A client of a stream over Arrow Flight: URL, SQL, network, and the blocks to resume from, newest first, as JSON.

Does not read until a line `NUMBER HASH` asks for it; then up to the range that this block ends, and prints what it has.
"""

import json
import signal
import sys

from pyarrow import flight

url, sql, network, resume = *sys.argv[1:4], json.loads(sys.argv[4])
signal.alarm(400)
headers = [(b"nozzle-stream", b"true")]
if resume:
    blocks = [{"number": number, "hash": hash} for number, hash in resume]
    headers.append((b"nozzle-resume", json.dumps({network: blocks}).encode()))
reader = flight.connect(url).do_get(flight.Ticket(sql), flight.FlightCallOptions(headers=headers))
print("there", flush=True)

# The last block of each complete range, oldest first; rows as blocks and what else they have.
cursors, rows, reorgs, open_from = resume[::-1], [], 0, None


def take(chunk):
    """Takes in a message, and gives the block that a range ends with where it is complete."""
    global cursors, rows, reorgs, open_from
    told = json.loads(chunk.app_metadata.to_pybytes())
    if not told["ranges"]:
        assert chunk.data.num_rows == 0 and not told["ranges_complete"], told
        return None
    [range] = told["ranges"]
    start, end = range["numbers"]["start"], range["numbers"]["end"]
    assert range["network"] == network, range
    if open_from is None:
        if cursors:
            last, hash = cursors[-1]
            assert start <= last + 1, f"a gap between {last} and {start}"
            reorgs += start <= last
            assert start <= last or range["prev_hash"] == hash, f"the ranges do not link at {start}"
        rows = [row for row in rows if row[0] < start]
        cursors = [block for block in cursors if block[0] < start]
        open_from = start
    assert open_from == start, f"{start} begins within {open_from}"
    if told["ranges_complete"]:
        assert chunk.data.num_rows == 0
        open_from = None
        cursors.append([end, range["hash"]])
        return cursors[-1]
    for number, value in zip(*(column.to_pylist() for column in chunk.data.columns[:2])):
        assert start <= number <= end
        rows.append([number, "0x" + value.hex() if isinstance(value, bytes) else len(value)])
    return None


for line in sys.stdin:
    number, hash = line.split()
    try:
        while take(reader.read_chunk()) != [int(number), hash]:
            pass
        print(json.dumps({"rows": rows, "cursors": cursors, "reorgs": reorgs}), flush=True)
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
