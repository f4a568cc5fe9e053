//! The columns of `transactions` that hold lists: how their arrays are built, and how a node's answer fills
//! them. Byte strings within lists are of the type
//! Binary, whatever their length: common readers fail on fixed-size ones there.

use std::sync::Arc;

use alloy_primitives::U256;
use arrow::{
    array::{ArrayRef, ListArray, NullBufferBuilder, StringArray, StructArray, UInt8Array, UInt64Array},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef, Fields},
    error::ArrowError,
};

use super::{
    columns::{BadRow, ByteStrings, Column, Table, Values},
    hex::{self, Bad, required},
    json::{Access, Authorization},
    transactions::{Transactions, TxRow},
};

/// Where each list of a column ends among the items of all lists.
pub(crate) struct Ends {
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Ends {
    /// None yet, with room for about so many.
    pub(crate) fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, nulls: NullBufferBuilder::new(rows) }
    }

    /// Ends a list after `items` items in all; `there` is false where the list is null.
    pub(crate) fn push(&mut self, items: usize, there: bool) -> Result<(), Bad> {
        self.offsets.push(i32::try_from(items).map_err(|_| Bad::TooLarge)?);
        self.nulls.append(there);
        Ok(())
    }

    /// The array of all lists.
    pub(crate) fn finish(mut self, item: FieldRef, items: ArrayRef) -> Result<ListArray, ArrowError> {
        let nulls: Option<NullBuffer> = self.nulls.finish();
        ListArray::try_new(item, OffsetBuffer::new(self.offsets.into()), items, nulls)
    }
}

/// The field of a list's items, none of which is null.
pub(crate) fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("item", data_type, false))
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

/// Collects the lists of a column.
pub(crate) trait Lists: Send + 'static {
    /// The column's name.
    const NAME: &'static str;
    /// What a list has in it.
    fn item_type() -> DataType;
    /// None yet, with room for about so many lists.
    fn new(rows: usize) -> Self;
    /// Ends a list; `there` is false where it is null, and so has no items.
    fn end(&mut self, there: bool) -> Result<(), Bad>;
    /// The array of all lists.
    fn finish(self) -> Result<ArrayRef, ArrowError>;
}

/// A nullable column of lists; `append` appends the items of a row and says whether there is a list.
pub(crate) fn column<T: Table, L: Lists>(
    append: impl for<'a> Fn(&T::Row<'a>, &mut L) -> Result<bool, Bad> + Copy + Send + Sync + 'static,
) -> Column<T> {
    let data_type = DataType::List(item(L::item_type()));
    Column::new(L::NAME, data_type, true, move |rows| Appended { lists: L::new(rows), append })
}

struct Appended<L, G> {
    lists: L,
    append: G,
}

impl<T, L, G> Values<T> for Appended<L, G>
where
    T: Table,
    L: Lists,
    G: for<'a> Fn(&T::Row<'a>, &mut L) -> Result<bool, Bad> + Send,
{
    fn extend(&mut self, rows: &[T::Row<'_>]) -> Result<(), BadRow> {
        let Self { lists, append } = self;
        rows.iter().enumerate().try_for_each(|(index, row)| {
            append(row, lists).and_then(|there| lists.end(there)).map_err(|bad| (index, bad))
        })
    }

    fn finish(self: Box<Self>) -> Result<ArrayRef, ArrowError> {
        self.lists.finish()
    }
}

/// The versioned hashes of a blob transaction.
pub(crate) fn blob_versioned_hashes() -> Column<Transactions> {
    column(|row: &TxRow<'_>, lists: &mut BlobHashes| {
        let hashes = row.tx.blob_versioned_hashes.as_deref();
        for hash in hashes.unwrap_or_default() {
            lists.push(&hex::fixed::<32>(hash)?)?;
        }
        Ok(hashes.is_some())
    })
}

/// Collects versioned hashes of blobs.
pub(crate) struct BlobHashes {
    ends: Ends,
    hashes: ByteStrings,
}

impl BlobHashes {
    /// Appends a hash.
    pub fn push(&mut self, hash: &[u8; 32]) -> Result<(), Bad> {
        self.hashes.push(hash)
    }
}

impl Lists for BlobHashes {
    const NAME: &'static str = "blob_versioned_hashes";

    fn item_type() -> DataType {
        DataType::Binary
    }

    fn new(rows: usize) -> Self {
        Self { ends: Ends::new(rows), hashes: ByteStrings::new(0) }
    }

    fn end(&mut self, there: bool) -> Result<(), Bad> {
        self.ends.push(self.hashes.len(), there)
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
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
    column(|row: &TxRow<'_>, lists: &mut AccessLists| {
        let list = row.tx.access_list.as_deref();
        list.unwrap_or_default().iter().try_for_each(|access| push_access(access, lists))?;
        Ok(list.is_some())
    })
}

