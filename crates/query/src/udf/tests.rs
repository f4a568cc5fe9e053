//! The functions as queries call them, and what they decode and encode beside another implementation.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use alloy_dyn_abi::DynSolValue;
use alloy_primitives::{Address, I256, U256};
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryArray, RecordBatch},
    datatypes::{
        DataType, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
    util::{
        display::{ArrayFormatter, FormatOptions},
        pretty::pretty_format_batches,
    },
};
use datafusion::{error::DataFusionError, execution::SessionStateBuilder, prelude::SessionContext};
use futures::TryStreamExt;
use proptest::prelude::*;

use super::{
    abi::{Named, Type},
    decode, encode,
};
use crate::session::{context, run};

fn session() -> SessionContext {
    context(SessionStateBuilder::new())
}

/// The only value of a query's answer, as text; an error's text behind `error: `.
pub(super) async fn answer(sql: &str) -> String {
    let run = async {
        let context = session();
        let plan = context.sql(sql).await?.into_unoptimized_plan();
        let batches: Vec<RecordBatch> = run(&context, plan).await?.try_collect().await?;
        let column = batches[0].column(0);
        let options = FormatOptions::default().with_null("null");
        Ok::<_, datafusion::error::DataFusionError>(
            ArrayFormatter::try_new(column, &options)?.value(0).to_string(),
        )
    };
    run.await.unwrap_or_else(|error| format!("error: {}", error.strip_backtrace()))
}

