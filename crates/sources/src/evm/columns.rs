//! Columns: a name, a type, and how a row gives the value, said once in one place.
//!
//! The list of a table's [`Column`]s is both its schema and the way its rows are built. Rows come
//! a block at a time and are appended column by column, straight from the hex text into the
//! buffers of the arrays; a column that is not selected is never looked at.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, FixedSizeBinaryArray,
        NullBufferBuilder, PrimitiveArray, RecordBatch, StringBuilder,
    },
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    datatypes::{
        DataType, Decimal128Type, Field, Int32Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
        UInt32Type, UInt64Type,
    },
    error::ArrowError,
};
use nozzle_core::TableDef;

use super::hex::{self, Bad};
use crate::source::TableRows;

/// A table, as the type that its rows borrow from a response.
pub(crate) trait Table: 'static {
    /// The table's name.
    const NAME: &'static str;
    /// One row.
    type Row<'a>;
    /// Every column but the first, `_block_num`, in the table's order.
    fn columns() -> Vec<Column<Self>>
    where
        Self: Sized;
    /// The number of the row's block.
    fn block_num(row: &Self::Row<'_>) -> u64;
}

/// The rows of one block that could not be appended: which row, and why.
pub(crate) type BadRow = (usize, Bad);

/// The values of one column while they are collected.
pub(crate) trait Values<T: Table>: Send {
    /// Appends a value for each of the rows.
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow>;
    /// The array of all values.
    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError>;
}

type Start<T> = Arc<dyn Fn(usize) -> Box<dyn Values<T>> + Send + Sync>;

/// A column of a table.
pub(crate) struct Column<T: Table> {
    /// Its name, type and nullability.
    pub field: Field,
    /// Makes an empty buffer for about so many values.
    start: Start<T>,
}

impl<T: Table> Column<T> {
    /// A column whose values are collected by what `start` makes.
    pub fn new<V, F>(name: &str, data_type: DataType, nullable: bool, start: F) -> Self
    where
        V: Values<T> + 'static,
        F: Fn(usize) -> V + Send + Sync + 'static,
    {
        let start: Start<T> = Arc::new(move |rows| Box::new(start(rows)));
        Self { field: Field::new(name, data_type, nullable), start }
    }
}

/// The type of all timestamps.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

const DECIMAL: DataType = DataType::Decimal128(38, 0);

/// Numbers of any width.
struct Numbers<P: ArrowPrimitiveType, G> {
    get: G,
    data_type: DataType,
    values: Vec<P::Native>,
    nulls: NullBufferBuilder,
}

impl<T, P, G> Values<T> for Numbers<P, G>
where
    T: Table,
    P: ArrowPrimitiveType,
    G: for<'a> Fn(&T::Row<'a>) -> Result<Option<P::Native>, Bad> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for (index, row) in rows.iter().enumerate() {
            let value = (self.get)(row).map_err(|bad| (index, bad))?;
            self.nulls.append(value.is_some());
            self.values.push(value.unwrap_or_default());
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let array = PrimitiveArray::<P>::try_new(self.values.into(), self.nulls.finish())?;
        Ok(Arc::new(array.with_data_type(self.data_type)))
    }
}

fn numbers<T, P, G>(name: &str, data_type: DataType, nullable: bool, get: G) -> Column<T>
where
    T: Table,
    P: ArrowPrimitiveType,
    G: for<'a> Fn(&T::Row<'a>) -> Result<Option<P::Native>, Bad> + Copy + Send + Sync + 'static,
{
    let kind = data_type.clone();
    Column::new(name, data_type, nullable, move |rows| Numbers::<P, G> {
        get,
        data_type: kind.clone(),
        values: Vec::with_capacity(rows),
        nulls: NullBufferBuilder::new(rows),
    })
}

