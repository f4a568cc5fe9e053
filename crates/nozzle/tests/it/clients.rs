//! The query servers as the tools of their users see them: pyarrow, ADBC, and DuckDB through it.

use nozzle_core::{BlockRange, range::MAX_BLOCK};
use nozzle_metadata::{Commit, MetadataStore, Scan};

use crate::{
    harness::{Db, NOT_MERGED, Place, python, synthetic},
    servers::{Server, extracted},
};
use nozzle_testkit::replay::Recording;

const FLIGHT: &str = r#"
import sys
import pyarrow as pa
from pyarrow import flight
client = flight.connect(sys.argv[1])
table = client.do_get(flight.Ticket("SELECT * FROM eth.blocks ORDER BY block_num LIMIT 10")).read_all()
assert table.num_rows == 10 and len(table.to_pandas()) == 10
assert table.schema.field("hash").type == pa.binary(32), table.schema
info = client.get_flight_info(flight.FlightDescriptor.for_command("SELECT count(*) AS n FROM eth.logs"))
assert info.schema.names == ["n"]
assert client.do_get(info.endpoints[0].ticket).read_all().to_pylist() == [{"n": 354}]
empty = client.do_get(flight.Ticket("SELECT hash, miner FROM eth.blocks WHERE false")).read_all()
assert empty.num_rows == 0 and empty.schema.names == ["hash", "miner"]
texts = client.do_get(flight.Ticket("SELECT lower('AB') AS t, arrow_typeof(hash) AS h FROM eth.blocks LIMIT 1")).read_all()
assert texts.schema.field("t").type == pa.string(), texts.schema
for sql, error in [("SELEC 1", pa.ArrowInvalid), ("SELECT nothing FROM eth.blocks", pa.ArrowInvalid),
                   ("SELECT * FROM eth.nothing", KeyError), ("DROP TABLE eth.blocks", pa.ArrowInvalid)]:
    for call in (lambda: client.do_get(flight.Ticket(sql)).read_all(),
                 lambda: client.get_flight_info(flight.FlightDescriptor.for_command(sql))):
        try:
            call()
        except error:
            continue
        raise SystemExit(f"{sql} was answered")
assert {action.type for action in client.list_actions()} == {"CreatePreparedStatement", "ClosePreparedStatement"}
listed = {tuple(info.descriptor.path): info for info in client.list_flights()}
assert (b"eth", b"logs") in listed and (b"eth__0_0_0", b"logs") in listed, listed.keys()
info = listed[(b"eth", b"blocks")]
assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == 60
assert client.get_flight_info(info.descriptor).schema == info.schema
for call in (lambda: client.do_action(flight.Action("Cancel", b"")), lambda: client.do_action(flight.Action("BeginTransaction", b""))):
    try:
        list(call())
        raise SystemExit("it was done")
    except NotImplementedError:
        pass
try:
    list(client.do_action(flight.Action("CreatePreparedStatement", b"garbage")))
    raise SystemExit("garbage was prepared")
except pa.ArrowInvalid:
    pass
# There are no transactions, and so no query is part of one.
name, query = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery", b"SELECT 1 AS n"
for fields, is_answered in [(b"", True), (b"\x12\x01x", False)]:
    value = b"\x0a" + bytes([len(query)]) + query + fields
    command = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
    for call in (lambda: client.get_flight_info(flight.FlightDescriptor.for_command(command)),
                 lambda: client.do_get(flight.Ticket(command)).read_all()):
        try:
            call()
            assert is_answered, "it is part of a transaction"
        except NotImplementedError:
            assert not is_answered
print("ok")
"#;

