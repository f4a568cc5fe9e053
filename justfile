# The recipes of this repository; `just` lists them.

# Always the whole workspace: with `-p` cargo chooses other features and builds half of it again.

# list the recipes
default:
    @just --list --unsorted

# install what the tests need
setup:
    scripts/setup

# start a node, extract its chain, ask a few questions
demo:
    scripts/demo

# formatting, lints and all tests; with arguments only the tests that they name
test *args:
    scripts/test {{args}}

# is everything formatted, and does clippy have nothing to say?
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# format everything
fmt:
    cargo fmt --all

# does it compile? the fastest answer
check:
    cargo check --workspace --all-targets

# build the documentation of the code; a broken link is an error
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# licences, advisories and duplicates in the dependency tree (needs cargo-deny)
deny:
    cargo deny check

# the long crash test: kill -9 in the middle of so many dumps on each database
crash runs="25":
    NOZZLE_CRASH_RUNS={{runs}} scripts/test --no-capture crash

# the long fault test: so many schedules of providers of each kind that cannot be trusted; each test prints its seed, which NOZZLE_SEED sets
faults schedules="1000":
    NOZZLE_FAULT_SCHEDULES={{schedules}} scripts/test --profile long --no-capture \
        faults:: whatever_nodes_do schedules_of_faults

# a real beacon node with missed slots, its chain extracted and compared (downloads the node the first time)
beacon slots="100":
    scripts/beacon {{slots}}

# the memory test: a dump's peak must not grow with the range
bounded:
    NOZZLE_BOUNDED_TRANSACTIONS=40 scripts/test --no-capture bounded

# the long test of many who ask at once: so many seconds of blocks, reorgs and queries
concurrency seconds="300":
    NOZZLE_CONCURRENCY_SECS={{seconds}} scripts/test --profile long --no-capture many_who_ask

# a look-up by hash over the files of so many blocks (some 2,000) in a store that is so many milliseconds late
cold blocks="6500" latency="30":
    NOZZLE_COLD_BLOCKS={{blocks}} NOZZLE_COLD_LATENCY_MS={{latency}} scripts/test --profile long --no-capture cold_look_up

# the long failover test: kill -9 of so many workers, and so many pauses of 30 seconds
failover kills="15" pauses="5":
    NOZZLE_FAILOVER_KILLS={{kills}} NOZZLE_FAILOVER_PAUSES={{pauses}} NOZZLE_FAILOVER_PAUSE_SECS=30 \
        scripts/test --profile long --no-capture failover

# the story of derived datasets and a stream, with reorgs and kills, for so many seconds
story seconds="600":
    NOZZLE_STORY_SECS={{seconds}} scripts/test --profile long --no-capture the_story_of_transfers

# so many clients of one stream; prints what each costs
streams clients="500":
    NOZZLE_STREAM_CLIENTS={{clients}} scripts/test --profile long --no-capture streams::

# one, two and four workers beside a node that is late; prints how many times faster
scaling blocks="2048" delay="250":
    NOZZLE_SCALING_BLOCKS={{blocks}} NOZZLE_SCALING_DELAY_MS={{delay}} scripts/test --profile long --no-capture more_workers

# so many random steps of blocks, reorgs, dumps, kills, compactions, collections and queries
soak steps="2000":
    NOZZLE_SOAK_STEPS={{steps}} scripts/test --profile long --no-capture soak

# how many segments a chain of one-second blocks has after so many days, and how often each byte was copied
year days="365":
    NOZZLE_YEAR_DAYS={{days}} scripts/test --profile long --no-capture one_second_blocks

# so many small jobs at once on four workers
many-jobs jobs="1000":
    NOZZLE_MANY_JOBS={{jobs}} scripts/test --profile long --no-capture many_small_jobs

# so many examples a route of the Admin API, made from its own document
fuzz examples="200" seconds="600": (fuzz-substreams seconds)
    NOZZLE_FUZZ_EXAMPLES={{examples}} scripts/test --profile long --no-capture fuzzing

# packages of Substreams and outputs of their modules, damaged at random, for so many seconds; it prints its seed, which NOZZLE_FUZZ_SEED sets
fuzz-substreams seconds="600":
    NOZZLE_FUZZ_SECONDS={{seconds}} scripts/test --profile long --no-capture no_bytes_make_it_panic

# decoding of events beside alloy's
bench-decode:
    bench/run decode

# extraction beside stock parsers, cryo and ethereum-etl, as a table; see bench/README.md
bench-extract *args:
    bench/run extract {{args}}

# queries and planning beside DuckDB, chdb and datafusion
bench-query *args:
    bench/run query {{args}}

# from a new head to the first answer that has it (ten minutes; needs PostgreSQL's programs)
bench-freshness *args:
    bench/run freshness {{args}}

# one-block files into large ones, beside pyarrow
bench-compact *args:
    bench/run compact {{args}}

# what new blocks cost derived tables, behind 10 thousand blocks and behind a million
bench-upkeep *args:
    bench/run upkeep {{args}}

# transfer beside bare TCP and Polars' writer
bench-transfer *args:
    bench/run transfer {{args}}

# the program itself, optimised, in target/release/nozzle
release:
    cargo build --release --bin nozzle

# remove the tools that the tests have installed
clean-tools:
    rm -rf "${NOZZLE_TEST_TOOLS:-target/tools}"
