//! Tests of the JSON encoder: a type or two each.

use std::sync::Arc;

use arrow::array::types::*;
use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, UnionFields, UnionMode, i256};
use serde_json::Value;

use super::super::testing::{Dice, batch, text_of};
use super::*;

/// The lines of a batch; each is checked to be JSON by itself.
fn lines(batch: &RecordBatch, decimals: DecimalFormat) -> Vec<String> {
    let json = JsonLines::new(&batch.schema(), decimals).unwrap();
    let text = text_of(|out| json.encode(batch, out).unwrap());
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines: Vec<String> = text.lines().map(String::from).collect();
    assert_eq!(lines.len(), batch.num_rows());
    for line in &lines {
        let value: Value = serde_json::from_slice(line.as_bytes()).unwrap();
        assert!(value.is_object(), "{line}");
    }
    lines
}

/// What each row of a single column `c` has after its name; empty where it is left out.
fn cells(array: impl Array + 'static) -> Vec<String> {
    let column: ArrayRef = Arc::new(array);
    let cell = |line: String| match line.strip_prefix("{\"c\":") {
        Some(rest) => rest.strip_suffix('}').unwrap().to_owned(),
        None => line.strip_prefix("{}").unwrap().to_owned(),
    };
    lines(&batch(vec![("c", column)]), DecimalFormat::String).into_iter().map(cell).collect()
}

#[test]
fn integers_keep_all_their_bits() {
    assert_eq!(cells(Int8Array::from(vec![i8::MIN, i8::MAX])), ["-128", "127"]);
    assert_eq!(cells(Int16Array::from(vec![i16::MIN])), ["-32768"]);
    assert_eq!(cells(Int32Array::from(vec![i32::MIN])), ["-2147483648"]);
    assert_eq!(
        cells(Int64Array::from(vec![i64::MIN, i64::MAX])),
        ["-9223372036854775808", "9223372036854775807"]
    );
    assert_eq!(cells(UInt8Array::from(vec![255])), ["255"]);
    assert_eq!(cells(UInt16Array::from(vec![65535])), ["65535"]);
    assert_eq!(cells(UInt32Array::from(vec![u32::MAX])), ["4294967295"]);
    assert_eq!(cells(UInt64Array::from(vec![u64::MAX])), ["18446744073709551615"]);
}