const FLIGHT_SQL: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as dbapi
with dbapi.connect(sys.argv[1], autocommit=True) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT block_num, hash FROM eth.blocks WHERE block_num < 3 ORDER BY block_num")
        table = cursor.fetch_arrow_table()
        assert table.column("block_num").to_pylist() == [0, 1, 2], table
        hash = table.column("hash").to_pylist()[2]
        # Parameters, also of bytes, and of another type than the column's.
        cursor.execute("SELECT block_num FROM eth.blocks WHERE hash = $1 AND block_num < $2", (hash, 50))
        assert cursor.fetchall() == [(2,)]
        cursor.execute("SELECT $1 AS a, $2 AS b", ("x", None))
        assert cursor.fetchall() == [("x", None)]
        cursor.execute("SELECT count(*) AS n FROM eth.logs WHERE block_num BETWEEN $1 AND $2", (1, 3))
        assert cursor.fetchall() == [(18,)]
        for sql, values in [("SELECT nothing FROM eth.blocks", ()), ("SELECT $1 AS a", ()), ("SELECT $1 AS a, $2 AS b", (1,))]:
            try:
                cursor.execute(sql, values)
                cursor.fetchall()
            except dbapi.Error:
                continue
            raise SystemExit(f"{sql} with {values} was answered")
        cursor.execute("SELECT block_num, gas_used FROM eth.blocks ORDER BY block_num")
        assert len(cursor.fetch_df()) == 60
        cursor.execute("SELECT block_num, gas_used FROM eth.blocks ORDER BY block_num")
        assert cursor.fetch_polars().height == 60
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Nozzle" and info["vendor_version"], info
    assert info["vendor_arrow_version"] == sys.argv[2], info
    assert connection.adbc_get_table_types() == ["TABLE"]
    objects = connection.adbc_get_objects(depth="columns", db_schema_filter="eth").read_all().to_pylist()
    [catalog] = objects
    [schema] = catalog["catalog_db_schemas"]
    tables = {table["table_name"]: table for table in schema["db_schema_tables"]}
    assert set(tables) == {"blocks", "transactions", "logs", "withdrawals"}, set(tables)
    assert "topic0" in {column["column_name"] for column in tables["logs"]["table_columns"]}
    assert connection.adbc_get_table_schema("blocks", db_schema_filter="eth").field("hash").type.byte_width == 32
print("ok")
"#;

#[test]
fn pyarrow_reads_over_arrow_flight() {
    for db in [Db::Sqlite, Db::Postgres] {
        let place = extracted(db);
        let server = Server::start(&place, &["--flight-server"]);
        assert!(server.jsonl.is_none() && server.admin.is_none());
        assert_eq!(python(FLIGHT, &[server.flight()]).trim(), "ok");
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn adbc_reads_over_flight_sql() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &[]);
    assert_eq!(python(FLIGHT_SQL, &[server.flight(), arrow::ARROW_VERSION]).trim(), "ok");
}

const PREPARED: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as dbapi, pyarrow as pa
sql = "SELECT block_num FROM eth.blocks WHERE block_num BETWEEN $1 AND $2 ORDER BY block_num"
with dbapi.connect(sys.argv[1], autocommit=True) as connection:
    for _ in range(2):
        with connection.cursor() as cursor:
            assert cursor.adbc_prepare(sql).types == [pa.uint64(), pa.uint64()]
            # Prepared once, asked with other values, also after a refusal.
            for first, last in [(3, 5), (57, 70), (9, 8)]:
                cursor.execute(sql, (first, last))
                assert cursor.fetchall() == [(n,) for n in range(first, min(last, 59) + 1)]
                for refused, why in [(lambda: cursor.executemany(sql, [(1, 2), (3, 4)]), "executemany"),
                                     (lambda: cursor.execute(sql, pa.table({"a": [1, 2], "b": [3, 4]})), "one row")]:
                    try:
                        refused()
                    except dbapi.Error as error:
                        assert why in str(error), error
                        continue
                    raise SystemExit("several rows of parameters were taken")
    try:
        cursor.execute(sql, (1, 2))
        raise SystemExit("a closed statement was run")
    except dbapi.Error:
        pass
print("ok")
"#;

#[test]
fn a_prepared_statement_is_run_again_until_it_is_closed() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--flight-server"]);
    assert_eq!(python(PREPARED, &[server.flight()]).trim(), "ok");
}