macro_rules! number_columns {
    ($($required:ident, $nullable:ident: $primitive:ty, $native:ty, $data_type:expr;)*) => {$(
        /// A column without nulls.
        #[allow(dead_code)]
        pub(crate) fn $required<T: Table>(
            name: &str,
            get: impl for<'a> Fn(&T::Row<'a>) -> Result<$native, Bad> + Copy + Send + Sync + 'static,
        ) -> Column<T> {
            numbers::<T, $primitive, _>(name, $data_type, false, move |row| get(row).map(Some))
        }

        /// A nullable column.
        #[allow(dead_code)]
        pub(crate) fn $nullable<T: Table>(
            name: &str,
            get: impl for<'a> Fn(&T::Row<'a>) -> Result<Option<$native>, Bad> + Copy + Send + Sync + 'static,
        ) -> Column<T> {
            numbers::<T, $primitive, _>(name, $data_type, true, get)
        }
    )*};
}

number_columns! {
    u64, u64_or_null: UInt64Type, u64, DataType::UInt64;
    u32, u32_or_null: UInt32Type, u32, DataType::UInt32;
    i32, i32_or_null: Int32Type, i32, DataType::Int32;
    decimal, decimal_or_null: Decimal128Type, i128, DECIMAL;
    timestamp, timestamp_or_null: TimestampMicrosecondType, i64, timestamp_type();
}

/// Byte strings of one length.
struct Fixed<const N: usize, G> {
    get: G,
    values: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl<T, const N: usize, G> Values<T> for Fixed<N, G>
where
    T: Table,
    G: for<'a> Fn(&T::Row<'a>) -> Result<Option<[u8; N]>, Bad> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for (index, row) in rows.iter().enumerate() {
            let value = (self.get)(row).map_err(|bad| (index, bad))?;
            self.nulls.append(value.is_some());
            self.values.extend_from_slice(&value.unwrap_or([0; N]));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let (width, nulls) = (fixed_width(N), self.nulls.finish());
        Ok(Arc::new(FixedSizeBinaryArray::try_new(width, Buffer::from_vec(self.values), nulls)?))
    }
}

fn fixed_width(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("the lengths in use are those of hashes, addresses, keys and signatures")
}

/// A column of byte strings of one length, without nulls.
pub(crate) fn fixed<const N: usize, T: Table>(
    name: &str,
    get: impl for<'a> Fn(&T::Row<'a>) -> Result<[u8; N], Bad> + Copy + Send + Sync + 'static,
) -> Column<T> {
    fixed_column(name, false, move |row: &T::Row<'_>| get(row).map(Some))
}

/// A nullable column of byte strings of one length.
pub(crate) fn fixed_or_null<const N: usize, T: Table>(
    name: &str,
    get: impl for<'a> Fn(&T::Row<'a>) -> Result<Option<[u8; N]>, Bad> + Copy + Send + Sync + 'static,
) -> Column<T> {
    fixed_column(name, true, get)
}

fn fixed_column<const N: usize, T: Table, G>(name: &str, nullable: bool, get: G) -> Column<T>
where
    G: for<'a> Fn(&T::Row<'a>) -> Result<Option<[u8; N]>, Bad> + Copy + Send + Sync + 'static,
{
    Column::new(name, DataType::FixedSizeBinary(fixed_width(N)), nullable, move |rows| Fixed::<N, G> {
        get,
        values: Vec::with_capacity(rows * N),
        nulls: NullBufferBuilder::new(rows),
    })
}

/// Byte strings of any length, one after the other.
pub(crate) struct ByteStrings {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl ByteStrings {
    /// None yet, with room for about so many.
    pub fn new(count: usize) -> Self {
        let mut offsets = Vec::with_capacity(count + 1);
        offsets.push(0);
        Self { offsets, bytes: Vec::new() }
    }

    /// Appends what the hex text says.
    pub fn push_hex(&mut self, text: &str) -> Result<(), Bad> {
        hex::append_data(text, &mut self.bytes)?;
        self.end_value()
    }

    /// Appends the bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Bad> {
        self.bytes.extend_from_slice(bytes);
        self.end_value()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn end_value(&mut self) -> Result<(), Bad> {
        self.offsets.push(i32::try_from(self.bytes.len()).map_err(|_| Bad::TooLarge)?);
        Ok(())
    }

