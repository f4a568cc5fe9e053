//! Stored rows as the JSON text that a node would have sent: the reverse of the columns.
//!
//! A null is a field that is left out. What is not stored and follows from what is (`v`) is computed;
//! what a check can do without (`logsBloom` of receipts) is left out.

use std::ops::Range;

use alloy_primitives::U256;
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{
        DataType, Decimal128Type, Int32Type, TimestampMicrosecondType, UInt8Type, UInt32Type, UInt64Type,
    },
};
use bytes::Bytes;
use nozzle_core::{BlockNum, TableDef};

use super::{
    blocks::Blocks, columns::Table, logs::Logs, transactions::Transactions, withdrawals::Withdrawals,
};

/// Fields and the columns that hold them.
type Fields = &'static [(&'static str, &'static str)];

const BLOCK: Fields = &[
    ("hash", "hash"),
    ("parentHash", "parent_hash"),
    ("sha3Uncles", "ommers_hash"),
    ("miner", "miner"),
    ("stateRoot", "state_root"),
    ("transactionsRoot", "transactions_root"),
    ("receiptsRoot", "receipt_root"),
    ("logsBloom", "logs_bloom"),
    ("difficulty", "difficulty"),
    ("totalDifficulty", "total_difficulty"),
    ("gasLimit", "gas_limit"),
    ("gasUsed", "gas_used"),
    ("timestamp", "timestamp"),
    ("extraData", "extra_data"),
    ("mixHash", "mix_hash"),
    ("baseFeePerGas", "base_fee_per_gas"),
    ("withdrawalsRoot", "withdrawals_root"),
    ("blobGasUsed", "blob_gas_used"),
    ("excessBlobGas", "excess_blob_gas"),
    ("parentBeaconBlockRoot", "parent_beacon_root"),
    ("requestsHash", "requests_hash"),
];

const TRANSACTION: Fields = &[
    ("hash", "tx_hash"),
    ("transactionIndex", "tx_index"),
    ("to", "to"),
    ("from", "from"),
    ("nonce", "nonce"),
    ("gasPrice", "gas_price"),
    ("gas", "gas_limit"),
    ("input", "input"),
    ("r", "r"),
    ("s", "s"),
    ("yParity", "y_parity"),
    ("chainId", "chain_id"),
    ("type", "type"),
    ("maxFeePerGas", "max_fee_per_gas"),
    ("maxPriorityFeePerGas", "max_priority_fee_per_gas"),
    ("maxFeePerBlobGas", "max_fee_per_blob_gas"),
    ("blobVersionedHashes", "blob_versioned_hashes"),
    ("accessList", "access_list"),
    ("authorizationList", "authorization_list"),
];

const RECEIPT: Fields = &[
    ("transactionHash", "tx_hash"),
    ("cumulativeGasUsed", "cumulative_gas_used"),
    ("gasUsed", "gas_used"),
    ("contractAddress", "contract_address"),
    ("status", "status"),
    ("root", "state_root"),
    ("effectiveGasPrice", "effective_gas_price"),
    ("blobGasUsed", "blob_gas_used"),
    ("blobGasPrice", "blob_gas_price"),
];

const LOG: Fields =
    &[("transactionHash", "tx_hash"), ("logIndex", "log_index"), ("address", "address"), ("data", "data")];

const TOPICS: [&str; 4] = ["topic0", "topic1", "topic2", "topic3"];

const WITHDRAWAL: Fields = &[
    ("index", "index"),
    ("validatorIndex", "validator_index"),
    ("address", "address"),
    ("amount", "amount_gwei"),
];

/// The type of transactions of which no type is stored: none of those whose fields are known.
const UNKNOWN_TYPE: u128 = 0x7f;

/// An amount that is not stored: one that no decimal holds.
const LARGE: [u8; 32] = [0xff; 32];

/// The place of each table among those that are rendered.
#[derive(Debug)]
struct Places {
    blocks: Option<usize>,
    transactions: Option<usize>,
    logs: Option<usize>,
    withdrawals: Option<usize>,
}

/// Where a block's rows lie.
pub(crate) struct Parts<'a> {
    /// The rows of each table.
    pub batches: &'a [&'a RecordBatch],
    /// Which of them are the block's.
    pub places: &'a [Range<usize>],
}

impl Parts<'_> {
    fn rows(&self, table: Option<usize>) -> Range<usize> {
        table.map_or(0..0, |table| self.places[table].clone())
    }
}