fn push_access(access: &Access<'_>, lists: &mut AccessLists) -> Result<(), Bad> {
    for key in access.storage_keys.as_deref().unwrap_or_default() {
        lists.push_key(&hex::fixed::<32>(key)?)?;
    }
    lists.push(&hex::fixed::<20>(required(access.address)?)?)
}

/// Collects access lists.
pub(crate) struct AccessLists {
    ends: Ends,
    addresses: ByteStrings,
    key_ends: Ends,
    keys: ByteStrings,
}

impl AccessLists {
    /// Appends a storage key of the address that is appended next.
    pub fn push_key(&mut self, key: &[u8; 32]) -> Result<(), Bad> {
        self.keys.push(key)
    }

    /// Appends an address, with the keys since the last one.
    pub fn push(&mut self, address: &[u8; 20]) -> Result<(), Bad> {
        self.addresses.push(address)?;
        self.key_ends.push(self.keys.len(), true)
    }
}

impl Lists for AccessLists {
    const NAME: &'static str = "access_list";

    fn item_type() -> DataType {
        DataType::Struct(access_fields())
    }

    fn new(rows: usize) -> Self {
        Self {
            ends: Ends::new(rows),
            addresses: ByteStrings::new(0),
            key_ends: Ends::new(0),
            keys: ByteStrings::new(0),
        }
    }

    fn end(&mut self, there: bool) -> Result<(), Bad> {
        self.ends.push(self.addresses.len(), there)
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let addresses: ArrayRef = Arc::new(self.addresses.finish(None)?);
        let keys = self.key_ends.finish(item(DataType::Binary), Arc::new(self.keys.finish(None)?))?;
        let items = StructArray::try_new(access_fields(), vec![addresses, Arc::new(keys)], None)?;
        Ok(Arc::new(self.ends.finish(item(Self::item_type()), Arc::new(items))?))
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
    column(|row: &TxRow<'_>, lists: &mut Authorizations| {
        let list = row.tx.authorization_list.as_deref();
        list.unwrap_or_default().iter().try_for_each(|item| lists.push(&signed(item)?))?;
        Ok(list.is_some())
    })
}

fn signed(authorization: &Authorization<'_>) -> Result<Signed, Bad> {
    Ok(Signed {
        chain_id: hex::quantity_word(required(authorization.chain_id)?)?,
        address: hex::fixed::<20>(required(authorization.address)?)?,
        nonce: hex::quantity_u64(required(authorization.nonce)?)?,
        y_parity: hex::quantity_u64(required(authorization.y_parity.or(authorization.v))?)?,
        r: hex::quantity_word(required(authorization.r)?)?,
        s: hex::quantity_word(required(authorization.s)?)?,
    })
}

/// An authorization, as its account has signed it; words are big-endian.
pub(crate) struct Signed {
    pub chain_id: [u8; 32],
    pub address: [u8; 20],
    pub nonce: u64,
    pub y_parity: u64,
    pub r: [u8; 32],
    pub s: [u8; 32],
}

/// Collects lists of authorizations.
pub(crate) struct Authorizations {
    ends: Ends,
    chain_ids: Vec<String>,
    addresses: ByteStrings,
    nonces: Vec<u64>,
    y_parities: Vec<u8>,
    r: ByteStrings,
    s: ByteStrings,
}

impl Authorizations {
    /// Appends an authorization.
    pub fn push(&mut self, signed: &Signed) -> Result<(), Bad> {
        self.chain_ids.push(U256::from_be_bytes(signed.chain_id).to_string());
        self.addresses.push(&signed.address)?;
        self.nonces.push(signed.nonce);
        self.y_parities.push(u8::try_from(signed.y_parity).map_err(|_| Bad::TooLarge)?);
        self.r.push(&signed.r)?;
        self.s.push(&signed.s)
    }
}

impl Lists for Authorizations {
    const NAME: &'static str = "authorization_list";

    fn item_type() -> DataType {
        DataType::Struct(authorization_fields())
    }

    fn new(rows: usize) -> Self {
        Self {
            ends: Ends::new(rows),
            chain_ids: Vec::new(),
            addresses: ByteStrings::new(0),
            nonces: Vec::new(),
            y_parities: Vec::new(),
            r: ByteStrings::new(0),
            s: ByteStrings::new(0),
        }
    }

    fn end(&mut self, there: bool) -> Result<(), Bad> {
        self.ends.push(self.nonces.len(), there)
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(&self.chain_ids)),
            Arc::new(self.addresses.finish(None)?),
            Arc::new(UInt64Array::from(self.nonces)),
            Arc::new(UInt8Array::from(self.y_parities)),
            Arc::new(self.r.finish(None)?),
            Arc::new(self.s.finish(None)?),
        ];
        let items = StructArray::try_new(authorization_fields(), arrays, None)?;
        Ok(Arc::new(self.ends.finish(item(Self::item_type()), Arc::new(items))?))
    }
}