    /// The array of all of them.
    pub fn finish(self, nulls: Option<NullBuffer>) -> Result<BinaryArray, ArrowError> {
        let offsets = OffsetBuffer::new(self.offsets.into());
        BinaryArray::try_new(offsets, Buffer::from_vec(self.bytes), nulls)
    }
}

/// Byte strings of any length, from hex text.
struct Data<G> {
    get: G,
    values: ByteStrings,
    nulls: NullBufferBuilder,
}

impl<T, G> Values<T> for Data<G>
where
    T: Table,
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> Result<Option<&'r str>, Bad> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for (index, row) in rows.iter().enumerate() {
            let text = (self.get)(row).map_err(|bad| (index, bad))?;
            self.nulls.append(text.is_some());
            // A null has the bytes of nothing.
            self.values.push_hex(text.unwrap_or("0x")).map_err(|bad| (index, bad))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.values.finish(self.nulls.finish())?))
    }
}

fn data_column<T: Table, G>(name: &str, nullable: bool, get: G) -> Column<T>
where
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> Result<Option<&'r str>, Bad> + Copy + Send + Sync + 'static,
{
    Column::new(name, DataType::Binary, nullable, move |rows| Data {
        get,
        values: ByteStrings::new(rows),
        nulls: NullBufferBuilder::new(rows),
    })
}

/// A column of byte strings of any length, without nulls.
pub(crate) fn data<T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> Result<&'r str, Bad> + Copy + Send + Sync + 'static,
) -> Column<T> {
    data_column::<T, _>(name, false, move |row| get(row).map(Some))
}

/// A nullable column of byte strings of any length.
pub(crate) fn data_or_null<T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> Result<Option<&'r str>, Bad> + Copy + Send + Sync + 'static,
) -> Column<T> {
    data_column::<T, _>(name, true, get)
}

/// Byte strings of any length, as they are.
struct Bytes<G> {
    get: G,
    values: ByteStrings,
    nulls: NullBufferBuilder,
}

impl<T, G> Values<T> for Bytes<G>
where
    T: Table,
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> Result<Option<&'r [u8]>, Bad> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for (index, row) in rows.iter().enumerate() {
            let bytes = (self.get)(row).map_err(|bad| (index, bad))?;
            self.nulls.append(bytes.is_some());
            self.values.push(bytes.unwrap_or_default()).map_err(|bad| (index, bad))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.values.finish(self.nulls.finish())?))
    }
}

/// A column of byte strings of any length that are there as bytes, without nulls.
pub(crate) fn bytes<T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> &'r [u8] + Copy + Send + Sync + 'static,
) -> Column<T> {
    bytes_column::<T, _>(name, false, move |row| Ok(Some(get(row))))
}

/// A nullable column of byte strings of any length that are there as bytes.
pub(crate) fn bytes_or_null<T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> Option<&'r [u8]> + Copy + Send + Sync + 'static,
) -> Column<T> {
    bytes_column::<T, _>(name, true, move |row| Ok(get(row)))
}

fn bytes_column<T: Table, G>(name: &str, nullable: bool, get: G) -> Column<T>
where
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> Result<Option<&'r [u8]>, Bad> + Copy + Send + Sync + 'static,
{
    Column::new(name, DataType::Binary, nullable, move |rows| Bytes {
        get,
        values: ByteStrings::new(rows),
        nulls: NullBufferBuilder::new(rows),
    })
}

/// Yes or no.
struct Flags<G> {
    get: G,
    values: Vec<Option<bool>>,
}

impl<T, G> Values<T> for Flags<G>
where
    T: Table,
    G: for<'a> Fn(&T::Row<'a>) -> Result<Option<bool>, Bad> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for (index, row) in rows.iter().enumerate() {
            self.values.push((self.get)(row).map_err(|bad| (index, bad))?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(BooleanArray::from(self.values)))
    }
}