/// A query's answer, as a table.
pub(crate) async fn rows_of(context: &SessionContext, sql: &str) -> Result<String, DataFusionError> {
    let plan = context.sql(sql).await?.into_unoptimized_plan();
    let batches: Vec<RecordBatch> = run(context, plan).await?.try_collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

const TRANSFER: &str = "Transfer(address indexed from, address indexed to, uint256 value)";

#[tokio::test]
async fn functions_answer_as_their_page_says() {
    let word = |digits: &str| format!("X'{digits:0>64}'");
    let (from, to) = (word(&"11".repeat(20)), word(&"22".repeat(20)));
    let log =
        |topic2: &str, data: &str| format!("evm_decode_log({from}, {topic2}, NULL, {data}, '{TRANSFER}')");
    let swap = "function swap(uint8 a, bool b)";
    let call = format!("X'{}{:0>64}{:0>64}'", "13e946a0", "07", "01");
    let cases = [
        (
            format!("evm_topic('event {TRANSFER}')"),
            "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
        ),
        ("evm_topic('x')".into(), "error: must be"),
        ("evm_topic('E(uint8 a) anonymous')".into(), "error: anonymous"),
        ("evm_topic(concat('E', '()'))".into(), "error: stands in the query itself"),
        (format!("({})['value']", log(&to, &word("ff"))), "255"),
        (format!("({})['to']", log(&to, &word("ff"))), "2222222222222222222222222222222222222222"),
        (format!("({})['to']", log("NULL", &word("ff"))), "null"),
        // Bits above an address.
        (format!("({})['to']", log(&format!("X'{}'", "22".repeat(32)), &word("ff"))), "null"),
        (format!("({})['value']", log(&to, "X'ff'")), "null"),
        (format!("({})['from']", log(&to, "NULL")), "1111111111111111111111111111111111111111"),
        (format!("evm_decode({from}, {to}, NULL, {}, '{TRANSFER}')['value']", word("a")), "10"),
        ("evm_decode_log(1, NULL, NULL, NULL, 'E(uint8 a)')".into(), "error: topic1 must be bytes"),
        (
            format!("evm_encode_params(7, true, '{swap}')"),
            "13e946a000000000000000000000000000000000000000000000000000000000000000070000000000000000000000000000000000000000000000000000000000000001",
        ),
        (format!("evm_decode_params({call}, '{swap}')['a']"), "7"),
        (format!("evm_decode_params({call}, 'function f(uint8 a, bool b)') IS NULL"), "true"),
        (format!("evm_decode_params(X'13e946', '{swap}') IS NULL"), "true"),
        (format!("evm_decode_params({call}, 'swap(uint8,bool)')"), "error: has no name"),
        (format!("evm_encode_params(7, '{swap}')"), "error: 2 parameters, and 1 values"),
        (format!("evm_encode_params('x', true, '{swap}')"), "error: not an integer"),
        (format!("evm_encode_params(true, true, '{swap}')"), "error: cannot be encoded as uint8"),
        (format!("evm_encode_params(NULL, true, '{swap}') IS NULL"), "true"),
        ("evm_encode_type(256, 'uint8')".into(), "error: 256 is out of the range of uint8"),
        ("evm_encode_type(-129, 'int8')".into(), "error: -129 is out of the range of int8"),
        ("evm_decode_type(evm_encode_type(-128, 'int8'), 'int8')".into(), "-128"),
        ("evm_decode_type(X'00', 'uint8')".into(), "null"),
        (format!("evm_decode_type({}, 'uint8')", word("100")), "null"),
        ("evm_decode_type(evm_encode_type(make_array('a', 'bc'), 'string[]'), 'string[]')".into(), "[a, bc]"),
        (
            format!(
                "evm_decode_type(evm_encode_type('-{0}', 'int256'), 'int256') = '-{0}'",
                U256::from(1) << 255
            ),
            "true",
        ),
        ("evm_encode_type('0x00', 'address')".into(), "error: 1 bytes cannot be encoded as address"),
        ("evm_encode_type(1, 'uint7')".into(), "error: not a type of Solidity"),
        ("evm_encode_hex('0xFf00')".into(), "ff00"),
        ("evm_encode_hex('0xf')".into(), "error: not hexadecimal"),
        ("evm_decode_hex(X'FF00')".into(), "0xff00"),
        ("evm_decode_hex(evm_encode_hex(NULL))".into(), "null"),
        ("shift_units('1500000000000000000', -18)".into(), "1.5"),
        ("shift_units(15, 2)".into(), "1500"),
        ("shift_units(CAST(1.50 AS DECIMAL(10, 2)), 1)".into(), "15"),
        ("shift_units('1', 33)".into(), "error: not by 33"),
        ("shift_units('x', 1)".into(), "error: not a decimal number"),
        ("shift_units('1', NULL)".into(), "null"),
        (
            "u256_to_decimal('99999999999999999999999999999999999999')".into(),
            "99999999999999999999999999999999999999",
        ),
        (
            "u256_to_decimal('100000000000000000000000000000000000000')".into(),
            "error: more than the 38 digits",
        ),
        ("u256_to_decimal(X'0100')".into(), "256"),
        ("u256_to_f64('1000000000000000000000')".into(), "1e21"),
        ("u256_to_binary('256')".into(), "0000000000000000000000000000000000000000000000000000000000000100"),
        ("u256_to_binary(-1)".into(), "error: -1 is negative"),
        (format!("u256_to_binary('{}0')", U256::MAX), "error: not an integer of 256 bits"),
        ("u256_to_f64(1.5)".into(), "error: "),
    ];
    for (expression, expected) in cases {
        let found = answer(&format!("SELECT {expression}")).await;
        let is_right = match expected.strip_prefix("error: ") {
            Some(words) => found.starts_with("error: ") && found.contains(words),
            None => found == expected,
        };
        assert!(is_right, "{expression}: {found}, not {expected}");
    }
}

#[tokio::test]
async fn aggregates_are_exact_and_do_not_depend_on_the_order() {
    let most = U256::MAX;
    // The bits would hold the sum, the digits do not.
    let digits = |group: &str| {
        format!(
            "SELECT sum(x) FROM (SELECT CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) x \
             UNION ALL SELECT 1) t(x) {group}"
        )
    };
    let cases = [
        (format!("SELECT sum_u256(x) FROM (VALUES ('{most}'), ('-1'), ('1')) t(x)"), most.to_string()),
        (
            format!("SELECT sum_u256(x) FROM (VALUES ('{most}'), ('1')) t(x)"),
            "error: more than 256 bits".into(),
        ),
        (
            format!("SELECT sum_u256(x) FROM (VALUES ('-{most}'), ('1')) t(x)"),
            format!("-{}", most - U256::from(1)),
        ),
        ("SELECT sum_u256(x) FROM (VALUES (1), (NULL), (2)) t(x)".into(), "3".into()),
        ("SELECT sum_u256(x) FROM (VALUES (NULL), (NULL)) t(x)".into(), "null".into()),
        ("SELECT sum_u256(1, 2)".into(), "error: one argument".into()),
        ("SELECT sum(x) FROM (VALUES (9223372036854775807), (1)) t(x)".into(), "error: does not fit into Int64".into()),
        ("SELECT sum(x) FROM (VALUES (9223372036854775807), (1)) t(x) GROUP BY 1 = 1".into(), "error: does not fit into Int64".into()),
        ("SELECT max(s) FROM (SELECT sum(x) OVER () s FROM (VALUES (9223372036854775807), (1)) t(x))".into(), "error: does not fit into Int64".into()),
        ("SELECT sum(x) FROM (VALUES (1), (NULL), (2)) t(x)".into(), "3".into()),
        ("SELECT sum(x) FROM (SELECT 1 x WHERE false)".into(), "null".into()),
        ("SELECT sum(DISTINCT x) FROM (VALUES (1), (1), (2)) t(x)".into(), "3".into()),
        // Two of them, as one alone is a sum of groups to the engine.
        ("SELECT sum(DISTINCT x) + count(DISTINCT y) FROM (VALUES (1, 1), (1, 2), (2, 2)) t(x, y)".into(), "5".into()),
        ("SELECT sum(DISTINCT x), count(DISTINCT y) FROM (VALUES (9223372036854775807, 1), (1, 2)) t(x, y)".into(), "error: does not fit into Int64".into()),
        ("SELECT sum(DISTINCT x), count(DISTINCT y) FROM (VALUES (9223372036854775807, 1), (1, 2), (-1, 3)) t(x, y)".into(), "9223372036854775807".into()),
        ("SELECT sum(DISTINCT x), count(DISTINCT y) FROM (SELECT 1 x, 1 y WHERE false)".into(), "null".into()),
        (digits("").replace("sum(x)", "sum(DISTINCT x), count(DISTINCT -x)"), "error: does not fit into Decimal128".into()),
        ("SELECT max(s) FROM (SELECT sum(DISTINCT x) OVER (ORDER BY x ROWS 1 PRECEDING) s FROM (VALUES (2), (2), (4)) t(x))".into(), "6".into()),
        ("SELECT max(s) FROM (SELECT sum(DISTINCT x) OVER (ORDER BY x ROWS 1 PRECEDING) s FROM (VALUES (9223372036854775807), (1)) t(x))".into(), "error: does not fit into Int64".into()),
        ("SELECT sum(arrow_cast(x, 'Decimal64(18, 0)')) FROM (VALUES (999999999999999999), (1)) t(x)".into(), "error: does not fit into Decimal64".into()),
        ("SELECT sum(x) FROM (VALUES (1.5), (2)) t(x)".into(), "3.5".into()),
        ("SELECT sum(x) FILTER (WHERE x > 1) FROM (VALUES (1), (5)) t(x) GROUP BY true".into(), "5".into()),
        (digits(""), "error: does not fit into Decimal128".into()),
        (digits("GROUP BY true"), "error: does not fit into Decimal128".into()),
        ("SELECT max(s) FROM (SELECT sum(x) OVER (ORDER BY x ROWS 1 PRECEDING) s FROM (VALUES (1), (2), (4)) t(x))".into(), "6".into()),
        (
            "SELECT a = b FROM (SELECT attestation_hash(x, y) a FROM (VALUES (1, 'a'), (2, NULL)) t(x, y)), \
             (SELECT attestation_hash(x, y) b FROM (VALUES (2, NULL), (1, 'a')) t(x, y))"
                .into(),
            "true".into(),
        ),
        // Whatever it is today, it is to be tomorrow.
        ("SELECT attestation_hash(x) FROM (VALUES (1), (2)) t(x)".into(), PINNED_HASH.into()),
        ("SELECT attestation_hash(x) FROM (SELECT 1 x WHERE false)".into(), "0".repeat(32)),
    ];
    for (sql, expected) in cases {
        let found = answer(&sql).await;
        let words = expected.strip_prefix("error: ").unwrap_or(&expected);
        assert!(if words == expected { found == words } else { found.contains(words) }, "{sql}: {found}");
    }
    let partitioned = "SELECT count(DISTINCT h) FROM (SELECT attestation_hash(x, y) h FROM \
                       (VALUES (1, 2, 'a'), (2, 1, 'b'), (1, 2, 'c')) t(x, y, g) GROUP BY g)";
    assert_eq!(answer(partitioned).await, "2");
}

const PINNED_HASH: &str = "ca1c131670b29879660500e61f161013";

#[tokio::test]
async fn hexadecimal_texts_are_bytes_beside_bytes() {
    let session = session();
    let address = "arrow_cast(X'0102030405060708090a0b0c0d0e0f1011121314', 'FixedSizeBinary(20)')";
    session.sql(&format!("CREATE TABLE t AS SELECT {address} a, X'ff' b, 1 n, '0xff' s")).await.unwrap();
    let count = async |filter: &str| {
        let frame = session.sql(&format!("SELECT n FROM t WHERE {filter}")).await;
        match frame {
            Ok(frame) => frame
                .collect()
                .await
                .map(|batches| batches.iter().map(|batch| batch.num_rows()).sum::<usize>()),
            Err(error) => Err(error),
        }
    };
    let hex = "0x0102030405060708090a0b0c0d0e0f1011121314";
    for (filter, expected) in [
        (format!("a = '{hex}'"), 1),
        (format!("'{hex}' = a"), 1),
        (format!("a <> '{hex}'"), 0),
        (format!("a IN ('{hex}', '0x{}')", "00".repeat(20)), 1),
        (format!("a NOT IN ('{hex}')"), 0),
        (format!("a = '{}'", hex.replace("0x", "0X")), 1),
        (format!("a IS NOT DISTINCT FROM '{hex}'"), 1),
        (format!("'{hex}' IS DISTINCT FROM a"), 0),
        (format!("CASE a WHEN '{hex}' THEN true END"), 1),
        (format!("CASE WHEN a = '{hex}' THEN 'x' END = 'x'"), 1),
        (format!("a BETWEEN '{hex}' AND '0x{}'", "ff".repeat(20)), 1),
        (format!("a >= '{hex}' AND a < '0x{}'", "ff".repeat(20)), 1),
        ("b IS NOT DISTINCT FROM '0xff'".into(), 1),
        ("CASE b WHEN '0xfe' THEN 1 WHEN '0xff' THEN 2 END = 2".into(), 1),
        ("b > '0xfe' AND b <= '0XFF'".into(), 1),
        ("b BETWEEN '0xff' AND '0xffff'".into(), 1),
        ("(SELECT b IN ('0xff') FROM t)".into(), 1),
        ("(SELECT b IS NOT DISTINCT FROM '0xff' FROM t)".into(), 1),
        ("b = '0xFF'".into(), 1),
        ("b IN ('0xff')".into(), 1),
        ("s = '0xff'".into(), 1),
        (format!("n IN (SELECT n FROM t WHERE a = '{hex}')"), 1),
        (format!("(SELECT a = '{hex}' FROM t)"), 1),
    ] {
        assert_eq!(count(&filter).await.unwrap(), expected, "{filter}");
    }
    for (filter, words) in [
        ("a = '0x01'", "has 1 bytes, but"),
        ("a = '0x123'", "two digits"),
        ("a IN ('0x01')", "has 1 bytes"),
        ("b = '0x0xff'", "two digits"),
        ("b IS DISTINCT FROM '0xf'", "two digits"),
        ("CASE a WHEN '0x01' THEN true END", "has 1 bytes"),
    ] {
        let error = count(filter).await.unwrap_err().to_string();
        assert!(error.contains(words), "{filter}: {error}");
    }
    let plan = session.sql(&format!("EXPLAIN SELECT n FROM t WHERE a = '{hex}'")).await.unwrap();
    let text = plan.to_string().await.unwrap();
    assert!(text.contains("FixedSizeBinary(20") && !text.contains("CAST"), "{text}");
}

/// A value of the other implementation for a type of some depth.
fn value(depth: u32) -> BoxedStrategy<DynSolValue> {
    let wide = any::<[u8; 32]>();
    let leaf = prop_oneof![
        any::<bool>().prop_map(DynSolValue::Bool),
        any::<[u8; 20]>().prop_map(|bytes| DynSolValue::Address(Address::from(bytes))),
        prop::collection::vec(any::<u8>(), 0..70).prop_map(DynSolValue::Bytes),
        ".{0,20}".prop_map(DynSolValue::String),
        (1..=32_usize, wide).prop_map(|(size, bytes)| {
            let mut word = [0; 32];
            word[..size].copy_from_slice(&bytes[..size]);
            DynSolValue::FixedBytes(word.into(), size)
        }),
        (1..=32_usize, wide)
            .prop_map(|(size, bytes)| { DynSolValue::Uint(U256::from_be_slice(&bytes[..size]), size * 8) }),
        (1..=32_usize, wide).prop_map(|(size, bytes)| {
            let number = I256::from_raw(U256::from_be_slice(&bytes[..size]) << (256 - size * 8));
            DynSolValue::Int(number.asr(256 - size * 8), size * 8)
        }),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    // The items of a list have one type: the same value some times.
    let list = |of: fn(Vec<DynSolValue>) -> DynSolValue| {
        (value(depth - 1), 1..4_usize).prop_map(move |(value, count)| of(vec![value; count]))
    };
    prop_oneof![
        3 => leaf,
        1 => list(DynSolValue::Array),
        1 => list(DynSolValue::FixedArray),
        1 => prop::collection::vec(value(depth - 1), 1..4).prop_map(DynSolValue::Tuple),
    ]
    .boxed()
}

/// A row of an array as the other implementation would have it.
fn read(ty: &Type, array: &ArrayRef, row: usize) -> DynSolValue {
    assert!(array.is_valid(row), "{ty}");
    macro_rules! integer {
        ($type:ty) => {
            array.as_primitive::<$type>().value(row).to_string()
        };
    }
    let digits = || match array.data_type() {
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => integer!(UInt64Type),
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::Decimal128(..) => integer!(Decimal128Type),
        _ => array.as_string::<i32>().value(row).to_owned(),
    };
    let bytes = || array.as_fixed_size_binary().value(row);
    let items = |item: &Type, items: ArrayRef| (0..items.len()).map(|row| read(item, &items, row)).collect();
    match ty {
        Type::Bool => DynSolValue::Bool(array.as_boolean().value(row)),
        Type::Uint(bits) => DynSolValue::Uint(digits().parse().unwrap(), *bits),
        Type::Int(bits) => DynSolValue::Int(I256::from_dec_str(&digits()).unwrap(), *bits),
        Type::Address => DynSolValue::Address(Address::from_slice(bytes())),
        Type::FixedBytes(size) => {
            let mut word = [0; 32];
            word[..*size].copy_from_slice(bytes());
            DynSolValue::FixedBytes(word.into(), *size)
        }
        Type::Bytes => DynSolValue::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        Type::String => DynSolValue::String(array.as_string::<i32>().value(row).to_owned()),
        Type::List(item) => DynSolValue::Array(items(item, array.as_list::<i32>().value(row))),
        Type::FixedList(item, _) => {
            DynSolValue::FixedArray(items(item, array.as_fixed_size_list().value(row)))
        }
        Type::Tuple(fields) => {
            let columns = array.as_struct().columns().iter();
            DynSolValue::Tuple(
                fields.iter().zip(columns).map(|(field, column)| read(&field.ty, column, row)).collect(),
            )
        }
    }
}

fn type_of(value: &DynSolValue) -> Type {
    // The other implementation writes a tuple of one with a comma, as Rust does.
    Type::parse(&value.as_type().unwrap().sol_type_name().replace(",)", ")")).unwrap()
}

fn named(ty: Type) -> [Named; 1] {
    [Named { name: "x".into(), ty }]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What the other implementation encodes is decoded to the same, and encoded to the same bytes again.
    #[test]
    fn values_are_those_of_another_implementation(value in value(3)) {
        let ty = type_of(&value);
        let encoded = value.abi_encode_params_of_one();
        let array = decode::values(&ty, &[Some(&encoded), None]);
        prop_assert_eq!(read(&ty, &array, 0), value.clone());
        prop_assert!(array.is_null(1));
        let columns = encode::columns(&named(ty.clone()), std::slice::from_ref(&array)).unwrap();
        prop_assert_eq!(encode::parameters(&columns, 0, &[]).unwrap(), Some(encoded.clone()));
        // Nothing that is cut short, or changed in one byte, does harm.
        for cut in [encoded.len() / 2, encoded.len().saturating_sub(1)] {
            decode::values(&ty, &[Some(&encoded[..cut])]);
        }
    }

    #[test]
    fn damaged_encodings_do_no_harm(value in value(3), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let ty = type_of(&value);
        let mut encoded = value.abi_encode_params_of_one();
        let place = place.index(encoded.len());
        encoded[place] = byte;
        let array = decode::values(&ty, &[Some(&encoded)]);
        prop_assert_eq!(array.len(), 1);
    }
}

/// Words that are values of many types, or nearly so.
fn words() -> impl Strategy<Value = Vec<[u8; 32]>> {
    let counts = prop::sample::select(vec![0, 1, 4, 12, 16, 24, 29, 31, 32]);
    let fills = prop::sample::select(vec![0, 0, 0, 1, 0x80, 0xff]);
    let word = (any::<[u8; 32]>(), counts, fills, prop::bool::weighted(0.8));
    let word = word.prop_map(|(mut word, count, with, is_first)| {
        let filled = if is_first { &mut word[..count] } else { &mut word[count..] };
        filled.fill(with);
        word
    });
    prop::collection::vec(word, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Parameters of one word each are looked for at their places, those of a tuple wherever they are.
    #[test]
    fn words_alone_are_read_as_words_among_others(
        types in prop::collection::vec(
            prop::sample::select(vec![
                "bool", "address", "bytes1", "bytes4", "bytes32", "uint8", "uint16", "uint24", "uint64", "uint120",
                "uint128", "uint256", "int8", "int24", "int64", "int120", "int128", "int256",
            ]),
            1..4,
        ),
        rows in prop::collection::vec(prop::option::weighted(0.9, (words(), 0..32_usize)), 0..70),
    ) {
        let named = |(at, ty): (usize, &&str)| Named { name: format!("p{at}"), ty: Type::parse(ty).unwrap() };
        let fields: Vec<Named> = types.iter().enumerate().map(named).collect();
        let data: Vec<Option<Vec<u8>>> = rows
            .iter()
            .map(|row| row.as_ref().map(|(words, more)| [words.as_flattened(), &vec![7; *more]].concat()))
            .collect();
        let data: Vec<Option<&[u8]>> = data.iter().map(Option::as_deref).collect();
        let together = decode::values(&Type::Tuple(fields.clone().into()), &data);
        let (columns, fit) = decode::parameters(&fields, &data);
        for (row, fits) in fit.iter().enumerate() {
            prop_assert_eq!(*fits, together.is_valid(row));
        }
        for (at, column) in columns.iter().enumerate() {
            prop_assert_eq!(column, together.as_struct().column(at));
            prop_assert_eq!(column, &decode::parameter(&fields, at, &data));
        }
        // A topic is a word by itself.
        let first: Vec<Option<&[u8]>> = data.iter().map(|data| data.and_then(|data| data.get(..32))).collect();
        let topics = FixedSizeBinaryArray::try_from_sparse_iter_with_size(first.iter().copied(), 32).unwrap();
        let ty = &fields[0].ty;
        let expected = decode::values(ty, &first);
        prop_assert_eq!(&decode::topic(ty, &topics).unwrap(), &expected);
        prop_assert_eq!(&decode::topic(ty, &BinaryArray::from_iter(first)).unwrap(), &expected);
    }
}

/// One value as the parameters of a function would be.
trait OneParameter {
    fn abi_encode_params_of_one(&self) -> Vec<u8>;
}

impl OneParameter for DynSolValue {
    fn abi_encode_params_of_one(&self) -> Vec<u8> {
        DynSolValue::Tuple(vec![self.clone()]).abi_encode_params()
    }
}

/// Offsets that lead to the same list again and again: each level has as many items as there are words.
#[test]
fn an_encoding_that_grows_without_end_is_none() {
    let word = |number: u64| {
        let mut word = [0_u8; 32];
        word[24..].copy_from_slice(&number.to_be_bytes());
        word
    };
    let (levels, items) = (6, 40_u64);
    let mut data = word(32).to_vec();
    for _ in 0..levels {
        data.extend(word(items));
        // Each item begins behind all items of this level.
        (0..items).for_each(|_| data.extend(word(items * 32)));
    }
    data.extend(word(0));
    let ty = Type::parse(&format!("uint8{}", "[]".repeat(levels + 1))).unwrap();
    let array = decode::values(&ty, &[Some(&data)]);
    assert!(array.is_null(0));
    let _: Arc<dyn Array> = array;
}

/// Offsets that all lead to the same bytes, which are copied for each of them.
#[test]
fn bytes_that_are_led_to_again_and_again_are_none() {
    let word = |number: u64| U256::from(number).to_be_bytes::<32>();
    let encoding = |items: u64, bytes: u64| {
        let mut data = [word(32), word(items)].concat();
        (0..items).for_each(|_| data.extend(word(items * 32)));
        data.extend(word(bytes));
        data.extend(vec![7; bytes as usize]);
        data
    };
    let data = encoding(8_000, 256_000);
    assert_eq!(data.len(), 512_096);
    for ty in ["bytes[]", "string[]"] {
        let ty = Type::parse(ty).unwrap();
        assert!(decode::values(&ty, &[Some(&data)]).is_null(0), "{ty}");
        assert!(decode::values(&ty, &[Some(&encoding(1, 512_000))]).is_valid(0), "{ty}");
    }
}

/// The sums of groups, in one part and in many, are those that each group has by itself.
#[tokio::test]
async fn wide_sums_of_groups_are_exact() {
    let half = U256::MAX / U256::from(2);
    let rows = (0..3_000_u64).map(|row| match row % 5 {
        0 => format!("({}, '{half}')", row % 7),
        1 => format!("({}, '-{half}')", row % 7),
        2 => format!("({}, NULL)", row % 7),
        _ => format!("({}, '{row}')", row % 7),
    });
    let rows: Vec<_> = rows.chain(["(7, NULL)".to_owned()]).collect();
    let table = format!("(VALUES {}) AS t(k, x)", rows.join(", "));
    let each = (0..8).map(|key| {
        let sum: i64 = (0..3_000).filter(|row| key == row % 7 && row % 5 > 2).sum();
        // As many halves are added as are taken away, but for what is left over.
        let count = |rest: i64| (0..3_000).filter(|row| key == row % 7 && row % 5 == rest).count() as i64;
        let halves = count(0) - count(1);
        assert!(halves.abs() <= 1, "the sum of group {key} would not fit");
        match (key, halves) {
            (7, _) => "null".to_owned(),
            (_, 0) => sum.to_string(),
            (_, 1) => (half + U256::from(sum)).to_string(),
            _ => format!("-{}", half - U256::from(sum)),
        }
    });
    let expected: Vec<_> = each.collect();
    for partitions in [1, 4] {
        let config =
            datafusion::prelude::SessionConfig::new().with_target_partitions(partitions).with_batch_size(100);
        let context = context(SessionStateBuilder::new().with_config(config));
        let sql = format!("SELECT sum_u256(x) FILTER (WHERE k < 8) FROM {table} GROUP BY k ORDER BY k");
        let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
        let sums = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        let sums: Vec<_> =
            sums.column(0).as_string::<i32>().iter().map(|sum| sum.unwrap_or("null").to_owned()).collect();
        assert_eq!(sums, expected, "{partitions}");
    }
}

/// What is in the way of a field that is decoded alone: topics and data that are none, tuples, and several fields.
const DECODED: &str = "SELECT evm_decode_log(topic1, topic2, NULL, data, 'E(address indexed a, uint256 b, bytes c, (uint8 x, string y) d, address indexed e)') \
    AS t, n FROM logs";

#[tokio::test]
async fn a_field_that_is_decoded_alone_is_that_of_the_whole() {
    let context = session();
    let word = |digits: &str| format!("{digits:0>64}");
    let tuple = [word("40"), word("07"), word("40"), word("02"), format!("{:0<64}", "6869")].concat();
    let data =
        [word("ff"), word("60"), word("a0"), word("03"), format!("{:0<64}", "010203"), tuple[64..].into()];
    let data = data.concat();
    let rows = [
        (word("11"), word("22"), data.clone(), 1),
        (word("11"), "ff".repeat(32), data.clone(), 2),
        (word("12"), word("22"), data[..64].to_owned(), 3),
        (word("12"), word("23"), String::new(), 4),
    ];
    let rows: Vec<_> =
        rows.iter().map(|(a, e, data, n)| format!("(X'{a}', X'{e}', X'{data}', {n})")).collect();
    let table = format!(
        "CREATE TABLE logs AS SELECT * FROM (VALUES {}) AS v(topic1, topic2, data, n)",
        rows.join(", ")
    );
    context.sql(&table).await.unwrap().collect().await.unwrap();
    let rows_of = async |sql: &str| {
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
    };
    let ask = async |sql: String| {
        arrow::util::pretty::pretty_format_batches(&[rows_of(&sql).await]).unwrap().to_string()
    };
    let whole = ask(format!("{DECODED} ORDER BY n")).await;
    assert!(whole.contains("b: 255, c: 010203, d: {x: 7, y: hi}"), "{whole}");
    for (fields, is_of_topics) in [
        ("t['a']", true),
        ("t['a'], t['e']", true),
        ("t['b']", false),
        ("t['b'], t['c']", false),
        ("t['d']['y']", false),
        ("t['d']", false),
    ] {
        let alone = format!("SELECT {fields}, n FROM ({DECODED}) ORDER BY n");
        // With the struct itself beside them, the fields come from it.
        let beside = format!("SELECT {fields}, n, t FROM ({DECODED}) ORDER BY n");
        let plan = ask(format!("EXPLAIN {alone}")).await;
        assert!(plan.contains("evm_decode_log_field(") && !plan.contains("evm_decode_log("), "{plan}");
        assert_eq!(plan.contains("data"), !is_of_topics, "{plan}");
        let (alone, beside) = (rows_of(&alone).await, rows_of(&beside).await);
        assert_eq!(alone.columns(), &beside.columns()[..beside.num_columns() - 1], "{fields}");
    }
    let counted =
        "SELECT t['a'] AS a, count(*) FROM (SELECT * FROM ({DECODED}) WHERE t['b'] = '255') GROUP BY a";
    let counted = counted.replace("{DECODED}", DECODED);
    let plan = ask(format!("EXPLAIN {counted}")).await;
    assert!(!plan.contains("evm_decode_log("), "{plan}");
    assert!(ask(counted).await.contains("| 2 "), "the two logs whose data is whole");
}
