//! How many events of a kind are decoded in a second of processor time: into Arrow columns here, into values of
//! their own by alloy, once with types that are read at run time and once with types that are compiled.
//!
//! Writes a table in Markdown. `bench/run decode` runs it; it is no test.

use std::{hint::black_box, sync::Arc, time::Instant};

use alloy_dyn_abi::{DynSolEvent, DynSolType};
use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::{SolEvent, sol};
use arrow::{
    array::{ArrayRef, BinaryArray, FixedSizeBinaryArray},
    datatypes::{Field, FieldRef},
};
use datafusion::{
    common::ScalarValue,
    config::ConfigOptions,
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF},
};

sol! {
    event Registered(address indexed owner, address indexed operator, uint64 id, bool approved, bytes32 role);
    event Transfer(address indexed from, address indexed to, uint256 value);
    event Swap(address indexed sender, uint256 amount0In, uint256 amount1In, uint256 amount0Out, uint256 amount1Out, address indexed to);
}

/// Logs of one kind of event.
const LOGS: usize = 8192;
/// How long each way of decoding is measured, at least; the best of all rounds counts.
const ROUNDS: usize = 400;

/// An event, as it is measured.
struct Case {
    name: &'static str,
    signature: String,
    /// The types of the topics behind the first, and of the body.
    types: (Vec<DynSolType>, Vec<DynSolType>),
    topics: Vec<[B256; 3]>,
    data: Vec<Vec<u8>>,
    compiled: fn(&[B256; 3], &[u8]) -> bool,
}

/// Events with two addresses indexed, and words in the body that `word` makes.
fn case(
    name: &'static str,
    signature: &str,
    body: &[DynSolType],
    compiled: fn(&[B256; 3], &[u8]) -> bool,
    word: impl Fn(&DynSolType, u64) -> B256,
) -> Case {
    let bare = signature.split('(').next().unwrap_or_default();
    let types: Vec<_> = signature
        .split_once('(')
        .map(|(_, rest)| rest.trim_end_matches(')').split(','))
        .into_iter()
        .flatten()
        .map(|parameter| parameter.trim().split(' ').next().unwrap_or_default())
        .collect();
    let topic0 = keccak256(format!("{bare}({})", types.join(",")));
    let address = |of: u64| keccak256(of.to_be_bytes()) & B256::from(U256::MAX >> 96);
    let topics = (0..LOGS as u64).map(|log| [topic0, address(log % 97), address(log % 89 + 1_000)]).collect();
    let word = &word;
    let data = |log: u64| {
        body.iter().enumerate().flat_map(move |(at, ty)| word(ty, log * 7 + at as u64).0).collect()
    };
    Case {
        name,
        signature: signature.to_owned(),
        types: (vec![DynSolType::Address; 2], body.to_vec()),
        topics,
        data: (0..LOGS as u64).map(data).collect(),
        compiled,
    }
}

fn cases() -> [Case; 3] {
    let amount = |_: &DynSolType, seed: u64| {
        let digest: U256 = keccak256(seed.to_le_bytes()).into();
        B256::from(digest >> (150 + seed as usize % 60))
    };
    let wide = DynSolType::Uint(256);
    let words = [DynSolType::Uint(64), DynSolType::Bool, DynSolType::FixedBytes(32)];
    let word = |ty: &DynSolType, seed: u64| match ty {
        DynSolType::Uint(_) => B256::from(U256::from(seed)),
        DynSolType::Bool => B256::from(U256::from(seed % 2)),
        _ => keccak256(seed.to_le_bytes()),
    };
    [
        case(
            "words only: `Registered`",
            "Registered(address indexed owner, address indexed operator, uint64 id, bool approved, bytes32 role)",
            &words,
            |topics, data| Registered::decode_raw_log(topics, data).is_ok(),
            word,
        ),
        case(
            "an amount, as text: `Transfer`",
            "Transfer(address indexed from, address indexed to, uint256 value)",
            std::slice::from_ref(&wide),
            |topics, data| Transfer::decode_raw_log(topics, data).is_ok(),
            amount,
        ),
        case(
            "four amounts, as text: `Swap`",
            "Swap(address indexed sender, uint256 amount0In, uint256 amount1In, uint256 amount0Out, uint256 amount1Out, address indexed to)",
            &vec![wide.clone(); 4],
            |topics, data| Swap::decode_raw_log(topics, data).is_ok(),
            |ty, seed| if seed % 2 == 0 { B256::ZERO } else { amount(ty, seed) },
        ),
    ]
}

/// The best rate of all rounds, in events a second.
fn best(mut round: impl FnMut()) -> f64 {
    round();
    let time = |_| {
        let started = Instant::now();
        round();
        started.elapsed().as_secs_f64()
    };
    let least = (0..ROUNDS).map(time).fold(f64::INFINITY, f64::min);
    LOGS as f64 / least
}

/// What the function makes of the logs, as a query calls it.
fn into_columns(function: &ScalarUDF, case: &Case) -> f64 {
    let topic = |at: usize| {
        let values = case.topics.iter().map(move |topics| topics[at].0);
        Arc::new(FixedSizeBinaryArray::try_from_iter(values).expect("words")) as ArrayRef
    };
    let data: ArrayRef = Arc::new(BinaryArray::from_iter_values(&case.data));
    let none = ScalarValue::FixedSizeBinary(32, None);
    let signature = ScalarValue::from(case.signature.as_str());
    let args = [
        ColumnarValue::Array(topic(1)),
        ColumnarValue::Array(topic(2)),
        ColumnarValue::Scalar(none),
        ColumnarValue::Array(data),
        ColumnarValue::Scalar(signature.clone()),
    ];
    let arg_fields: Vec<FieldRef> =
        args.iter().map(|arg| Arc::new(Field::new("a", arg.data_type(), true))).collect();
    let literals = [None, None, None, None, Some(&signature)];
    let return_field = function
        .return_field_from_args(ReturnFieldArgs { arg_fields: &arg_fields, scalar_arguments: &literals })
        .expect("a type");
    let config_options = Arc::new(ConfigOptions::default());
    best(|| {
        let args = ScalarFunctionArgs {
            args: args.to_vec(),
            arg_fields: arg_fields.clone(),
            number_rows: LOGS,
            return_field: Arc::clone(&return_field),
            config_options: Arc::clone(&config_options),
        };
        black_box(function.invoke_with_args(args).expect("columns"));
    })
}

fn main() {
    let functions = nozzle_query::functions();
    let function =
        functions.iter().find(|function| function.name() == "evm_decode_log").expect("the function");
    println!("## Decoding: million events per second of one processor\n");
    println!(
        "| | nozzle, into columns | alloy, `DynSolEvent` | alloy, `sol!` | of `DynSolEvent` | of `sol!` |"
    );
    println!("| --- | --: | --: | --: | --: | --: |");
    for case in cases() {
        let ours = into_columns(function, &case);
        let (indexed, body) = case.types.clone();
        let event =
            DynSolEvent::new(Some(case.topics[0][0]), indexed, DynSolType::Tuple(body)).expect("an event");
        let logs = || case.topics.iter().zip(&case.data);
        let dynamic = best(|| {
            for (topics, data) in logs() {
                black_box(event.decode_log_parts(*topics, data).expect("values"));
            }
        });
        let compiled = best(|| {
            for (topics, data) in logs() {
                assert!(black_box((case.compiled)(topics, data)), "values");
            }
        });
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            case.name,
            ours / 1e6,
            dynamic / 1e6,
            compiled / 1e6,
            ours / dynamic,
            ours / compiled
        );
    }
}