const POLARS: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as dbapi, polars as pl
with dbapi.connect(sys.argv[1], autocommit=True) as connection:
    logs = pl.read_database("SELECT block_num, address, topic0, timestamp FROM eth.logs", connection)
    assert logs.height == 354 and logs.schema["address"] == pl.Binary, logs.schema
    assert logs.schema["timestamp"] == pl.Datetime("us", "UTC"), logs.schema
    counted = pl.read_database("SELECT block_num, count(*) AS n FROM eth.logs GROUP BY block_num", connection)
    assert counted.sort("block_num").rows() == logs.group_by("block_num").len().sort("block_num").rows()
    some = pl.read_database("SELECT hash FROM eth.blocks WHERE block_num < $1", connection, execute_options={"parameters": (3,)})
    assert some.height == 3 and all(len(hash) == 32 for hash in some["hash"])
    parts = pl.read_database("SELECT value FROM generate_series(1, 100000)", connection, iter_batches=True, batch_size=1000)
    assert sum(part.height for part in parts) == 100_000
    empty = pl.read_database("SELECT hash, value FROM eth.transactions, eth.blocks WHERE false", connection)
    assert empty.shape == (0, 2) and empty.columns == ["hash", "value"]
print("ok")
"#;

#[test]
fn polars_reads_the_server_through_adbc() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--flight-server"]);
    assert_eq!(python(POLARS, &[server.flight()]).trim(), "ok");
}

const STREAMS: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as dbapi, pyarrow as pa
from pyarrow import flight
client = flight.connect(sys.argv[1])
sql = "SELECT block_num, hash FROM eth.blocks"
header = flight.FlightCallOptions(headers=[(b"nozzle-stream", b"true")])
for text, options in [(f"{sql} SETTINGS stream = true", None), (sql, header)]:
    descriptor = flight.FlightDescriptor.for_command(text)
    info = client.get_flight_info(descriptor, options)
    assert info.schema.names == ["block_num", "hash"], info.schema
    assert client.get_schema(descriptor, options).schema == info.schema
    reader = client.do_get(info.endpoints[0].ticket, options)
    assert reader.schema == info.schema
    rows = 0
    while rows < 60:
        rows += reader.read_chunk().data.num_rows
    reader.cancel()
    # What cannot go on block by block is refused before it is begun.
    for text in ["SELECT count(*) AS n FROM eth.blocks", "SELECT 1 AS n"]:
        descriptor = flight.FlightDescriptor.for_command(text if options else f"{text} SETTINGS stream = true")
        for ask in (client.get_flight_info, client.get_schema):
            try:
                ask(descriptor, options)
                raise SystemExit(f"{text} was planned")
            except pa.ArrowInvalid:
                pass
with dbapi.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    # It asks for all three: a prepared statement, where its rows are, and the rows.
    cursor.execute(f"{sql} SETTINGS stream = true")
    reader = cursor.fetch_record_batch()
    assert reader.schema == info.schema
    rows = 0
    while rows < 60:
        rows += reader.read_next_batch().num_rows
    assert rows == 60
    cursor.adbc_cancel()
print("ok")
"#;

/// Clients of Flight SQL ask for the columns before they ask for the rows.
#[test]
fn a_stream_has_columns_before_it_has_rows() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &[]);
    assert_eq!(python(STREAMS, &[server.flight()]).trim(), "ok");
    let schema = format!("{}/schema", server.admin());
    let query = r#"{"sql_query": "SELECT block_num FROM eth.logs SETTINGS stream = true"}"#;
    let asked = ["-sS", "-H", "content-type: application/json", "--data", query, &schema];
    let said = std::process::Command::new("curl").args(asked).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["networks"], serde_json::json!(["chain-1337"]), "{said}");
    assert_eq!(said["schema"]["arrow"]["fields"][0]["name"], "block_num", "{said}");
}

const LOGIN: &str = r#"
import sys
from pyarrow import flight
client = flight.connect(sys.argv[1])
sql = flight.Ticket("SELECT 1 AS n")
try:
    client.do_get(sql).read_all()
    raise SystemExit("everybody was let in")
