#!/bin/sh
# Extracts blocks, transactions, receipts and logs with ethereum-etl: PROGRAM URL BLOCKS FOLDER.
# One process with its children, to be measured.
set -eu
etl=$1 url=$2 last=$(($3 - 1)) folder=$4

"$etl" export_blocks_and_transactions --provider-uri "$url" --start-block 0 --end-block "$last" \
  --max-workers 2 --batch-size 20 \
  --blocks-output "$folder/blocks.csv" --transactions-output "$folder/transactions.csv"
"$etl" extract_csv_column --input "$folder/transactions.csv" --column hash --output "$folder/hashes.txt"
"$etl" export_receipts_and_logs --provider-uri "$url" --transaction-hashes "$folder/hashes.txt" \
  --max-workers 2 --batch-size 200 \
  --receipts-output "$folder/receipts.csv" --logs-output "$folder/logs.csv"
