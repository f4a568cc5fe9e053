"""Compares Parquet files with a node's answers, field by field.

usage: truth.py URL table=file,file …

Written from the JSON-RPC specification alone: nothing here knows how the files were made.
"""
import datetime, decimal, json, sys, urllib.request
import pyarrow as pa, pyarrow.parquet as pq

url = sys.argv[1]
files = dict(arg.split("=", 1) for arg in sys.argv[2:])


def rpc(calls):
    body = [{"jsonrpc": "2.0", "id": i, "method": m, "params": p} for i, (m, p) in enumerate(calls)]
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    answers = json.loads(urllib.request.urlopen(request).read())
    answers.sort(key=lambda answer: answer["id"])
    return [answer["result"] for answer in answers]


def rows(table):
    names = [name for name in files[table].split(",") if name]
    parts = [pq.read_table(name) for name in names]
    return pa.concat_tables(parts).to_pylist() if parts else []


def number(text):
    return None if text is None else int(text, 16)


def binary(text):
    return None if text is None else bytes.fromhex(text[2:])


def amount(text):
    return None if text is None else decimal.Decimal(int(text, 16))


def time(text):
    return datetime.datetime.fromtimestamp(int(text, 16), datetime.timezone.utc)


BLOCK = {
    "block_num": ("number", number), "timestamp": ("timestamp", time), "hash": ("hash", binary),
    "parent_hash": ("parentHash", binary), "ommers_hash": ("sha3Uncles", binary), "miner": ("miner", binary),
    "state_root": ("stateRoot", binary), "transactions_root": ("transactionsRoot", binary),
    "receipt_root": ("receiptsRoot", binary), "logs_bloom": ("logsBloom", binary),
    "difficulty": ("difficulty", amount), "total_difficulty": ("totalDifficulty", amount),
    "gas_limit": ("gasLimit", number), "gas_used": ("gasUsed", number), "extra_data": ("extraData", binary),
    "mix_hash": ("mixHash", binary), "nonce": ("nonce", number), "base_fee_per_gas": ("baseFeePerGas", amount),
    "withdrawals_root": ("withdrawalsRoot", binary), "blob_gas_used": ("blobGasUsed", number),
    "excess_blob_gas": ("excessBlobGas", number), "parent_beacon_root": ("parentBeaconBlockRoot", binary),
    "requests_hash": ("requestsHash", binary),
}
TRANSACTION = {
    "block_hash": ("blockHash", binary), "block_num": ("blockNumber", number),
    "tx_index": ("transactionIndex", number), "tx_hash": ("hash", binary), "to": ("to", binary),
    "nonce": ("nonce", number), "gas_price": ("gasPrice", amount), "gas_limit": ("gas", number),
    "value": ("value", amount), "input": ("input", binary), "chain_id": ("chainId", number),
    "type": ("type", number), "max_fee_per_gas": ("maxFeePerGas", amount),
    "max_priority_fee_per_gas": ("maxPriorityFeePerGas", amount),
    "max_fee_per_blob_gas": ("maxFeePerBlobGas", amount), "from": ("from", binary),
}
RECEIPT = {
    "gas_used": ("gasUsed", number), "cumulative_gas_used": ("cumulativeGasUsed", number),
    "effective_gas_price": ("effectiveGasPrice", amount), "contract_address": ("contractAddress", binary),
    "state_root": ("root", binary), "blob_gas_used": ("blobGasUsed", number),
    "blob_gas_price": ("blobGasPrice", amount),
}


def same(what, row, column, expected):
    if row[column] != expected:
        sys.exit(f"{what}: {column} is {row[column]!r}, the node says {expected!r}")


def check(what, row, source, fields):
    for column, (key, read) in fields.items():
        same(what, row, column, read(source.get(key)))


