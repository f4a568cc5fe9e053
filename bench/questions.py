"""The questions that are asked of every engine, each written as its users would."""

import dataclasses

TRANSFER = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
APPROVAL = "8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925"
SWAP = "d78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822"

DECODE_TRANSFER = (
    "SELECT evm_decode_log(topic1, topic2, topic3, data, "
    "'Transfer(address indexed from, address indexed to, uint256 value)') AS t FROM {logs} WHERE topic0 = {transfer}"
)
DECODE_SWAP = (
    "SELECT evm_decode_log(topic1, topic2, topic3, data, 'Swap(address indexed sender, uint256 amount0In, "
    "uint256 amount1In, uint256 amount0Out, uint256 amount1Out, address indexed to)') AS s FROM {logs} WHERE topic0 = {swap}"
)
RECEIVERS = "SELECT {} AS receiver, count(*) AS n FROM {{logs}} WHERE topic0 = {{transfer}} GROUP BY receiver ORDER BY n DESC, receiver LIMIT 10"


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

# Name, SQL, whether the order of its rows is part of the answer. Where engines need words of their own there is
# one text for each; those that have none cannot be asked.
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
    (
        "transfers of one token",
        "SELECT block_num, log_index, topic1, topic2, data FROM {logs} WHERE address = {address} AND topic0 = {transfer} "
        "ORDER BY block_num, log_index",
        True,
    ),
    (
        "receivers of transfers, decoded",
        {
            "nozzle": f"SELECT t['to'] AS receiver, count(*) AS n FROM ({DECODE_TRANSFER}) GROUP BY receiver "
            "ORDER BY n DESC, receiver LIMIT 10",
            "DuckDB": RECEIVERS.format("unhex(substr(hex(topic2), 25))"),
            "chdb": RECEIVERS.format("substring(topic2, 13)"),
            "datafusion": RECEIVERS.format("decode(substr(encode(topic2, 'hex'), 25), 'hex')"),
        },
        True,
    ),
    (
        "amounts of one token, decoded",
        {
            "nozzle": f"SELECT u256_to_decimal(sum_u256(t['value'])) AS total FROM ({DECODE_TRANSFER} AND address = {{address}})",
            "chdb": "SELECT toDecimal128(sum(reinterpretAsUInt256(reverse(data))), 0) AS total FROM {logs} "
            "WHERE topic0 = {transfer} AND address = {address}",
        },
        True,
    ),
    (
        "amounts of swaps, decoded",
        {
            "nozzle": f"SELECT u256_to_decimal(sum_u256(s['amount0In'])) AS a, u256_to_decimal(sum_u256(s['amount1Out'])) AS b FROM ({DECODE_SWAP})",
            "chdb": "SELECT toDecimal128(sum(reinterpretAsUInt256(reverse(substring(data, 1, 32)))), 0) AS a, "
            "toDecimal128(sum(reinterpretAsUInt256(reverse(substring(data, 97, 32)))), 0) AS b FROM {logs} WHERE topic0 = {swap}",
        },
        True,
    ),
    (
        "two events of one account",
        "SELECT count(*) FROM {logs} WHERE topic0 IN ({transfer}, {approval}) AND topic2 = {sender}",
        True,
    ),
    ("logs of one address, by a 0x literal", "SELECT count(*), min(block_num), max(block_num) FROM {logs} WHERE address = {address_text}", True),
    ("the 10 fullest blocks", "SELECT block_num, count(*) AS n FROM {logs} GROUP BY block_num ORDER BY n DESC, block_num LIMIT 10", True),
    ("gas by type of transaction", "SELECT type, count(*) AS n, sum(gas_used) AS gas FROM {transactions} GROUP BY type ORDER BY type", True),
    ("failed transactions that paid", "SELECT count(*) FROM {transactions} WHERE NOT status AND value > 0", True),
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
        "approval": APPROVAL,
        "swap": SWAP,
    }


def asked(engine: str, parameters: dict) -> list[dict]:
    """The questions in an engine's words."""
    dialect = DIALECTS[engine]
    words = {
        name: dialect.binary.format(value) if isinstance(value, str) else value for name, value in parameters.items()
    }
    words |= {name: dialect.prefix + name for name in ("logs", "transactions")}
    is_ours = engine == "nozzle"
    words["address_text"] = f"'0x{parameters['address']}'" if is_ours else words["address"]
    texts = [(name, sql if isinstance(sql, str) else sql.get(engine), ordered) for name, sql, ordered in QUESTIONS]
    return [{"name": name, "sql": sql.format(**words), "ordered": ordered} for name, sql, ordered in texts if sql]