except flight.FlightUnauthenticatedError:
    pass
try:
    client.authenticate_basic_token("ana", "wrong")
    raise SystemExit("a wrong password was taken")
except flight.FlightUnauthenticatedError:
    pass
bearer = client.authenticate_basic_token("ana", "topsecret")
assert bearer == (b"authorization", b"Bearer topsecret"), bearer
options = flight.FlightCallOptions(headers=[bearer])
assert client.do_get(sql, options).read_all().to_pylist() == [{"n": 1}]
import adbc_driver_flightsql.dbapi as dbapi
with dbapi.connect(sys.argv[1], db_kwargs={"username": "ana", "password": "topsecret"}, autocommit=True) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS n")
        assert cursor.fetchall() == [(1,)]
print("ok")
"#;

#[test]
fn a_login_is_a_token() {
    let tokens = "auth = { tokens = [{ name = \"ana\", token = \"topsecret\", role = \"query\" }] }";
    let place = Place::configured(Db::Sqlite, tokens);
    let server = Server::start(&place, &["--flight-server"]);
    assert_eq!(python(LOGIN, &[server.flight()]).trim(), "ok");
}

const DUCKDB: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as dbapi, duckdb
with dbapi.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT block_num, address, topic0, data, timestamp FROM eth.logs")
    logs = cursor.fetch_record_batch()
    per_block = duckdb.sql("SELECT block_num, count(*) AS n, count(DISTINCT address) AS a FROM logs GROUP BY block_num ORDER BY block_num").fetchall()
    cursor.execute("SELECT block_num, count(*) AS n, count(DISTINCT address) AS a FROM eth.logs GROUP BY block_num ORDER BY block_num")
    assert per_block == cursor.fetchall() and len(per_block) == 59, per_block
    cursor.execute("SELECT evm_decode_type(evm_encode_type(make_array('1', '2'), 'uint256[]'), 'uint256[]') AS l, named_struct('a', 1, 'b', X'00ff') AS s")
    nested = cursor.fetch_record_batch()
    assert duckdb.sql("SELECT l[2], s.a, s.b FROM nested").fetchall() == [("2", 1, b"\x00\xff")]
print("ok")
"#;

#[test]
fn duckdb_reads_the_server_through_adbc() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--flight-server"]);
    assert_eq!(python(DUCKDB, &[server.flight()]).trim(), "ok");
}

const LARGE: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as dbapi, pyarrow as pa
from adbc_driver_flightsql import DatabaseOptions
with dbapi.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT arrow_cast(make_array(1, 2), 'LargeList(Int64)') AS l, arrow_cast(make_array('a'), 'LargeList(LargeUtf8)') AS t")
    table = cursor.fetch_arrow_table()
    assert table.schema.field("l").type == pa.large_list(table.schema.field("l").type.value_field), table.schema
    assert table.to_pylist() == [{"l": [1, 2], "t": ["a"]}], table.to_pylist()
    # A row is never cut, and this driver takes 16 MiB where it is not told otherwise: an error, and no part of it.
    cursor.execute("SELECT repeat('x', value) AS text FROM generate_series(20000000, 20000000)")
    try:
        cursor.fetchall()
        raise SystemExit("20 MB were taken")
    except dbapi.Error as error:
        assert "larger than max" in str(error), error
options = {DatabaseOptions.WITH_MAX_MSG_SIZE.value: str(64 << 20)}
with dbapi.connect(sys.argv[1], options, autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT repeat('x', value) AS text FROM generate_series(20000000, 20000000)")
    [(text,)] = cursor.fetchall()
    assert len(text) == 20_000_000
print("ok")
"#;

#[test]
fn large_lists_and_large_values_come_over_adbc() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--flight-server"]);
    assert_eq!(python(LARGE, &[server.flight()]).trim(), "ok");
}

