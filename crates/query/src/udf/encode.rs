//! Encoding of Arrow values as the contract ABI has them.

use alloy_primitives::U256;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use datafusion::{common::exec_err, error::Result};

use super::{
    abi::{Named, Type, WORD},
    decode::{is_bytes, rows_of_bytes},
    u256::{Number, is_number, numbers, shortened},
};

/// Whether values of an Arrow type can be encoded as a type; the reason where they cannot.
pub(super) fn check(ty: &Type, given: &DataType) -> Result<(), String> {
    let wrong = || Err(format!("a value of the type {given} cannot be encoded as {ty}"));
    match (ty, given) {
        (_, DataType::Null) => Ok(()),
        (Type::Bool, DataType::Boolean) => Ok(()),
        (Type::Uint(_) | Type::Int(_), given) if is_number(given) && !is_bytes(given) => Ok(()),
        (Type::Address | Type::FixedBytes(_) | Type::Bytes, given)
            if is_bytes(given) || given.is_string() =>
        {
            Ok(())
        }
        (Type::String, given) if given.is_string() => Ok(()),
        (
            Type::List(item) | Type::FixedList(item, _),
            DataType::List(field) | DataType::FixedSizeList(field, _),
        ) => check(item, field.data_type()),
        (Type::Tuple(fields), DataType::Struct(given)) if fields.len() == given.len() => {
            fields.iter().zip(given).try_for_each(|(field, given)| check(&field.ty, given.data_type()))
        }
        _ => wrong(),
    }
}

/// A column, ready to be encoded row by row.
enum Values {
    Bools(Vec<Option<bool>>),
    Numbers(Vec<Option<Number>>),
    Bytes(Vec<Option<Vec<u8>>>),
    List { items: Box<Column>, ranges: Vec<Option<(usize, usize)>> },
    Tuple { fields: Vec<Column>, is_there: Vec<bool> },
    Nothing,
}

/// A column and the type that it is encoded as.
pub(super) struct Column {
    ty: Type,
    values: Values,
}

impl Column {
    /// The values of an array; [`check`] has found that they can be encoded.
    pub fn new(ty: &Type, array: &ArrayRef) -> Result<Self> {
        let values = match (ty, array.data_type()) {
            (_, DataType::Null) => Values::Nothing,
            (Type::Bool, _) => Values::Bools(array.as_boolean().iter().collect()),
            (Type::Uint(_) | Type::Int(_), _) => Values::Numbers(numbers(array)?),
            (Type::String, _) => {
                Values::Bytes(texts(array)?.into_iter().map(|t| t.map(String::into_bytes)).collect())
            }
            (Type::Address | Type::FixedBytes(_) | Type::Bytes, given) if given.is_string() => {
                let read = |text: String| hex_of(ty, &text);
                let bytes: Result<Vec<_>> =
                    texts(array)?.into_iter().map(|text| text.map(read).transpose()).collect();
                Values::Bytes(bytes?)
            }
            (Type::Address | Type::FixedBytes(_) | Type::Bytes, _) => {
                let rows = rows_of_bytes("the value", array)?;
                Values::Bytes(rows.into_iter().map(|bytes| bytes.map(<[u8]>::to_vec)).collect())
            }
            (Type::List(item) | Type::FixedList(item, _), _) => list(item, array)?,
            (Type::Tuple(fields), _) => {
                let structs = array.as_struct();
                let columns = fields.iter().zip(structs.columns());
                let columns = columns.map(|(field, column)| Self::new(&field.ty, column));
                Values::Tuple {
                    fields: columns.collect::<Result<_>>()?,
                    is_there: (0..array.len()).map(|row| array.is_valid(row)).collect(),
                }
            }
        };
        Ok(Self { ty: ty.clone(), values })
    }

    /// Whether a row has a value.
    pub fn is_there(&self, row: usize) -> bool {
        match &self.values {
            Values::Bools(values) => values[row].is_some(),
            Values::Numbers(values) => values[row].is_some(),
            Values::Bytes(values) => values[row].is_some(),
            Values::List { ranges, .. } => ranges[row].is_some(),
            Values::Tuple { is_there, .. } => is_there[row],
            Values::Nothing => false,
        }
    }

