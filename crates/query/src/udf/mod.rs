//! The functions of this field, beside those that the engine brings.
//!
//! Signatures and types are texts in the query itself, so that a query's columns are known when it is
//! planned. A function of a constant is a constant: `topic0 = evm_topic('…')` prunes files as a literal does.

mod abi;
mod attestation;
mod bounded;
mod decode;
mod encode;
mod evm;
mod field;
mod function;
mod joined;
mod picked;
mod runs;
mod searched;
mod sizes;
mod sum;
mod sum_u256;
mod text;
mod u256;
mod windowed;
mod words;
mod wrapped;

use std::sync::Arc;

pub use attestation::RowsHash;
pub(crate) use bounded::{Bounds, makes_large};
use datafusion::{logical_expr::ScalarUDF, prelude::SessionContext};
pub(crate) use field::Fields;
use function::udf;
pub(crate) use sizes::{items_of, of_array, total};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::rows_of;

/// The functions of rows, by which others can plan as queries here do.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        udf::<evm::Topic>(),
        udf::<evm::DecodeLog>(),
        udf::<evm::DecodeParams>(),
        udf::<evm::EncodeParams>(),
        udf::<evm::EncodeType>(),
        udf::<evm::DecodeType>(),
        udf::<text::EncodeHex>(),
        udf::<text::DecodeHex>(),
        udf::<text::ShiftUnits>(),
        udf::<text::ToDecimal>(),
        udf::<text::ToF64>(),
        udf::<text::ToBinary>(),
    ]
}

/// Makes the functions known to the queries of a session, within its bounds.
pub(crate) fn register(context: &SessionContext, bounds: &Bounds) {
    functions().into_iter().for_each(|function| context.register_udf((*function).clone()));
    bounds.register(context);
    searched::register(context);
    runs::register(context);
    context.register_udaf(sum::checked());
    context.register_udaf(sum_u256::sum_u256());
    context.register_udaf(attestation::attestation_hash());
}
