//! How large the values of each row are, before anything is made of them.

use arrow::{
    array::{Array, ArrayRef, AsArray, OffsetSizeTrait},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::ColumnarValue,
};

/// A number for each row, or one for all of them.
#[derive(Default)]
pub(super) struct Each(Vec<i128>);

impl Each {
    /// That of a row; 0 where there is none.
    pub fn at(&self, row: usize) -> i128 {
        match self.0.as_slice() {
            [one] => *one,
            all => all.get(row).copied().unwrap_or(0),
        }
    }

    /// The largest of them; 0 where there is none.
    pub fn largest(&self) -> i128 {
        self.0.iter().max().copied().unwrap_or(0)
    }

    /// For each row what is made of its number.
    pub fn map(self, change: impl Fn(i128) -> i128) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }
}

/// A value as a column, of one row where it is the same for all.
pub(super) fn column(value: &ColumnarValue) -> Result<ArrayRef> {
    match value {
        ColumnarValue::Array(array) => Ok(array.clone()),
        ColumnarValue::Scalar(scalar) => scalar.to_array_of_size(1),
    }
}

/// Integers; null ones are 0.
pub(super) fn numbers(value: &ColumnarValue) -> Result<Each> {
    let numbers = cast(&column(value)?, &DataType::Int64).map_err(DataFusionError::from)?;
    Ok(Each(numbers.as_primitive::<Int64Type>().iter().map(|number| number.unwrap_or(0).into()).collect()))
}

/// The bytes of each value, without what is around them.
pub(super) fn bytes(value: &ColumnarValue) -> Result<Each> {
    Ok(Each(of_array(column(value)?.as_ref())))
}

/// The items of each list, those of lists within it too; 1 for what is none.
pub(super) fn items(value: &ColumnarValue) -> Result<Each> {
    Ok(Each(items_of(column(value)?.as_ref())))
}

/// The bytes of all values of a column.
pub(crate) fn total(array: &dyn Array) -> u64 {
    match array.data_type() {
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| total(column.as_ref())).sum(),
        ty if ty.is_primitive() => width(ty) as u64 * array.len() as u64,
        _ => match list(array) {
            Some((values, ends)) => {
                let (start, end) = (ends.first().copied().unwrap_or(0), ends.last().copied().unwrap_or(0));
                total(values.slice(start, end - start).as_ref())
            }
            None => of_array(array).into_iter().sum::<i128>() as u64,
        },
    }
}

/// The bytes of each value of a column.
pub(crate) fn of_array(array: &dyn Array) -> Vec<i128> {
    match array.data_type() {
        DataType::Utf8 => lengths(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => lengths(array.as_string::<i64>().value_offsets()),
        DataType::Binary => lengths(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => lengths(array.as_binary::<i64>().value_offsets()),
        // A view begins with the length of its value.
        DataType::Utf8View => views(array.as_string_view().views()),
        DataType::BinaryView => views(array.as_binary_view().views()),
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter().map(|column| of_array(column.as_ref()));
            columns.fold(vec![0; array.len()], |sums, sizes| {
                sums.into_iter().zip(sizes).map(|(sum, size)| sum + size).collect()
            })
        }
        DataType::Null => vec![0; array.len()],
        data_type => match list(array) {
            Some((values, ends)) => of_items(&of_array(values.as_ref()), &ends),
            None => vec![width(data_type); array.len()],
        },
    }
}

/// The items of each list of a column, those of lists within it too.
pub(crate) fn items_of(array: &dyn Array) -> Vec<i128> {
    match list(array) {
        Some((values, ends)) => of_items(&items_of(values.as_ref()), &ends),
        None => vec![1; array.len()],
    }
}

/// What is in a list, and where each row of it begins, and the last ends.
fn list(array: &dyn Array) -> Option<(ArrayRef, Vec<usize>)> {
    fn ends<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<usize> {
        offsets.iter().map(|offset| offset.as_usize()).collect()
    }
    Some(match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (list.values().clone(), ends(list.value_offsets()))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (list.values().clone(), ends(list.value_offsets()))
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap_or(0);
            let values = array.as_fixed_size_list().values().clone();
            (values, (0..=array.len()).map(|row| row * size).collect())
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
            (entries, ends(map.value_offsets()))
        }
        _ => return None,
    })
}

/// The sums of a list's rows.
fn of_items(items: &[i128], ends: &[usize]) -> Vec<i128> {
    ends.windows(2).map(|ends| items.get(ends[0]..ends[1]).unwrap_or_default().iter().sum()).collect()
}

fn lengths<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<i128> {
    offsets.windows(2).map(|ends| (ends[1].as_usize() - ends[0].as_usize()) as i128).collect()
}

fn views(views: &[u128]) -> Vec<i128> {
    views.iter().map(|view| (*view as u32).into()).collect()
}

fn width(data_type: &DataType) -> i128 {
    match data_type {
        DataType::FixedSizeBinary(width) => (*width).into(),
        other => other.primitive_width().unwrap_or(16) as i128,
    }
}
