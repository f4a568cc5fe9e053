"""What the benches share: programs that are measured, servers that end, tables in Markdown.

Nothing heavy is imported here: Linux counts the memory of a process that starts another one into the
peak of the new one.
"""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
PLACE = pathlib.Path(os.environ.get("NOZZLE_BENCH_PLACE", HERE.parent / "target/bench"))
BIN = pathlib.Path(os.environ.get("NOZZLE_BENCH_BIN", HERE.parent / "target/release"))
NOZZLE = str(BIN / "nozzle")
TESTKIT = str(BIN / "nozzle-testkit")


@dataclasses.dataclass
class Measured:
    """What a program that has ended took."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    stdout: str


def run(argv, **options) -> Measured:
    """Runs a program to its end; its errors go to ours."""
    start = time.perf_counter()
    child = subprocess.Popen([str(word) for word in argv], stdout=subprocess.PIPE, text=True, **options)
    try:
        stdout = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        child.kill()
        child.wait()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"this failed with {child.returncode}: {' '.join(map(str, argv))}\n{stdout}")
    wall_s = time.perf_counter() - start
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, stdout)


class Server:
    """A program that serves until the `with` block ends. `lines` are what it said when it was ready."""

    def __init__(self, argv, lines=1, **options):
        self.argv = [str(word) for word in argv]
        self.wanted = lines
        self.options = options

    def __enter__(self):
        self.child = subprocess.Popen(self.argv, stdout=subprocess.PIPE, text=True, **self.options)
        self.pid = self.child.pid
        self.lines = [self.child.stdout.readline().strip() for _ in range(self.wanted)]
        if not all(self.lines):
            self.__exit__()
            raise SystemExit(f"this did not start: {' '.join(self.argv)}")
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def cpu_s(self) -> float:
        """The processor time of all its threads so far, also of those that have ended."""
        return cpu_s(self.pid)

    def rss_bytes(self) -> int:
        return rss_bytes(self.pid)


def cpu_s(pid: int) -> float:
    """As in /proc/<pid>/stat, but to the nanosecond: the clock of another process, see clock_getcpuclockid."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_bytes(pid: int) -> int:
    """The memory that a process has in use now."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def replay(blocks: int, preload=True, delay_ms=0) -> Server:
    """A node with a chain like the Ethereum mainnet; its first line is its URL."""
    argv = [TESTKIT, "replay", "--mainnet-like", blocks, "--ignore-stdin", "--delay-ms", delay_ms]
    return Server(argv + ["--preload"] if preload else argv, stdin=subprocess.DEVNULL)


def nozzle_server(folder, env=os.environ) -> Server:
    """A server on free ports; see [`flight_url`] and [`jsonl_url`]."""
    addresses = ["FLIGHT_ADDR", "JSONL_ADDR", "ADMIN_API_ADDR"]
    env = env | {f"NOZZLE_CONFIG_{name}": "127.0.0.1:0" for name in addresses}
    return Server([NOZZLE, "server"], lines=3, cwd=folder, env=env)


def flight_url(server: Server) -> str:
    return next(line for line in server.lines if line.startswith("Arrow Flight")).split()[-1]


def jsonl_url(server: Server) -> str:
    return next(line for line in server.lines if line.startswith("JSON Lines")).split()[-1]


def live_files(folder, dataset: str, table: str) -> list[pathlib.Path]:
    """The files that count, as `nozzle files` lists them."""
    listed = run([NOZZLE, "files", "--dataset", dataset, "--table", table], cwd=folder)
    return [pathlib.Path(line) for line in listed.stdout.splitlines()]


def fresh(folder: pathlib.Path) -> pathlib.Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def two_cores():
    """From here on, this process and all that it starts take turns on two processors."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def machine() -> str:
    cpus = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in cpus if line.startswith("model name")]
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} × {names[0] if names else 'unknown processor'}, load {load:.1f} at the start"


def table(head: list[str], rows: list[list]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def emit(name: str, text: str):
    """Prints a result and keeps it in target/bench."""
    print(text, flush=True)
    (PLACE / f"{name}.md").write_text(text + "\n")


def say(text: str):
    """Progress, beside the result."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


# A `with` block ends its server also when the bench is told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
