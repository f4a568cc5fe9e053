//! The functions that read and write what contracts exchange.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryBuilder, FixedSizeBinaryBuilder, StructArray},
    datatypes::DataType,
};
use datafusion::error::{DataFusionError, Result};

use super::{
    abi::{EventSignature, FunctionSignature, Named, Type, struct_fields, topic},
    decode::{self, is_bytes, rows_of_bytes},
    encode,
    function::{Called, Function, Given},
};

/// How many bytes a selector has.
const SELECTOR: usize = 4;

fn expect_bytes(given: &Given<'_>, index: usize, what: &str) -> Result<()> {
    let data_type = given.types[index];
    if is_bytes(data_type) { Ok(()) } else { given.refuse(format!("{what} must be bytes, not {data_type}")) }
}

fn planned<T>(parsed: Result<T, String>) -> Result<T> {
    parsed.map_err(DataFusionError::Plan)
}

/// `evm_topic(signature)`: what the first topic of an event's logs is.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Topic;

impl Function for Topic {
    const NAME: &'static str = "evm_topic";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(1)?;
        planned(topic(given.text(0, "the signature")?))?;
        Ok(DataType::FixedSizeBinary(32))
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let topic = planned(topic(called.text(0)?))?;
        let mut topics = FixedSizeBinaryBuilder::with_capacity(called.rows, 32);
        for _ in 0..called.rows {
            topics.append_value(topic)?;
        }
        Ok(Arc::new(topics.finish()))
    }
}

/// `evm_decode_log(topic1, topic2, topic3, data, signature)`: the parameters of an event, the indexed ones
/// first. What a topic or the data does not hold is null.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DecodeLog;

impl Function for DecodeLog {
    const NAME: &'static str = "evm_decode_log";
    const ALIASES: &'static [&'static str] = &["evm_decode"];

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(5)?;
        for (index, what) in ["topic1", "topic2", "topic3", "data"].into_iter().enumerate() {
            expect_bytes(given, index, what)?;
        }
        let fields = planned(EventSignature::parse(given.text(4, "the signature")?))?.fields();
        if fields.is_empty() {
            return given.refuse("the event has no parameters");
        }
        Ok(DataType::Struct(fields))
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let event = planned(EventSignature::parse(called.text(4)?))?;
        let mut columns = vec![];
        for (index, named) in event.indexed.iter().enumerate() {
            columns.push(decode::topic(&named.ty, &called.array(index)?)?);
        }
        let data = called.array(3)?;
        columns.extend(decode::parameters(&event.body, &rows_of_bytes("the data", &data)?).0);
        Ok(Arc::new(StructArray::try_new_with_length(event.fields(), columns, None, called.rows)?))
    }
}

/// `evm_decode_params(calldata, signature)`: the parameters of a call. Null where the call is another one.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DecodeParams;

impl Function for DecodeParams {
    const NAME: &'static str = "evm_decode_params";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(2)?;
        expect_bytes(given, 0, "the call")?;
        let signature = planned(FunctionSignature::parse_named(given.text(1, "the signature")?))?;
        if signature.inputs.is_empty() {
            return given.refuse("the function has no parameters");
        }
        Ok(DataType::Struct(struct_fields(&signature.inputs)))
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let function = planned(FunctionSignature::parse_named(called.text(1)?))?;
        let calls = called.array(0)?;
        let parameters: Vec<Option<&[u8]>> = rows_of_bytes("the call", &calls)?
            .into_iter()
            .map(|call| {
                let (selector, parameters) = call?.split_at_checked(SELECTOR)?;
                (selector == function.selector.as_slice()).then_some(parameters)
            })
            .collect();
        let (columns, fit) = decode::parameters(&function.inputs, &parameters);
        Ok(decode::structs(&function.inputs, columns, fit))
    }
}

/// `evm_encode_params(arguments…, signature)`: a call, selector and all.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct EncodeParams;

impl Function for EncodeParams {
    const NAME: &'static str = "evm_encode_params";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        let count = given.types.len() - 1;
        let function = planned(FunctionSignature::parse(given.text(count, "the signature")?))?;
        if function.inputs.len() != count {
            let wanted = function.inputs.len();
            return given
                .refuse(format!("the signature has {wanted} parameters, and {count} values are given"));
        }
        for (input, data_type) in function.inputs.iter().zip(&given.types) {
            encode::check(&input.ty, data_type).or_else(|why| given.refuse(why))?;
        }
        Ok(DataType::Binary)
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let count = called.count() - 1;
        let function = planned(FunctionSignature::parse(called.text(count)?))?;
        encoded(&function.inputs, &called.arrays_before(count)?, function.selector.as_slice(), called.rows)
    }
}

/// `evm_encode_type(value, type)`: a value as the ABI has it.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct EncodeType;

impl Function for EncodeType {
    const NAME: &'static str = "evm_encode_type";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(2)?;
        let ty = planned(Type::parse(given.text(1, "the type")?))?;
        encode::check(&ty, given.types[0]).or_else(|why| given.refuse(why))?;
        Ok(DataType::Binary)
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let ty = planned(Type::parse(called.text(1)?))?;
        encoded(&[Named { name: String::new(), ty }], &[called.array(0)?], &[], called.rows)
    }
}

/// `evm_decode_type(data, type)`: a value that the ABI has. Null where it is none of the type.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DecodeType;

impl Function for DecodeType {
    const NAME: &'static str = "evm_decode_type";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(2)?;
        expect_bytes(given, 0, "the data")?;
        Ok(planned(Type::parse(given.text(1, "the type")?))?.data_type())
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let data = called.array(0)?;
        let ty = planned(Type::parse(called.text(1)?))?;
        Ok(decode::values(&ty, &rows_of_bytes("the data", &data)?))
    }
}

fn encoded(types: &[Named], arrays: &[ArrayRef], before: &[u8], rows: usize) -> Result<ArrayRef> {
    let columns = encode::columns(types, arrays)?;
    let mut encoded = BinaryBuilder::new();
    for row in 0..rows {
        encoded.append_option(encode::parameters(&columns, row, before)?);
    }
    Ok(Arc::new(encoded.finish()))
}
