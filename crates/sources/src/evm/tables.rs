//! The tables of an EVM chain as its JSON-RPC gives them.
//!
//! The columns themselves are listed where they are filled: in `blocks.rs`, `transactions.rs`,
//! `logs.rs` and `withdrawals.rs`, beside this file.

use nozzle_core::TableDef;

use super::{
    blocks::Blocks, columns::Table, logs::Logs, transactions::Transactions, withdrawals::Withdrawals,
};

/// Every table with every column: `blocks`, `transactions`, `logs`, `withdrawals`.
pub fn tables() -> Vec<TableDef> {
    vec![table::<Blocks>(), table::<Transactions>(), table::<Logs>(), table::<Withdrawals>()]
}

fn table<T: Table>() -> TableDef {
    let name = T::NAME.parse().expect("the names of these tables are valid");
    TableDef::new(name, T::columns().into_iter().map(|column| column.field).collect())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    /// The types as the documentation writes them.
    fn written(data_type: &DataType) -> String {
        let fields = |fields: &arrow::datatypes::Fields| {
            let each = |field: &std::sync::Arc<arrow::datatypes::Field>| {
                format!("{} {}", field.name(), written(field.data_type()))
            };
            fields.iter().map(each).collect::<Vec<_>>().join(", ")
        };
        match data_type {
            DataType::UInt64 => "U64".into(),
            DataType::UInt32 => "U32".into(),
            DataType::UInt8 => "U8".into(),
            DataType::FixedSizeBinary(width) => format!("FSB{width}"),
            DataType::Decimal128(38, 0) => "Dec".into(),
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone))
                if &**zone == "+00:00" =>
            {
                "TS".into()
            }
            DataType::List(item) => {
                assert_eq!((item.name().as_str(), item.is_nullable()), ("item", false));
                format!("List<{}>", written(item.data_type()))
            }
            DataType::Struct(inner) => {
                assert!(inner.iter().all(|field| !field.is_nullable()));
                format!("Struct{{{}}}", fields(inner))
            }
            plain => plain.to_string(),
        }
    }

    fn documented(table: &TableDef) -> String {
        let each = |field: &std::sync::Arc<arrow::datatypes::Field>| {
            let mark = if field.is_nullable() { "?" } else { "" };
            format!("{} {}{mark}", field.name(), written(field.data_type()))
        };
        table.schema.fields().iter().map(each).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_tables_are_as_documented() {
        let tables = tables();
        let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["blocks", "transactions", "logs", "withdrawals"]);
        assert_eq!(
            documented(&tables[0]),
            "_block_num U64, block_num U64, timestamp TS, hash FSB32, parent_hash FSB32, \
             ommers_hash FSB32, miner FSB20, state_root FSB32, transactions_root FSB32, \
             receipt_root FSB32, logs_bloom Binary?, difficulty Dec, total_difficulty Dec?, \
             gas_limit U64, gas_used U64, extra_data Binary, mix_hash FSB32?, nonce U64?, \
             base_fee_per_gas Dec?, withdrawals_root FSB32?, blob_gas_used U64?, \
             excess_blob_gas U64?, parent_beacon_root FSB32?, requests_hash FSB32?"
        );
        assert_eq!(
            documented(&tables[1]),
            "_block_num U64, block_hash FSB32, block_num U64, timestamp TS, tx_index U32, \
             tx_hash FSB32, to FSB20?, nonce U64, gas_price Dec?, gas_limit U64, value Dec?, \
             value_overflow FSB32?, input Binary, r FSB32?, s FSB32?, y_parity Boolean?, \
             chain_id U64?, gas_used U64, cumulative_gas_used U64, type Int32, \
             max_fee_per_gas Dec?, max_priority_fee_per_gas Dec?, max_fee_per_blob_gas Dec?, \
             effective_gas_price Dec?, from FSB20, status Boolean?, contract_address FSB20?, \
             state_root FSB32?, blob_gas_used U64?, blob_gas_price Dec?, \
             access_list List<Struct{address Binary, storage_keys List<Binary>}>?, \
             blob_versioned_hashes List<Binary>?, \
             authorization_list List<Struct{chain_id Utf8, address Binary, nonce U64, \
             y_parity U8, r Binary, s Binary}>?"
        );
        assert_eq!(
            documented(&tables[2]),
            "_block_num U64, block_hash FSB32, block_num U64, timestamp TS, tx_hash FSB32, \
             tx_index U32, log_index U32, address FSB20, topic0 FSB32?, topic1 FSB32?, \
             topic2 FSB32?, topic3 FSB32?, data Binary"
        );
        assert_eq!(
            documented(&tables[3]),
            "_block_num U64, block_hash FSB32, block_num U64, timestamp TS, index U64, \
             validator_index U64, address FSB20, amount_gwei U64"
        );
    }
}