/// A column of yes or no, without nulls.
pub(crate) fn flag<T: Table>(
    name: &str,
    get: impl for<'a> Fn(&T::Row<'a>) -> bool + Copy + Send + Sync + 'static,
) -> Column<T> {
    let get = move |row: &T::Row<'_>| Ok(Some(get(row)));
    Column::new(name, DataType::Boolean, false, move |rows| Flags { get, values: Vec::with_capacity(rows) })
}

/// A nullable column of yes or no.
pub(crate) fn flag_or_null<T: Table>(
    name: &str,
    get: impl for<'a> Fn(&T::Row<'a>) -> Result<Option<bool>, Bad> + Copy + Send + Sync + 'static,
) -> Column<T> {
    Column::new(name, DataType::Boolean, true, move |rows| Flags { get, values: Vec::with_capacity(rows) })
}

/// Text.
struct Texts<G> {
    get: G,
    values: StringBuilder,
}

impl<T, G> Values<T> for Texts<G>
where
    T: Table,
    G: for<'r, 'a> Fn(&'r T::Row<'a>) -> &'r str + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        for row in rows {
            self.values.append_value((self.get)(row));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.values.finish()))
    }
}

/// A column of text, without nulls.
pub(crate) fn text<T: Table>(
    name: &str,
    get: impl for<'r, 'a> Fn(&'r T::Row<'a>) -> &'r str + Copy + Send + Sync + 'static,
) -> Column<T> {
    Column::new(name, DataType::Utf8, false, move |_| Texts { get, values: StringBuilder::new() })
}

/// A table whose selected columns are known.
pub(crate) struct Selection<T: Table> {
    schema: SchemaRef,
    columns: Vec<Column<T>>,
}

impl<T: Table> Selection<T> {
    /// The columns that `table` names; the error says which of them does not exist, or is not what
    /// this table has under that name.
    pub fn new(table: &TableDef) -> Result<Self, String> {
        let mut available = T::columns();
        let mut columns = Vec::new();
        for field in table.schema.fields().iter().skip(1) {
            let at = available.iter().position(|column| column.field == **field);
            let at = at.ok_or_else(|| format!("the table `{}` has no such column: {field:?}", table.name))?;
            columns.push(available.remove(at));
        }
        Ok(Self { schema: table.schema.clone(), columns })
    }

    /// Whether a column of that name is selected.
    pub fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.field.name() == name)
    }

    /// Empty columns for about so many rows.
    pub fn start(&self, rows: usize) -> Builder<T> {
        Builder {
            schema: self.schema.clone(),
            block_nums: Vec::with_capacity(rows),
            columns: self.columns.iter().map(|column| (column.start)(rows)).collect(),
            ends: Vec::new(),
        }
    }
}

/// The rows of a table while they are collected.
pub(crate) struct Builder<T: Table> {
    schema: SchemaRef,
    block_nums: Vec<u64>,
    columns: Vec<Box<dyn Values<T>>>,
    ends: Vec<usize>,
}

impl<T: Table> Builder<T> {
    /// Appends the rows of the next block. After an error the builder is of no more use.
    pub fn push_block(&mut self, rows: &[T::Row<'_>]) -> Result<(), String> {
        self.block_nums.extend(rows.iter().map(T::block_num));
        for (at, column) in self.columns.iter_mut().enumerate() {
            column.extend(rows).map_err(|(row, bad)| {
                format!("`{}` of row {row} of `{}` {bad}", self.schema.field(at + 1).name(), T::NAME)
            })?;
        }
        self.ends.push(self.block_nums.len());
        Ok(())
    }

    /// The rows of all blocks.
    pub fn finish(self) -> Result<TableRows, ArrowError> {
        let block_nums: PrimitiveArray<UInt64Type> = self.block_nums.into();
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(block_nums)];
        for column in self.columns {
            arrays.push(column.finish()?);
        }
        debug_assert!(arrays.iter().all(|array| array.len() == arrays[0].len()));
        Ok(TableRows { batch: RecordBatch::try_new(self.schema, arrays)?, ends: self.ends })
    }
}