#[test]
fn floats_are_the_shortest_and_what_is_no_number_is_a_string() {
    let special = [r#""NaN""#, r#""Infinity""#, r#""-Infinity""#, "0.1", "-0.0"];
    let wide = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1, -0.0];
    assert_eq!(cells(Float64Array::from(wide.to_vec())), special);
    assert_eq!(cells(Float32Array::from(wide.map(|value| value as f32).to_vec())), special);
    let halves = arrow::compute::cast(&Float32Array::from(vec![1.5, f32::NAN]), &DataType::Float16).unwrap();
    assert_eq!(cells(halves.as_primitive::<Float16Type>().clone()), ["1.5", r#""NaN""#]);
}

#[test]
fn decimals_of_every_width_are_exact_strings() {
    let narrow = Decimal32Array::from(vec![-5]).with_precision_and_scale(9, 2).unwrap();
    assert_eq!(cells(narrow), [r#""-0.05""#]);
    let double = Decimal64Array::from(vec![10]).with_precision_and_scale(18, 1).unwrap();
    assert_eq!(cells(double), [r#""1.0""#]);
    let most = 10i128.pow(38) - 1;
    let wide = Decimal128Array::from(vec![most, -most]).with_precision_and_scale(38, 0).unwrap();
    assert_eq!(cells(wide), [format!("\"{most}\""), format!("\"-{most}\"")]);
    let widest = i256::from_string(&"9".repeat(76)).unwrap();
    let widest = Decimal256Array::from(vec![widest]).with_precision_and_scale(76, 76).unwrap();
    assert_eq!(cells(widest), [format!("\"0.{}\"", "9".repeat(76))]);
}

#[test]
fn decimals_as_numbers_are_json_too() {
    let column: ArrayRef = Arc::new(
        Decimal128Array::from(vec![0, -1, 12345, 10i128.pow(37)]).with_precision_and_scale(38, 3).unwrap(),
    );
    let rows = batch(vec![("c", column)]);
    let first = lines(&rows, DecimalFormat::Number);
    assert_eq!(first[..3], [r#"{"c":0.000}"#, r#"{"c":-0.001}"#, r#"{"c":12.345}"#]);
}

#[test]
fn binary_of_every_kind_is_hex() {
    let bytes: [&[u8]; 2] = [&[0x00, 0xff, 0x0a], &[]];
    let expected = [r#""0x00ff0a""#, r#""0x""#];
    assert_eq!(cells(BinaryArray::from_vec(bytes.to_vec())), expected);
    assert_eq!(cells(LargeBinaryArray::from_vec(bytes.to_vec())), expected);
    assert_eq!(cells(BinaryViewArray::from_iter_values(bytes)), expected);
    let fixed = FixedSizeBinaryArray::try_from_iter([[1u8, 2], [0xab, 0xcd]].iter()).unwrap();
    assert_eq!(cells(fixed), [r#""0x0102""#, r#""0xabcd""#]);
    assert_eq!(cells(BinaryViewArray::from_iter_values([[7u8; 40]])), [format!("\"0x{}\"", "07".repeat(40))]);
}

#[test]
fn texts_and_names_are_escaped() {
    let texts = ["", "a\"b", "\\", "\n\t\u{0}\u{1f}", "日本語 🦀\u{2028}", "</script>"];
    let expected = texts.map(|text| serde_json::to_string(text).unwrap());
    assert_eq!(cells(StringArray::from(texts.to_vec())), expected);
    assert_eq!(cells(LargeStringArray::from(texts.to_vec())), expected);
    assert_eq!(cells(StringViewArray::from(texts.to_vec())), expected);
    let column: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
    let rows = batch(vec![("sum(\"x\")\n", column)]);
    assert_eq!(lines(&rows, DecimalFormat::String), [r#"{"sum(\"x\")\n":true}"#]);
}

#[test]
fn times_are_iso_8601() {
    let micros = vec![1_689_242_399_000_000, -1, 1_500];
    let zoned = TimestampMicrosecondArray::from(micros.clone()).with_timezone("+02:00");
    let expected = ["2023-07-13T09:59:59", "1969-12-31T23:59:59.999999", "1970-01-01T00:00:00.001500"];
    assert_eq!(cells(zoned), expected.map(|text| format!("\"{text}Z\"")));
    assert_eq!(cells(TimestampMicrosecondArray::from(micros)), expected.map(|text| format!("\"{text}Z\"")));
    let second = r#""1970-01-01T00:00:01Z""#;
    assert_eq!(cells(TimestampSecondArray::from(vec![1])), [second]);
    assert_eq!(cells(TimestampMillisecondArray::from(vec![1000])), [second]);
    assert_eq!(cells(TimestampNanosecondArray::from(vec![1_000_000_000])), [second]);
    assert_eq!(cells(Date32Array::from(vec![19551])), [r#""2023-07-13""#]);
    assert_eq!(cells(Date64Array::from(vec![86_400_000])), [r#""1970-01-02""#]);
    assert_eq!(cells(Time32SecondArray::from(vec![3661])), [r#""01:01:01""#]);
    assert_eq!(cells(Time32MillisecondArray::from(vec![1])), [r#""00:00:00.001""#]);
    assert_eq!(cells(Time64MicrosecondArray::from(vec![1])), [r#""00:00:00.000001""#]);
    assert_eq!(cells(Time64NanosecondArray::from(vec![1])), [r#""00:00:00.000000001""#]);
}

#[test]
fn spans_are_iso_8601() {
    assert_eq!(cells(DurationSecondArray::from(vec![61])), [r#""PT1M1S""#]);
    assert_eq!(cells(DurationMillisecondArray::from(vec![1])), [r#""PT0.001S""#]);
    assert_eq!(cells(DurationMicrosecondArray::from(vec![-1])), [r#""PT-0.000001S""#]);
    assert_eq!(cells(DurationNanosecondArray::from(vec![0])), [r#""PT0S""#]);
    assert_eq!(cells(IntervalYearMonthArray::from(vec![13])), [r#""P1Y1M""#]);
    let days = IntervalDayTime { days: 2, milliseconds: -500 };
    assert_eq!(cells(IntervalDayTimeArray::from(vec![days])), [r#""P2DT-0.500S""#]);
    let mixed = IntervalMonthDayNano { months: 1, days: 2, nanoseconds: 3_000_000_000 };
    assert_eq!(cells(IntervalMonthDayNanoArray::from(vec![mixed])), [r#""P1M2DT3S""#]);
}

#[test]
fn nulls_are_left_out_wherever_they_stand() {
    let column = |values: [Option<i64>; 4]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let rows = batch(vec![
        ("a", column([None, Some(1), None, Some(1)])),
        ("none", Arc::new(NullArray::new(4))),
        ("b", column([None, None, Some(2), Some(2)])),
    ]);
    let expected = ["{}", r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a":1,"b":2}"#];
    assert_eq!(lines(&rows, DecimalFormat::String), expected);
    assert_eq!(lines(&rows.slice(2, 2), DecimalFormat::String), expected[2..]);
}

#[test]
fn lists_of_every_kind_are_arrays_with_nulls_in_them() {
    let rows = || [Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(2), Some(3)])];
    let expected = ["[1,null]", "", "[]", "[2,3]"];
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(rows());
    assert_eq!(cells(list.clone()), expected);
    assert_eq!(cells(list.slice(2, 2)), expected[2..]);
    assert_eq!(cells(LargeListArray::from_iter_primitive::<Int32Type, _, _>(rows())), expected);
    let item = Arc::new(Field::new_list_field(DataType::Int32, true));
    for data_type in [DataType::ListView(Arc::clone(&item)), DataType::LargeListView(item)] {
        assert_eq!(cells(arrow::compute::cast(&list, &data_type).unwrap()), expected, "{data_type}");
    }
    let pairs = [Some(vec![Some(1), Some(2)]), None, Some(vec![None, Some(4)])];
    let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(pairs, 2);
    assert_eq!(cells(fixed.clone()), ["[1,2]", "", "[null,4]"]);
    assert_eq!(cells(fixed.slice(2, 1)), ["[null,4]"]);
}

#[test]
fn structs_are_objects_without_their_null_fields() {
    let fields =
        Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("y\"", DataType::Binary, true)]);
    let x: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
    let y: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![None, None, Some(&[0xff])]));
    let valid = NullBuffer::from(vec![true, true, false]);
    let array = StructArray::new(fields.clone(), vec![Arc::clone(&x), Arc::clone(&y)], Some(valid));
    assert_eq!(cells(array.clone()), [r#"{"x":1}"#, "{}", ""]);
    let whole = StructArray::new(fields.clone(), vec![x, y], None);
    assert_eq!(cells(whole.slice(2, 1)), [r#"{"x":3,"y\"":"0xff"}"#]);
    let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
    let list = ListArray::new(item, OffsetBuffer::from_lengths([3, 0]), Arc::new(array), None);
    assert_eq!(cells(list), [r#"[{"x":1},{},null]"#, "[]"]);
}

/// A map with one entry for each key, all in one row.
fn map(keys: ArrayRef, values: ArrayRef) -> MapArray {
    let fields = Fields::from(vec![
        Field::new("keys", keys.data_type().clone(), false),
        Field::new("values", values.data_type().clone(), true),
    ]);
    let entries = StructArray::new(fields.clone(), vec![keys, values], None);
    let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    MapArray::new(field, OffsetBuffer::from_lengths([0, entries.len()]), entries, None, false)
}

#[test]
fn maps_are_objects_with_keys_as_text_and_keep_their_null_values() {
    let values = || Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef;
    let texts = map(Arc::new(StringArray::from(vec!["a\"", ""])), values());
    assert_eq!(cells(texts.clone()), ["{}", r#"{"a\"":1,"":null}"#]);
    assert_eq!(cells(texts.slice(1, 1)), [r#"{"a\"":1,"":null}"#]);
    let numbers = map(Arc::new(UInt64Array::from(vec![u64::MAX, 0])), values());
    assert_eq!(cells(numbers), ["{}", r#"{"18446744073709551615":1,"0":null}"#]);
    let bytes = map(Arc::new(BinaryArray::from_vec(vec![b"\x01", b""])), values());
    assert_eq!(cells(bytes), ["{}", r#"{"0x01":1,"0x":null}"#]);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)]), Some([None])]);
    assert_eq!(cells(map(Arc::new(list), values())), ["{}", r#"{"[1]":1,"[null]":null}"#]);
}

#[test]
fn dictionaries_and_runs_are_their_values() {
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("y")]));
    let keys = Int8Array::from(vec![Some(2), Some(1), None, Some(0)]);
    let coded = DictionaryArray::new(keys, Arc::clone(&words));
    assert_eq!(cells(coded.clone()), [r#""y""#, "", "", r#""x""#]);
    assert_eq!(cells(coded.slice(2, 2)), ["", r#""x""#]);
    let none = DictionaryArray::new(Int8Array::from(vec![None, None]), Arc::new(StringArray::new_null(0)));
    assert_eq!(cells(none), ["", ""]);
    let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3, 5]), &words).unwrap();
    assert_eq!(cells(runs.clone()), [r#""x""#, r#""x""#, "", r#""y""#, r#""y""#]);
    assert_eq!(cells(runs.slice(1, 3)), [r#""x""#, "", r#""y""#]);
    let item = Arc::new(Field::new_list_field(coded.data_type().clone(), true));
    let list = ListArray::new(item, OffsetBuffer::from_lengths([1, 3]), Arc::new(coded), None);
    assert_eq!(cells(list), [r#"["y"]"#, r#"[null,null,"x"]"#]);
}

#[test]
fn a_union_is_refused_and_named_also_deep_inside() {
    let fields = UnionFields::from_iter([(0, Arc::new(Field::new("a", DataType::Int32, true)))]);
    let union = DataType::Union(fields, UnionMode::Dense);
    for data_type in [union.clone(), DataType::new_list(union, true)] {
        let schema = Schema::new(vec![Field::new("odd", data_type, true)]);
        let error = JsonLines::new(&schema, DecimalFormat::String).unwrap_err();
        assert!(format!("{error:#}").contains("odd") && format!("{error:#}").contains("union"));
    }
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let field = Field::new("hash", DataType::Utf8, true);
    let error = JsonLines::new(&Schema::new(vec![field.clone(), field]), DecimalFormat::String).unwrap_err();
    assert!(error.to_string().contains("`hash`"));
}

#[test]
fn every_type_can_be_empty_or_null() {
    use arrow::datatypes::{IntervalUnit::*, TimeUnit::*};
    let inner = Arc::new(Field::new_list_field(DataType::Utf8View, true));
    let entries = Fields::from(vec![
        Field::new("keys", DataType::Utf8, false),
        Field::new("values", DataType::Int8, true),
    ]);
    let types = [
        DataType::Duration(Second),
        DataType::Interval(MonthDayNano),
        DataType::FixedSizeBinary(0),
        DataType::FixedSizeList(Arc::clone(&inner), 0),
        DataType::FixedSizeList(Arc::clone(&inner), 3),
        DataType::ListView(Arc::clone(&inner)),
        DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false),
        DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Decimal256(76, 3))),
        DataType::RunEndEncoded(Arc::new(Field::new("run_ends", DataType::Int16, false)), inner),
        DataType::Struct(Fields::empty()),
    ];
    for data_type in types {
        assert!(cells(new_empty_array(&data_type)).is_empty(), "{data_type}");
        assert_eq!(cells(new_null_array(&data_type, 2)), ["", ""], "{data_type}");
    }
}

#[test]
fn a_batch_of_other_columns_is_an_error_and_writes_nothing() {
    let schema = Schema::new(vec![Field::new("a", DataType::Int32, true)]);
    let json = JsonLines::new(&schema, DecimalFormat::String).unwrap();
    let mut out = b"before".to_vec();
    let column = || Arc::new(Int32Array::from(vec![1])) as ArrayRef;
    assert!(json.encode(&batch(vec![("a", column()), ("b", column())]), &mut out).is_err());
    assert_eq!(out, b"before");
}

/// Rows of random values, with a nested column.
fn random_rows(dice: &mut Dice, rows: usize) -> RecordBatch {
    let numbers: Vec<Option<i64>> =
        (0..rows).map(|_| (!dice.u64().is_multiple_of(4)).then(|| dice.i128() as i64)).collect();
    // Few enough digits for serde_json, whose parser is off by a last bit for some long ones.
    let floats: Vec<f64> = (0..rows).map(|_| (dice.u64() % 1_000_000) as f64 / 64.0).collect();
    let mut text =
        || (0..dice.u64() % 20).filter_map(|_| char::from_u32(dice.u64() as u32 % 0x3000)).collect();
    let texts: Vec<String> = (0..rows).map(|_| text()).collect();
    let lengths: Vec<usize> = (0..rows).map(|_| (dice.u64() % 4) as usize).collect();
    let items: Vec<Option<u64>> =
        (0..lengths.iter().sum()).map(|_| Some(dice.u64()).filter(|n| !n.is_multiple_of(3))).collect();
    let item = Arc::new(Field::new_list_field(DataType::UInt64, true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list = ListArray::new(item, offsets, Arc::new(UInt64Array::from(items)), None);
    batch(vec![
        (
            "number",
            Arc::new(Int64Array::new(
                numbers.iter().map(|n| n.unwrap_or(7)).collect::<ScalarBuffer<_>>(),
                Some(numbers.iter().map(Option::is_some).collect()),
            )),
        ),
        ("float", Arc::new(Float64Array::from(floats))),
        ("text", Arc::new(StringViewArray::from_iter_values(texts))),
        ("list", Arc::new(list)),
    ])
}

#[test]
fn random_rows_read_the_same_as_those_of_another_writer() {
    let mut dice = Dice::new(8);
    for _ in 0..50 {
        let rows = random_rows(&mut dice, 40);
        let rows = rows.slice((dice.u64() % 20) as usize, 20);
        let mut other = arrow::json::LineDelimitedWriter::new(Vec::new());
        other.write(&rows).unwrap();
        let other = String::from_utf8(other.into_inner()).unwrap();
        for (ours, theirs) in lines(&rows, DecimalFormat::String).iter().zip(other.lines()) {
            let [ours, theirs] = [ours, theirs].map(|line| serde_json::from_str::<Value>(line).unwrap());
            assert_eq!(ours, theirs);
        }
    }
}