def check_transaction(what, row, tx, receipt, stamp):
    check(what, row, tx, TRANSACTION)
    check(what, row, receipt, RECEIPT)
    same(what, row, "timestamp", stamp)
    same(what, row, "_block_num", number(tx["blockNumber"]))
    same(what, row, "value_overflow", None)
    same(what, row, "status", None if receipt.get("status") is None else number(receipt["status"]) == 1)
    same(what, row, "r", int(tx["r"], 16).to_bytes(32, "big"))
    same(what, row, "s", int(tx["s"], 16).to_bytes(32, "big"))
    v = number(tx.get("v"))
    parity = number(tx.get("yParity"))
    if parity is None:
        parity = v - 27 if v in (27, 28) else (v - 35) % 2 if v >= 35 else v
    same(what, row, "y_parity", parity == 1)
    listed = tx.get("accessList")
    same(what, row, "access_list", None if listed is None else [
        {"address": binary(entry["address"]), "storage_keys": [binary(key) for key in entry["storageKeys"]]}
        for entry in listed])
    hashes = tx.get("blobVersionedHashes")
    same(what, row, "blob_versioned_hashes", None if hashes is None else [binary(entry) for entry in hashes])
    signed = tx.get("authorizationList")
    same(what, row, "authorization_list", None if signed is None else [
        {"chain_id": str(number(entry["chainId"])), "address": binary(entry["address"]),
         "nonce": number(entry["nonce"]), "y_parity": number(entry["yParity"]),
         "r": int(entry["r"], 16).to_bytes(32, "big"), "s": int(entry["s"], 16).to_bytes(32, "big")}
        for entry in signed])


def check_log(what, row, log, receipt, stamp):
    topics = [binary(topic) for topic in log["topics"]] + [None] * 4
    expected = {
        "_block_num": number(log["blockNumber"]), "block_num": number(log["blockNumber"]),
        "block_hash": binary(log["blockHash"]), "timestamp": stamp, "tx_hash": binary(receipt["transactionHash"]),
        "tx_index": number(log["transactionIndex"]), "log_index": number(log["logIndex"]),
        "address": binary(log["address"]), "topic0": topics[0], "topic1": topics[1], "topic2": topics[2],
        "topic3": topics[3], "data": binary(log["data"]),
    }
    if set(row) != set(expected):
        sys.exit(f"{what}: the columns are {sorted(row)}")
    for column, value in expected.items():
        same(what, row, column, value)


def check_withdrawal(what, row, withdrawal, block, stamp):
    expected = {
        "_block_num": number(block["number"]), "block_num": number(block["number"]),
        "block_hash": binary(block["hash"]), "timestamp": stamp, "index": number(withdrawal["index"]),
        "validator_index": number(withdrawal["validatorIndex"]), "address": binary(withdrawal["address"]),
        "amount_gwei": number(withdrawal["amount"]),
    }
    if set(row) != set(expected):
        sys.exit(f"{what}: the columns are {sorted(row)}")
    for column, value in expected.items():
        same(what, row, column, value)


blocks, transactions, logs = rows("blocks"), rows("transactions"), rows("logs")
withdrawals = rows("withdrawals")
head = number(rpc([("eth_blockNumber", [])])[0])
assert len(blocks) == head + 1, f"{len(blocks)} blocks are stored, the node has {head + 1}"
assert set(blocks[0]) == {"_block_num", *BLOCK}, sorted(blocks[0])
known = {"_block_num", "timestamp", "value_overflow", "status", "r", "s", "y_parity", "access_list",
         "blob_versioned_hashes", "authorization_list", *TRANSACTION, *RECEIPT}
assert set(transactions[0]) == known, set(transactions[0]) ^ known
next_transaction, next_log, next_withdrawal = iter(transactions), iter(logs), iter(withdrawals)
for first in range(0, head + 1, 100):
    numbers = range(first, min(first + 100, head + 1))
    answers = rpc([("eth_getBlockByNumber", [hex(n), True]) for n in numbers]
                  + [("eth_getBlockReceipts", [hex(n)]) for n in numbers])
    for n, block, receipts in zip(numbers, answers, answers[len(numbers):]):
        stamp = time(block["timestamp"])
        same(f"block {n}", blocks[n], "_block_num", n)
        check(f"block {n}", blocks[n], block, BLOCK)
        for withdrawal in block.get("withdrawals") or []:
            check_withdrawal(f"withdrawal of block {n}", next(next_withdrawal), withdrawal, block, stamp)
        for tx, receipt in zip(block["transactions"], receipts, strict=True):
            what = f"transaction {tx['hash']}"
            check_transaction(what, next(next_transaction), tx, receipt, stamp)
            for log in receipt["logs"]:
                check_log(f"log {log['logIndex']} of {what}", next(next_log), log, receipt, stamp)
assert next(next_transaction, None) is None, "there are more transactions than the node has"
assert next(next_log, None) is None, "there are more logs than the node has"
assert next(next_withdrawal, None) is None, "there are more withdrawals than the node has"
print(f"{len(blocks)} blocks equal, {len(transactions)} transactions equal, {len(logs)} logs equal")
