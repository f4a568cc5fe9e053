//! The columns that hold lists. Byte strings within lists are of the type Binary, whatever their
//! length: common readers fail on fixed-size ones there.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, PrimitiveArray},
    datatypes::{DataType, UInt64Type},
    error::ArrowError,
};

use super::values::{Fixed, Num};
use crate::evm::{
    columns::{BadRow, ByteStrings, Column, Table, Values},
    hex::Bad,
    lists::{Ends, item},
};

fn for_each<R>(rows: &[R], mut append: impl FnMut(&R) -> Result<(), Bad>) -> Result<(), BadRow> {
    rows.iter().enumerate().try_for_each(|(index, row)| append(row).map_err(|bad| (index, bad)))
}

/// A nullable column of lists of byte strings, each of one length.
pub(crate) fn byte_lists_or_null<const N: usize, T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> Option<&'r [Fixed<N>]> + Copy + Send + Sync + 'static,
) -> Column<T> {
    byte_lists_column(name, true, get)
}

/// A column of lists of byte strings, each of one length, without nulls.
pub(crate) fn byte_lists<const N: usize, T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> &'r [Fixed<N>] + Copy + Send + Sync + 'static,
) -> Column<T> {
    byte_lists_column::<N, T, _>(name, false, move |row| Some(get(row)))
}

fn byte_lists_column<const N: usize, T: Table, G>(name: &str, nullable: bool, get: G) -> Column<T>
where
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> Option<&'r [Fixed<N>]> + Copy + Send + Sync + 'static,
{
    Column::new(name, DataType::List(item(DataType::Binary)), nullable, move |rows| ByteLists {
        get,
        ends: Ends::new(rows),
        values: ByteStrings::new(0),
    })
}

struct ByteLists<G> {
    get: G,
    ends: Ends,
    values: ByteStrings,
}

impl<const N: usize, T, G> Values<T> for ByteLists<G>
where
    T: Table,
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> Option<&'r [Fixed<N>]> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for_each(rows, |row| {
            let list = (self.get)(row);
            for Fixed(bytes) in list.unwrap_or_default() {
                self.values.push(bytes)?;
            }
            self.ends.push(self.values.len(), list.is_some())
        })
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let values = self.values.finish(None)?;
        Ok(Arc::new(self.ends.finish(item(DataType::Binary), Arc::new(values))?))
    }
}

/// A column of lists of numbers, without nulls.
pub(crate) fn number_lists<T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> &'r [Num] + Copy + Send + Sync + 'static,
) -> Column<T> {
    Column::new(name, DataType::List(item(DataType::UInt64)), false, move |rows| NumberLists {
        get,
        ends: Ends::new(rows),
        values: vec![],
    })
}

struct NumberLists<G> {
    get: G,
    ends: Ends,
    values: Vec<u64>,
}

impl<T, G> Values<T> for NumberLists<G>
where
    T: Table,
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> &'r [Num] + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for_each(rows, |row| {
            self.values.extend((self.get)(row).iter().map(|number| number.0));
            self.ends.push(self.values.len(), true)
        })
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let values: PrimitiveArray<UInt64Type> = self.values.into();
        Ok(Arc::new(self.ends.finish(item(DataType::UInt64), Arc::new(values))?))
    }
}