const GAPS: &str = r#"
import json, sys
import adbc_driver_flightsql.dbapi as dbapi, pyarrow as pa
from pyarrow import flight
client = flight.connect(sys.argv[1])
sql = "SELECT block_num FROM eth.blocks ORDER BY block_num"
expected = {"eth.blocks": [{"start": 10, "end": 19}]} if sys.argv[2] == "missing" else None
def gaps(schema):
    named = (schema.metadata or {}).get(b"nozzle.gaps")
    return named and json.loads(named)
info = client.get_flight_info(flight.FlightDescriptor.for_command(sql))
table = client.do_get(info.endpoints[0].ticket).read_all()
assert (gaps(info.schema), gaps(table.schema)) == (expected, expected), (info.schema, table.schema)
assert table.num_rows == (20 if expected else 30)
try:
    client.do_get(flight.Ticket(sql + " SETTINGS complete = true")).read_all()
    assert not expected, "it was answered"
except pa.ArrowInvalid as error:
    assert expected and "10 to 19" in str(error), error
with dbapi.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute(sql)
    assert cursor.fetch_arrow_table().num_rows == table.num_rows
print("ok")
"#;

/// Takes the segments with a block out of a dataset.
pub async fn take_out(metadata: &dyn MetadataStore, dataset: &str, block: u64) {
    let dataset = metadata.dataset(&dataset.parse().unwrap()).await.unwrap().unwrap();
    let revision = metadata.revisions(dataset.id).await.unwrap().remove(0);
    let all = BlockRange::new(0, MAX_BLOCK).unwrap();
    let lease = metadata.claim(revision.id, &[all], "a test").await.unwrap().granted[0];
    let sequence = metadata.sequence().await.unwrap();
    let mut replaced = vec![];
    for location in &revision.locations {
        let scan = Scan { location: location.id, sequence, range: BlockRange::single(block) };
        replaced.extend(metadata.segments(&scan).await.unwrap().iter().map(|segment| segment.id));
    }
    metadata.commit(&Commit { lease: lease.id, added: vec![], replaced }).await.unwrap();
    metadata.release(&[lease.id]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_blocks_that_are_missing() {
    for db in [Db::Sqlite, Db::Postgres] {
        let node = synthetic(Recording::synthetic(30, 3, 2, 41), 0);
        let place = Place::configured(db, NOT_MERGED);
        place.define("eth", "chain-1337", node.url());
        for end in ["9", "19", "29"] {
            place.ok(&["dump", "--dataset", "eth", "-e", end]);
        }
        let server = Server::start(&place, &["--flight-server", "--jsonl-server"]);
        let count =
            "SELECT count(*) AS n FROM eth.logs AS l JOIN eth.blocks AS b ON l.block_num = b.block_num";
        let asked = |sql: &str| server.post_with(sql, &["-i"]).1;
        assert!(!asked(count).contains("nozzle-gaps"));
        let metadata = place.metadata().await;
        take_out(metadata.as_ref(), "eth", 15).await;
        let named =
            r#"nozzle-gaps: {"eth.blocks":[{"end":19,"start":10}],"eth.logs":[{"end":19,"start":10}]}"#;
        assert!(asked(count).contains(named), "{}", asked(count));
        assert!(!asked("SELECT 1 AS one").contains("nozzle-gaps"));
        let complete = format!("{count} SETTINGS complete = true");
        let (status, body) = server.post(&complete);
        assert!(status == 400 && body.contains("`eth.logs` lacks the blocks 10 to 19"), "{status} {body}");
        let said = place.ok(&["query", count]);
        assert!(said.stderr.contains("note: `eth.blocks` lacks the blocks 10 to 19;"), "{}", said.stderr);
        assert_eq!(python(GAPS, &[server.flight(), "missing"]).trim(), "ok");
        place.ok(&["dump", "--dataset", "eth", "-e", "29"]);
        assert!(!asked(count).contains("nozzle-gaps"));
        assert_eq!(server.post(&complete).0, 200);
        assert_eq!(python(GAPS, &[server.flight(), "whole"]).trim(), "ok");
        assert!(place.ok(&["query", count]).stderr.is_empty());
    }
}
