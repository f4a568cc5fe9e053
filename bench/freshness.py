"""Freshness: from the node's new head to the first answer that has the block, beside the least it could take."""

import argparse
import asyncio
import contextlib
import datetime
import http.client
import json
import os
import re
import statistics
import subprocess
import threading
import time
import urllib.parse

import asyncpg
import common
from common import NOZZLE, PLACE, TESTKIT, Server, fresh, nozzle_server, run, say, table
from websockets.sync.client import connect

DATASET = "anvil"
TRANSACTIONS_PER_BLOCK = 20
ASK_EVERY_S = 0.005
WRITTEN = re.compile(r"written.* files_us=(\d+) metadata_us=(\d+)")
COMMITTED = re.compile(r"(?m)^(\S+Z) .*committed.* sequence=(\d+) last=(\d+)")


class Http:
    """A connection that is kept, to ask one question after the other."""

    def __init__(self, url: str):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)

    def post(self, body: str) -> str:
        self.connection.request("POST", "/", body, {"content-type": "application/json"})
        return self.connection.getresponse().read().decode()

    def call(self, *calls) -> list:
        body = [{"jsonrpc": "2.0", "id": id, "method": method, "params": params} for id, (method, *params) in enumerate(calls)]
        return [answer["result"] for answer in json.loads(self.post(json.dumps(body)))]


def transfer(accounts: list, index: int) -> dict:
    """The index-th transfer of a node's life; the accounts take turns."""
    turn, sender = divmod(index, len(accounts))
    return {"from": accounts[sender], "to": accounts[sender - 1], "value": "0x1", "nonce": hex(turn)}


class Node:
    """A running anvil: when its heads came, and what it takes to ask it for a block."""

    def __init__(self, url: str):
        self.url, self.heads, self.pushes, self.fetches = url, {}, [], []
        self.changed = threading.Condition()
        self.is_over = False
        self.threads = [threading.Thread(target=work) for work in (self.watch, self.send, self.fetch)]

    def __enter__(self):
        [thread.start() for thread in self.threads]
        return self

    def __exit__(self, *_):
        self.is_over = True
        [thread.join() for thread in self.threads]

    def watch(self):
        with connect(self.url.replace("http://", "ws://")) as socket:
            socket.send('{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}')
            socket.recv()
            while not self.is_over:
                with contextlib.suppress(TimeoutError):
                    text = socket.recv(timeout=1.5)
                    now = time.perf_counter()
                    number = int(json.loads(text)["params"]["result"]["number"], 16)
                    with self.changed:
                        self.heads[number] = now
                        self.changed.notify_all()
                    # Half the way there and back, when nobody else asks.
                    time.sleep(0.4)
                    start = time.perf_counter()
                    socket.send('{"jsonrpc":"2.0","id":2,"method":"eth_blockNumber","params":[]}')
                    socket.recv(timeout=1)
                    self.pushes.append((time.perf_counter() - start) / 2)

    def send(self):
        node = Http(self.url)
        accounts = node.call(("eth_accounts",))[0]
        sent = 0
        while self.next_head():
            # In the middle between two heads.
            time.sleep(0.5)
            # The node takes the calls of a batch side by side, so it cannot count them itself.
            node.call(*(("eth_sendTransaction", transfer(accounts, sent + i)) for i in range(TRANSACTIONS_PER_BLOCK)))
            sent += TRANSACTIONS_PER_BLOCK

    def fetch(self):
        """Asks for each block as a client has to, when nobody else asks."""
        node = Http(self.url)
        while number := self.next_head():
            time.sleep(0.3)
            start = time.perf_counter()
            node.call(("eth_getBlockByNumber", hex(number), True), ("eth_getBlockReceipts", hex(number)))
            self.fetches.append(time.perf_counter() - start)

    def next_head(self) -> int | None:
        """The number of the next head; none once it is over."""
        with self.changed:
            self.changed.wait(timeout=3)
            return None if self.is_over else max(self.heads, default=None)


class Streamed(threading.Thread):
    """When each block's row came to a client of a stream."""

    def __init__(self, url: str, sql: str):
        super().__init__(daemon=True)
        self.url, self.sql, self.at = url, sql, {}

    def run(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc)
            connection.request("POST", "/", self.sql, {"nozzle-stream": "true"})
            for line in connection.getresponse():
                if line.strip():
                    self.at.setdefault(json.loads(line).get("block_num"), time.time())


class Listened(threading.Thread):
    """When each commit's notification came to a client that does nothing but LISTEN."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self.url, self.at = url, {}

    def run(self):
        async def listen():
            connection = await asyncpg.connect(self.url)
            await connection.add_listener("nozzle_commits", lambda *told: self.at.setdefault(int(told[-1]), time.time()))
            await asyncio.sleep(1e6)

        asyncio.run(listen())


def after_commit(log: str, blocks: int, streamed: dict, listened: dict) -> tuple[list, list]:
    """Seconds from a commit to the row of its last block at a stream's client, and to its notification."""
    rows, notes = [], []
    for at, sequence, last in COMMITTED.findall(log)[-blocks:]:
        at = datetime.datetime.fromisoformat(at).timestamp()
        rows += [streamed[int(last)] - at] if int(last) in streamed else []
        notes += [listened[int(sequence)] - at] if int(sequence) in listened else []
    return rows, notes