/// Renders the rows of some tables.
#[derive(Debug)]
pub(crate) struct Renderer {
    places: Places,
    block: Vec<(&'static str, usize)>,
    transaction: Vec<(&'static str, usize)>,
    receipt: Vec<(&'static str, usize)>,
    log: Vec<(&'static str, usize)>,
    withdrawal: Vec<(&'static str, usize)>,
    columns: Special,
}

/// Columns that are not rendered as they are.
#[derive(Debug, Clone, Copy)]
struct Special {
    block_hash: Option<usize>,
    block_nonce: Option<usize>,
    withdrawals_root: Option<usize>,
    value: Option<usize>,
    value_overflow: Option<usize>,
    y_parity: Option<usize>,
    chain_id: Option<usize>,
    tx_type: Option<usize>,
    log_tx_index: Option<usize>,
    topics: [Option<usize>; 4],
}

impl Renderer {
    /// A renderer of these tables.
    pub fn new(tables: &[TableDef]) -> Self {
        let place = |name: &str| tables.iter().position(|table| table.name.as_str() == name);
        let (blocks, transactions) = (place(Blocks::NAME), place(Transactions::NAME));
        let (logs, withdrawals) = (place(Logs::NAME), place(Withdrawals::NAME));
        let column = |table: Option<usize>, name: &str| tables[table?].schema.index_of(name).ok();
        let fields = |table: Option<usize>, fields: Fields| {
            fields.iter().filter_map(|(key, name)| Some((*key, column(table, name)?))).collect()
        };
        Self {
            places: Places { blocks, transactions, logs, withdrawals },
            block: fields(blocks, BLOCK),
            transaction: fields(transactions, TRANSACTION),
            receipt: fields(transactions, RECEIPT),
            log: fields(logs, LOG),
            withdrawal: fields(withdrawals, WITHDRAWAL),
            columns: Special {
                block_hash: column(blocks, "hash"),
                block_nonce: column(blocks, "nonce"),
                withdrawals_root: column(blocks, "withdrawals_root"),
                value: column(transactions, "value"),
                value_overflow: column(transactions, "value_overflow"),
                y_parity: column(transactions, "y_parity"),
                chain_id: column(transactions, "chain_id"),
                tx_type: column(transactions, "type"),
                log_tx_index: column(logs, "tx_index"),
                topics: TOPICS.map(|topic| column(logs, topic)),
            },
        }
    }

    /// The answers about a block; the error says what of it is not there.
    pub fn render(
        &self,
        number: BlockNum,
        parts: &Parts<'_>,
        with_receipts: bool,
    ) -> Result<(Bytes, Option<Bytes>), String> {
        let rows = parts.rows(self.places.blocks);
        if rows.len() != 1 {
            return Err(match rows.len() {
                0 => "it has no row in `blocks`".into(),
                count => format!("it has {count} rows in `blocks`"),
            });
        }
        let block = self.block(number, parts, rows.start);
        let receipts = with_receipts.then(|| self.receipts(parts, rows.start)).transpose()?;
        Ok((block.answer(), receipts.map(Json::answer)))
    }

    fn block(&self, number: BlockNum, parts: &Parts<'_>, row: usize) -> Json {
        let mut json = Json::default();
        json.object(|json| {
            json.key("number");
            json.quantity(number.into());
            let Some(blocks) = self.places.blocks.map(|table| parts.batches[table]) else { return };
            json.fields(blocks, &self.block, row);
            let nonce = self.columns.block_nonce.map(|column| blocks.column(column));
            if let Some(nonce) = nonce.filter(|nonce| nonce.is_valid(row)) {
                json.key("nonce");
                json.data(&nonce.as_primitive::<UInt64Type>().value(row).to_be_bytes());
            }
            json.key("transactions");
            let transactions = parts.rows(self.places.transactions);
            json.list(transactions, |json, row| self.transaction(json, parts, row));
            self.withdrawals(json, parts, blocks, row);
        });
        json
    }

    fn withdrawals(&self, json: &mut Json, parts: &Parts<'_>, blocks: &RecordBatch, row: usize) {
        let Some(table) = self.places.withdrawals else { return };
        let rows = parts.rows(Some(table));
        let has_root =
            self.columns.withdrawals_root.is_some_and(|column| blocks.column(column).is_valid(row));
        if has_root || !rows.is_empty() {
            json.key("withdrawals");
            json.list(rows, |json, row| {
                json.object(|json| json.fields(parts.batches[table], &self.withdrawal, row));
            });
        }
    }

    fn transaction(&self, json: &mut Json, parts: &Parts<'_>, row: usize) {
        let Some(batch) = self.places.transactions.map(|table| parts.batches[table]) else { return };
        json.object(|json| {
            json.fields(batch, &self.transaction, row);
            self.value(json, batch, row);
            match self.columns.tx_type.map(|column| batch.column(column).as_primitive::<Int32Type>()) {
                Some(types) if types.value(row) == 0 => self.v(json, batch, row),
                Some(_) => {}
                None => {
                    json.key("type");
                    json.quantity(UNKNOWN_TYPE);
                }
            }
        });
    }

    /// The amount, which is in one of two columns. Where only one of them is stored, a null in it is
    /// an amount of the other.
    fn value(&self, json: &mut Json, batch: &RecordBatch, row: usize) {
        let Special { value, value_overflow, .. } = self.columns;
        let stored = valid(batch, value, row).or_else(|| valid(batch, value_overflow, row));
        match (stored, value, value_overflow) {
            (Some(stored), ..) => {
                json.key("value");
                json.value(stored, row);
            }
            (None, Some(_), None) => {
                json.key("value");
                json.data(&LARGE);
            }
            (None, None, Some(_)) => {
                json.key("value");
                json.quantity(0);
            }
            (None, ..) => {}
        }
    }

    /// What a transaction without a type has for its parity and chain (EIP-155).
    fn v(&self, json: &mut Json, batch: &RecordBatch, row: usize) {
        let Some(parity) = valid(batch, self.columns.y_parity, row) else { return };
        let parity = u128::from(parity.as_boolean().value(row));
        let chain_id =
            valid(batch, self.columns.chain_id, row).map(|ids| ids.as_primitive::<UInt64Type>().value(row));
        json.key("v");
        json.quantity(parity + chain_id.map_or(27, |id| 35 + 2 * u128::from(id)));
    }

    fn receipts(&self, parts: &Parts<'_>, block: usize) -> Result<Json, String> {
        let mut json = Json::default();
        let transactions = parts.rows(self.places.transactions);
        let mut next_log = parts.rows(self.places.logs);
        json.list(transactions.clone(), |json, row| {
            let index = row - transactions.start;
            let logs = self.logs_of(index, parts, &mut next_log);
            self.receipt(json, parts, Place { block, row, index, logs });
        });
        // What is left belongs to no transaction, or stands in the wrong place.
        if next_log.is_empty() {
            Ok(json)
        } else {
            Err("it has logs of no transaction, or out of order".into())
        }
    }

    /// The rows of a transaction's logs, taken from the front of those that are left.
    fn logs_of(&self, index: usize, parts: &Parts<'_>, left: &mut Range<usize>) -> Range<usize> {
        let (Some(table), Some(column)) = (self.places.logs, self.columns.log_tx_index) else { return 0..0 };
        let indices = parts.batches[table].column(column).as_primitive::<UInt32Type>();
        let count = left.clone().take_while(|row| indices.value(*row) as usize == index).count();
        let rows = left.start..left.start + count;
        left.start += count;
        rows
    }

    fn receipt(&self, json: &mut Json, parts: &Parts<'_>, place: Place) {
        let Some(batch) = self.places.transactions.map(|table| parts.batches[table]) else { return };
        json.object(|json| {
            if let (Some(table), Some(hash)) = (self.places.blocks, self.columns.block_hash) {
                json.key("blockHash");
                json.value(parts.batches[table].column(hash), place.block);
            }
            json.key("transactionIndex");
            json.quantity(place.index as u128);
            json.fields(batch, &self.receipt, place.row);
            json.key("logs");
            json.list(place.logs, |json, row| self.log(json, parts, row));
        });
    }

    fn log(&self, json: &mut Json, parts: &Parts<'_>, row: usize) {
        let Some(batch) = self.places.logs.map(|table| parts.batches[table]) else { return };
        json.object(|json| {
            json.fields(batch, &self.log, row);
            json.key("topics");
            let topics = self.columns.topics;
            let last = topics.iter().rposition(|topic| valid(batch, *topic, row).is_some());
            let up_to_last = &topics[..last.map_or(0, |last| last + 1)];
            // One that is not stored takes its place all the same.
            let given =
                up_to_last.iter().filter(|topic| topic.is_none() || valid(batch, **topic, row).is_some());
            json.list(given, |json, topic| match topic {
                Some(column) => json.value(batch.column(*column), row),
                None => json.data(&[0; 32]),
            });
        });
    }
}

/// A column, where it is stored and not null.
fn valid(batch: &RecordBatch, column: Option<usize>, row: usize) -> Option<&ArrayRef> {
    column.map(|column| batch.column(column)).filter(|column| column.is_valid(row))
}

/// Which receipt is rendered.
struct Place {
    /// The row of its block.
    block: usize,
    /// The row of its transaction.
    row: usize,
    /// The place of it in the block.
    index: usize,
    /// The rows of its logs.
    logs: Range<usize>,
}

/// JSON text. Everything in it is hex digits or a name, so nothing needs to be escaped.
#[derive(Debug, Default)]
struct Json(String);

impl Json {
    /// The text as the result of a JSON-RPC answer.
    fn answer(self) -> Bytes {
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}}}"#, self.0).into()
    }

    /// A comma behind what stands before, where something does.
    fn separate(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with(['{', '[', ':', ',']) {
            self.0.push(',');
        }
    }

    fn key(&mut self, name: &str) {
        self.separate();
        self.0.extend(["\"", name, "\":"]);
    }

    fn object(&mut self, fill: impl FnOnce(&mut Self)) {
        self.separate();
        self.0.push('{');
        fill(self);
        self.0.push('}');
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut push: impl FnMut(&mut Self, T)) {
        self.separate();
        self.0.push('[');
        items.into_iter().for_each(|item| push(self, item));
        self.0.push(']');
    }

    fn data(&mut self, bytes: &[u8]) {
        self.separate();
        self.0.extend(["\"", &const_hex::encode_prefixed(bytes), "\""]);
    }

    fn quantity(&mut self, number: u128) {
        self.separate();
        self.0 += &format!("\"{number:#x}\"");
    }

    /// The fields of a row; those that are null are left out.
    fn fields(&mut self, batch: &RecordBatch, fields: &[(&'static str, usize)], row: usize) {
        for (key, column) in fields {
            let column = batch.column(*column);
            if column.is_valid(row) {
                self.key(key);
                self.value(column, row);
            }
        }
    }

    /// A value as its type is sent. A number that cannot be sent is null.
    fn value(&mut self, array: &ArrayRef, row: usize) {
        let number = match array.data_type() {
            DataType::FixedSizeBinary(_) => return self.data(array.as_fixed_size_binary().value(row)),
            DataType::Binary => return self.data(array.as_binary::<i32>().value(row)),
            DataType::List(_) => return self.items(&array.as_list::<i32>().value(row)),
            DataType::Utf8 => return self.decimal_text(array.as_string::<i32>().value(row)),
            DataType::Boolean => Some(array.as_boolean().value(row).into()),
            DataType::UInt64 => Some(array.as_primitive::<UInt64Type>().value(row).into()),
            DataType::UInt32 => Some(array.as_primitive::<UInt32Type>().value(row).into()),
            DataType::UInt8 => Some(array.as_primitive::<UInt8Type>().value(row).into()),
            DataType::Int32 => array.as_primitive::<Int32Type>().value(row).try_into().ok(),
            DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value(row).try_into().ok(),
            DataType::Timestamp(..) => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
                u128::try_from(micros.div_euclid(1_000_000)).ok()
            }
            _ => None,
        };
        match number {
            Some(number) => self.quantity(number),
            None => self.null(),
        }
    }

    fn null(&mut self) {
        self.separate();
        self.0 += "null";
    }

    fn decimal_text(&mut self, text: &str) {
        match U256::from_str_radix(text, 10) {
            Ok(number) => self.data(&number.to_be_bytes::<32>()),
            Err(_) => self.null(),
        }
    }

    /// The items of a list: values, or structs whose fields are named as in the chain's JSON.
    fn items(&mut self, items: &ArrayRef) {
        let fields = items.as_struct_opt();
        self.list(0..items.len(), |json, row| match fields {
            None => json.value(items, row),
            Some(fields) => json.object(|json| {
                for (field, column) in fields.fields().iter().zip(fields.columns()) {
                    json.key(json_name(field.name()));
                    json.value(column, row);
                }
            }),
        });
    }
}

/// The name of a field of an access list or an authorization list.
fn json_name(column: &str) -> &str {
    match column {
        "storage_keys" => "storageKeys",
        "chain_id" => "chainId",
        "y_parity" => "yParity",
        same => same,
    }
}
