"""Extracts blocks, transactions and logs with cryo: URL BLOCKS FOLDER. A process of its own, to be measured."""

import sys

import cryo

url, blocks, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
cryo.freeze(
    ["blocks", "transactions", "logs"],
    start_block=0,
    end_block=blocks,
    rpc=url,
    output_dir=folder,
    # As near to Nozzle's tables as can be.
    include_columns=["all"],
    compression=["lz4"],
    no_verbose=True,
    verbose=False,
)