def measure(name: str, blocks: int, folder, env: dict) -> tuple[list, list]:
    database = env.get("NOZZLE_CONFIG_METADATA_DB__URL")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(Server([TESTKIT, "anvil", "--block-time", 1], stdin=subprocess.PIPE)).lines[0]
        env = os.environ | env | {"RUST_LOG": "warn,nozzle_dump=debug"}
        socket = url.replace("http://", "ws://")
        # It makes the configuration and the dataset, so that the server has something to open.
        run([NOZZLE, "dump", "--rpc-url", socket, "--end-block", 0], cwd=folder, env=env)
        log = stack.enter_context(open(folder / "dump.log", "w+"))
        follow = [NOZZLE, "dump", "--rpc-url", socket, "--follow"]
        dump = stack.enter_context(Server(follow, lines=0, cwd=folder, env=env, stderr=log))
        server = stack.enter_context(nozzle_server(folder, env))
        node = stack.enter_context(Node(url))
        asked = Http(common.jsonl_url(server))
        dataset = run([NOZZLE, "dataset", "list"], cwd=folder, env=env).stdout.split()
        name_of = next(word for word in dataset if word.endswith(DATASET) or DATASET in word)
        streamed = Streamed(common.jsonl_url(server), f'SELECT block_num FROM "{name_of}".blocks')
        listened = Listened(database) if database else None
        [watcher.start() for watcher in (streamed, listened) if watcher]
        latencies, last = [], 0
        while len(latencies) < blocks:
            time.sleep(ASK_EVERY_S)
            if dump.child.poll() is not None:
                raise SystemExit(f"the dump has ended: {folder / 'dump.log'}")
            answer = json.loads(asked.post(f'SELECT max(_block_num) AS head FROM "{name_of}".blocks WHERE _block_num > {last}'))
            # Nulls are left out of an answer.
            now, head = time.perf_counter(), answer.get("head")
            if "error_code" in answer:
                raise SystemExit(f"the server answers {answer}")
            if head is None:
                continue
            # The first second is for everybody to get ready.
            latencies += [now - node.heads[n] for n in range(max(last + 1, 3), head + 1) if n in node.heads]
            last = head
        log.seek(0)
        log = re.sub(r"\x1b\[[0-9;]*m", "", log.read())
        written = [tuple(map(int, match.groups())) for match in WRITTEN.finditer(log)][-blocks:]
        rows, notes = after_commit(log, blocks, streamed.at, listened.at if listened else {})
    files = [one / 1e6 for one, _ in written]
    metadata = [other / 1e6 for _, other in written]
    parts = [node.pushes, node.fetches, files, metadata]
    middle = [statistics.median(part) for part in parts]

    def ms(seconds):
        return f"{seconds * 1e3:.1f}"

    def spread(seconds):
        if len(seconds) < 2:
            return ["-"] * 3
        return [f"**{ms(statistics.median(seconds))}**", ms(statistics.quantiles(seconds, n=100)[98]), ms(max(seconds))]

    after = [[f"{name}, row at a stream's client", len(rows), *spread(rows)]]
    after += [[f"{name}, `LISTEN` alone", len(notes), *spread(notes)]] if listened else []
    return [name, *spread(latencies), *map(ms, middle), ms(sum(middle))], after


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=300, help="how many blocks are waited for, one a second")
    args = parser.parse_args()
    machine, place = common.machine(), PLACE / "freshness"
    say(f"SQLite, {args.blocks} s")
    sqlite, sqlite_after = measure("SQLite", args.blocks, fresh(place / "sqlite"), {})
    say(f"PostgreSQL, {args.blocks} s")
    with Server([TESTKIT, "postgres"], stdin=subprocess.PIPE) as database:
        env = {"NOZZLE_CONFIG_METADATA_DB__URL": database.lines[0], "NOZZLE_CONFIG_METADATA_DB__AUTO_MIGRATE": "true"}
        postgres, postgres_after = measure("PostgreSQL", args.blocks, fresh(place / "postgres"), env)
    head = ["ms", "median", "p99", "most", "push", "block and receipts", "files", "metadata", "these four"]
    text = f"## Freshness: {args.blocks} blocks, one a second, of {TRANSACTIONS_PER_BLOCK} transactions\n\n{machine}\n\n{table(head, [sqlite, postgres])}"
    text += "\n\nFrom the commit of a block, as the dump logs it:\n\n"
    text += table(["", "blocks", "median ms", "p99", "most"], sqlite_after + postgres_after)
    common.emit("freshness", f"{text}\n\nGoal: a median under 50 ms and a p99 under 250 ms on an otherwise idle machine.")


if __name__ == "__main__":
    main()