    /// Appends what stands in the place of the value: the value itself, where its length is known.
    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if !self.is_there(row) {
            return exec_err!("a null cannot be encoded as {}", self.ty);
        }
        match &self.values {
            Values::Bools(values) => out.extend(word(U256::from(u8::from(values[row] == Some(true))))),
            Values::Numbers(values) => out.extend(self.number(values[row])?),
            Values::Bytes(values) => self.put_bytes(values[row].as_deref().unwrap_or_default(), out)?,
            Values::List { items, ranges } => {
                let (start, end) = ranges[row].unwrap_or_default();
                match self.ty {
                    Type::FixedList(_, count) if count != end - start => {
                        return exec_err!("a list of {} items cannot be encoded as {}", end - start, self.ty);
                    }
                    Type::FixedList(..) => {}
                    _ => out.extend(word(U256::from(end - start))),
                }
                put_together((start..end).map(|row| (&**items, row)), out)?;
            }
            Values::Tuple { fields, .. } => put_together(fields.iter().map(|field| (field, row)), out)?,
            Values::Nothing => {}
        }
        Ok(())
    }

    fn number(&self, number: Option<Number>) -> Result<[u8; WORD]> {
        let Some(number) = number else { return Ok([0; WORD]) };
        let Number { is_negative, magnitude } = number;
        let bits = magnitude.bit_len();
        let is_in_range = match self.ty {
            Type::Uint(width) => !is_negative && bits <= width,
            // The lowest one has as many bits as the type.
            Type::Int(width) => bits < width || (is_negative && bits == width && magnitude.is_power_of_two()),
            _ => false,
        };
        if !is_in_range {
            return exec_err!("{number} is out of the range of {}", self.ty);
        }
        Ok(if is_negative { magnitude.wrapping_neg() } else { magnitude }.to_be_bytes())
    }

    fn put_bytes(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = match self.ty {
            Type::Address if bytes.len() == 20 => {
                out.extend([0; 12]);
                out.extend(bytes);
                return Ok(());
            }
            Type::FixedBytes(size) if bytes.len() == size => out.len(),
            Type::Bytes | Type::String => {
                out.extend(word(U256::from(bytes.len())));
                out.len()
            }
            _ => return exec_err!("{} bytes cannot be encoded as {}", bytes.len(), self.ty),
        };
        out.extend(bytes);
        out.resize(start + bytes.len().next_multiple_of(WORD), 0);
        Ok(())
    }
}

/// Appends values side by side: those of known length in their places, of others an offset there and the
/// value behind all.
fn put_together<'a>(
    values: impl Iterator<Item = (&'a Column, usize)> + Clone,
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    let head: usize = values.clone().map(|(column, _)| column.ty.head_bytes()).sum();
    let mut behind = vec![];
    for (column, row) in values {
        if column.ty.is_dynamic() {
            out.extend(word(U256::from(head + behind.len())));
            column.put(row, &mut behind)?;
        } else {
            column.put(row, out)?;
        }
    }
    debug_assert_eq!(out.len() - start, head);
    out.extend(behind);
    Ok(())
}

/// One row of several values, as parameters are encoded; `None` where one is null.
pub(super) fn parameters(columns: &[Column], row: usize, before: &[u8]) -> Result<Option<Vec<u8>>> {
    if columns.iter().any(|column| !column.is_there(row)) {
        return Ok(None);
    }
    let mut out = before.to_vec();
    put_together(columns.iter().map(|column| (column, row)), &mut out)?;
    Ok(Some(out))
}

/// The columns of parameters.
pub(super) fn columns(types: &[Named], arrays: &[ArrayRef]) -> Result<Vec<Column>> {
    types.iter().zip(arrays).map(|(named, array)| Column::new(&named.ty, array)).collect()
}

fn word(number: U256) -> [u8; WORD] {
    number.to_be_bytes()
}

fn texts(array: &ArrayRef) -> Result<Vec<Option<String>>> {
    let text = arrow::compute::cast(array, &DataType::Utf8)?;
    Ok(text.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect())
}

fn hex_of(ty: &Type, text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("0x").map(const_hex::decode) {
        Some(Ok(bytes)) => Ok(bytes),
        _ => exec_err!("`{}` cannot be encoded as {ty}: it is no `0x` text", shortened(text)),
    }
}

fn list(item: &Type, array: &ArrayRef) -> Result<Values> {
    if let Some(lists) = array.as_list_opt::<i32>() {
        let range =
            |row: usize| (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
        let ranges = (0..lists.len()).map(|row| lists.is_valid(row).then(|| range(row))).collect();
        return Ok(Values::List { items: Box::new(Column::new(item, lists.values())?), ranges });
    }
    let lists = array.as_fixed_size_list();
    let length = lists.value_length() as usize;
    let range = |row: usize| (row * length, (row + 1) * length);
    let ranges = (0..lists.len()).map(|row| lists.is_valid(row).then(|| range(row))).collect();
    Ok(Values::List { items: Box::new(Column::new(item, lists.values())?), ranges })
}
