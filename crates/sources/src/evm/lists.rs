//! The columns of `transactions` that hold lists. Byte strings within lists are of the type
//! Binary, whatever their length: common readers fail on fixed-size ones there.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ListArray, NullBufferBuilder, StringArray, StructArray, UInt8Array, UInt64Array},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef, Fields},
    error::ArrowError,
};

use super::{
    columns::{BadRow, ByteStrings, Column, Values},
    hex::{self, Bad, required},
    json::{Access, Authorization},
    transactions::{Transactions, TxRow},
};

/// Where each list of a column ends among the items of all lists.
struct Ends {
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Ends {
    fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, nulls: NullBufferBuilder::new(rows) }
    }

    /// Ends a list after `items` items in all; `there` is false where the list is null.
    fn push(&mut self, items: usize, there: bool) -> Result<(), Bad> {
        self.offsets.push(i32::try_from(items).map_err(|_| Bad::TooLarge)?);
        self.nulls.append(there);
        Ok(())
    }

    fn finish(mut self, item: FieldRef, items: ArrayRef) -> Result<ListArray, ArrowError> {
        let nulls: Option<NullBuffer> = self.nulls.finish();
        ListArray::try_new(item, OffsetBuffer::new(self.offsets.into()), items, nulls)
    }
}

fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("item", data_type, false))
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn for_each(rows: &[TxRow<'_>], mut append: impl FnMut(&TxRow<'_>) -> Result<(), Bad>) -> Result<(), BadRow> {
    rows.iter().enumerate().try_for_each(|(index, row)| append(row).map_err(|bad| (index, bad)))
}

/// The versioned hashes of a blob transaction.
pub(crate) fn blob_versioned_hashes() -> Column<Transactions> {
    let data_type = DataType::List(item(DataType::Binary));
    Column::new("blob_versioned_hashes", data_type, true, |rows| BlobHashes {
        ends: Ends::new(rows),
        hashes: ByteStrings::new(0),
    })
}

struct BlobHashes {
    ends: Ends,
    hashes: ByteStrings,
}

impl Values<Transactions> for BlobHashes {
    fn extend(&mut self, rows: &[TxRow<'_>]) -> Result<(), BadRow> {
        for_each(rows, |row| {
            let hashes = row.tx.blob_versioned_hashes.as_deref();
            for hash in hashes.unwrap_or_default() {
                self.hashes.push(&hex::fixed::<32>(hash)?)?;
            }
            self.ends.push(self.hashes.len(), hashes.is_some())
        })
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let hashes = self.hashes.finish(None)?;
        Ok(Arc::new(self.ends.finish(item(DataType::Binary), Arc::new(hashes))?))
    }
}

fn access_fields() -> Fields {
    let keys = DataType::List(item(DataType::Binary));
    vec![field("address", DataType::Binary), field("storage_keys", keys)].into()
}

/// The addresses and storage keys that a transaction announces.
pub(crate) fn access_list() -> Column<Transactions> {
    let data_type = DataType::List(item(DataType::Struct(access_fields())));
    Column::new("access_list", data_type, true, |rows| AccessLists {
        ends: Ends::new(rows),
        addresses: ByteStrings::new(0),
        key_ends: Ends::new(0),
        keys: ByteStrings::new(0),
    })
}

struct AccessLists {
    ends: Ends,
    addresses: ByteStrings,
    key_ends: Ends,
    keys: ByteStrings,
}

impl AccessLists {
    fn push(&mut self, access: &Access<'_>) -> Result<(), Bad> {
        self.addresses.push(&hex::fixed::<20>(required(access.address)?)?)?;
        for key in access.storage_keys.as_deref().unwrap_or_default() {
            self.keys.push(&hex::fixed::<32>(key)?)?;
        }
        self.key_ends.push(self.keys.len(), true)
    }
}

impl Values<Transactions> for AccessLists {
    fn extend(&mut self, rows: &[TxRow<'_>]) -> Result<(), BadRow> {
        for_each(rows, |row| {
            let list = row.tx.access_list.as_deref();
            list.unwrap_or_default().iter().try_for_each(|access| self.push(access))?;
            self.ends.push(self.addresses.len(), list.is_some())
        })
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let addresses: ArrayRef = Arc::new(self.addresses.finish(None)?);
        let keys = self.key_ends.finish(item(DataType::Binary), Arc::new(self.keys.finish(None)?))?;
        let items = StructArray::try_new(access_fields(), vec![addresses, Arc::new(keys)], None)?;
        let item = item(DataType::Struct(access_fields()));
        Ok(Arc::new(self.ends.finish(item, Arc::new(items))?))
    }
}

fn authorization_fields() -> Fields {
    vec![
        field("chain_id", DataType::Utf8),
        field("address", DataType::Binary),
        field("nonce", DataType::UInt64),
        field("y_parity", DataType::UInt8),
        field("r", DataType::Binary),
        field("s", DataType::Binary),
    ]
    .into()
}

/// The accounts that let a transaction set their code.
pub(crate) fn authorization_list() -> Column<Transactions> {
    let data_type = DataType::List(item(DataType::Struct(authorization_fields())));
    Column::new("authorization_list", data_type, true, |rows| Authorizations {
        ends: Ends::new(rows),
        chain_ids: Vec::new(),
        addresses: ByteStrings::new(0),
        nonces: Vec::new(),
        y_parities: Vec::new(),
        r: ByteStrings::new(0),
        s: ByteStrings::new(0),
    })
}

struct Authorizations {
    ends: Ends,
    chain_ids: Vec<String>,
    addresses: ByteStrings,
    nonces: Vec<u64>,
    y_parities: Vec<u8>,
    r: ByteStrings,
    s: ByteStrings,
}

impl Authorizations {
    fn push(&mut self, authorization: &Authorization<'_>) -> Result<(), Bad> {
        self.chain_ids.push(hex::decimal_text(required(authorization.chain_id)?)?);
        self.addresses.push(&hex::fixed::<20>(required(authorization.address)?)?)?;
        self.nonces.push(hex::quantity_u64(required(authorization.nonce)?)?);
        let y_parity = hex::quantity_u64(required(authorization.y_parity.or(authorization.v))?)?;
        self.y_parities.push(u8::try_from(y_parity).map_err(|_| Bad::TooLarge)?);
        self.r.push(&hex::quantity_word(required(authorization.r)?)?)?;
        self.s.push(&hex::quantity_word(required(authorization.s)?)?)
    }
}

impl Values<Transactions> for Authorizations {
    fn extend(&mut self, rows: &[TxRow<'_>]) -> Result<(), BadRow> {
        for_each(rows, |row| {
            let list = row.tx.authorization_list.as_deref();
            list.unwrap_or_default().iter().try_for_each(|item| self.push(item))?;
            self.ends.push(self.nonces.len(), list.is_some())
        })
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(&self.chain_ids)),
            Arc::new(self.addresses.finish(None)?),
            Arc::new(UInt64Array::from(self.nonces)),
            Arc::new(UInt8Array::from(self.y_parities)),
            Arc::new(self.r.finish(None)?),
            Arc::new(self.s.finish(None)?),
        ];
        let items = StructArray::try_new(authorization_fields(), arrays, None)?;
        let item = item(DataType::Struct(authorization_fields()));
        Ok(Arc::new(self.ends.finish(item, Arc::new(items))?))
    }
}
