//! Rows in which a column of fixed width has one of some values, found without decoding the column.
//!
//! Hashes, addresses and topics are what most questions ask for. The Parquet reader copies each of their values
//! out of a dictionary, twenty or thirty-two bytes a row, before a filter compares them. Here a value is looked up
//! in the dictionary once, and what is compared for each row is the number that the page has for it. The rows so
//! found are handed to the scan as a selection, and the scan has no such condition left to look at.
//!
//! [`EqualitySource`] is the scan with this in front of it; [`conditions`] tells which filters it takes; [`bloom`]
//! asks a row group's bloom filters, [`pages`] reads a column chunk. [`counts`] answers what asks how often each value
//! stands there.

pub(crate) mod bloom;
mod conditions;
mod counts;
mod pages;
mod rows;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use counts::CountByPages;
pub(crate) use source::{EqualitySource, EqualitySourceParts, lies_within};

/// A column of fixed width, and the values of which a row must have one, each of that width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The column's name.
    pub(crate) column: String,
    /// The values, at least one.
    pub(crate) values: Vec<Vec<u8>>,
}
