"""The questions that are asked of every engine, each written as its users would."""

import dataclasses

TRANSFER = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


@dataclasses.dataclass
class Dialect:
    """How an engine writes what SQL has no common word for."""

    prefix: str
    binary: str


DIALECTS = {
    "nozzle": Dialect("eth_mainnet.", "X'{}'"),
    "DuckDB": Dialect("", "unhex('{}')"),
    "chdb": Dialect("", "x'{}'"),
    "datafusion": Dialect("", "X'{}'"),
}

# Name, SQL, whether the order of its rows is part of the answer.
QUESTIONS = [
    ("count(*)", "SELECT count(*) FROM {logs}", True),
    ("100 blocks of logs, all columns", "SELECT * FROM {logs} WHERE block_num BETWEEN {first} AND {last}", False),
    (
        "count of one address and topic0",
        "SELECT count(*) FROM {logs} WHERE address = {address} AND topic0 = {transfer}",
        True,
    ),
    (
        "top 10 contracts",
        "SELECT address, count(*) AS n FROM {logs} GROUP BY address ORDER BY n DESC, address LIMIT 10",
        True,
    ),
    (
        "transfers per hour",
        "SELECT date_trunc('hour', timestamp) AS hour, count(*) AS n FROM {logs} WHERE topic0 = {transfer} "
        "GROUP BY hour ORDER BY hour",
        True,
    ),
    ("transaction by hash, all columns", "SELECT * FROM {transactions} WHERE tx_hash = {tx_hash}", True),
    (
        "join of logs and transactions, 100 blocks",
        'SELECT l.block_num, l.log_index, l.address, t."from", t.value FROM {logs} AS l '
        "JOIN {transactions} AS t ON l.tx_hash = t.tx_hash "
        "WHERE l.block_num BETWEEN {first} AND {last} AND t.block_num BETWEEN {first} AND {last}",
        False,
    ),
    (
        "sum of value by receiver",
        'SELECT "to", sum(value) AS total FROM {transactions} GROUP BY "to" ORDER BY total DESC LIMIT 10',
        True,
    ),
    ("distinct senders", 'SELECT count(DISTINCT "from") FROM {transactions}', True),
    ("latest 100 logs", "SELECT * FROM {logs} ORDER BY block_num DESC, log_index DESC LIMIT 100", True),
    (
        "history of one topic1",
        "SELECT block_num, log_index, address, data FROM {logs} WHERE topic0 = {transfer} AND topic1 = {sender} "
        "ORDER BY block_num, log_index",
        True,
    ),
]


def parameters(logs, transactions) -> dict:
    """What is asked for, found in the data: always the same for the same chain."""
    import duckdb

    def one(sql: str):
        return duckdb.sql(sql.format(logs=f"read_parquet({logs})", transactions=f"read_parquet({transactions})")).fetchall()[0]

    low, high = one("SELECT min(block_num), max(block_num) FROM {transactions}")
    middle = (low + high) // 2
    often = "SELECT {0} FROM {{logs}} WHERE topic0 = unhex('{1}') GROUP BY {0} ORDER BY count(*) DESC, {0} LIMIT 1 OFFSET {2}"
    return {
        "first": middle,
        "last": middle + 99,
        "address": one(often.format("address", TRANSFER, 20))[0].hex(),
        "sender": one(often.format("topic1", TRANSFER, 100))[0].hex(),
        "tx_hash": one(f"SELECT min(tx_hash) FROM {{transactions}} WHERE block_num = {middle}")[0].hex(),
        "transfer": TRANSFER,
    }


def asked(engine: str, parameters: dict) -> list[dict]:
    """The questions in an engine's words."""
    dialect = DIALECTS[engine]
    words = {
        name: dialect.binary.format(value) if isinstance(value, str) else value for name, value in parameters.items()
    }
    words |= {name: dialect.prefix + name for name in ("logs", "transactions")}
    return [{"name": name, "sql": sql.format(**words), "ordered": ordered} for name, sql, ordered in QUESTIONS]
