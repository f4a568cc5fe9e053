//! From the answers of a node to rows: the path that every block takes.

use nozzle_core::{BlockRange, TableDef, block::BlockLink, manifest::Verify};
use sonic_rs::LazyValue;

use super::{
    fetch::{RawBlock, RawSlot},
    forks::Fork,
    json::{Answer, Body, HeaderAnswer, SignedBlock},
    newer,
    tables::{self, BlockRow, Filling, Stored},
    verify::{self, Problem},
};
use crate::{
    error::SourceError,
    source::{BlockRows, Decoded, check_link},
};

/// Turns answers into rows: only the tables, and of them only the columns, that are stored.
pub(crate) struct Decoder {
    provider: String,
    verify: Verify,
    tables: Vec<TableDef>,
    /// For each of the tables.
    stored: Vec<Box<dyn Stored>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("provider", &self.provider).field("verify", &self.verify).finish()
    }
}

/// A block, read and checked.
struct Read {
    header: HeaderAnswer,
    version: String,
    signed: SignedBlock,
    timestamp_micros: Option<i64>,
}

impl Decoder {
    /// A decoder for the given tables: those of [`super::tables()`], or fewer, with all or fewer of
    /// their columns. What cannot be decoded is `Refused`.
    pub fn new(provider: &str, tables: Vec<TableDef>, verify: Verify) -> Result<Self, SourceError> {
        let refused = |why| SourceError::Refused { provider: provider.to_owned(), why };
        check_level(verify).map_err(refused)?;
        let mut stored: Vec<Box<dyn Stored>> = vec![];
        for (index, table) in tables.iter().enumerate() {
            if tables[..index].iter().any(|other| other.name == table.name) {
                return Err(refused(format!("the table `{}` is asked for twice", table.name)));
            }
            stored.push(tables::store(table).map_err(refused)?);
        }
        Ok(Self { provider: provider.to_owned(), verify, tables, stored })
    }

    /// The tables, in the order in which they were given.
    pub fn tables(&self) -> &[TableDef] {
        &self.tables
    }

    /// The rows of consecutive slots, in their order. The first bad block, or the first that does
    /// not follow the one before it, ends it: those before it are decoded all the same.
    pub fn decode(&self, slots: &[RawSlot]) -> Decoded {
        if slots.is_empty() {
            return Decoded { rows: None, error: None };
        }
        match self.decode_all(slots) {
            Ok(rows) => Decoded { rows: Some(rows), error: None },
            // Half of a bad block's rows are in the buffers: begin again, without it.
            Err((good, error)) => Decoded { rows: self.decode(&slots[..good]).rows, error: Some(error) },
        }
    }

    /// The error comes with the number of slots before it.
    fn decode_all(&self, slots: &[RawSlot]) -> Result<BlockRows, (usize, SourceError)> {
        let mut links: Vec<BlockLink> = vec![];
        let mut filling: Vec<Box<dyn Filling>> =
            self.stored.iter().map(|table| table.start(slots.len())).collect();
        for (index, raw) in slots.iter().enumerate() {
            let Some(block) = &raw.block else { continue };
            let problem = |problem: Problem| (index, problem.of_block(&self.provider, raw.slot));
            let read = self.read(raw, block).map_err(problem)?;
            let link = verify::link(&read.header);
            if let Some(previous) = links.last() {
                check_link(previous, &link).map_err(|error| (index, error))?;
            }
            append(&read, &mut filling).map_err(problem)?;
            links.push(link);
        }
        let first = slots[0].slot;
        let problem = |why: String| (0, Problem::Malformed(why).of_block(&self.provider, first));
        let range = BlockRange::new(first, slots[slots.len() - 1].slot)
            .ok_or_else(|| problem("its slot is out of range".into()))?;
        let finished = filling.into_iter().map(|table| table.finish()).collect::<Result<_, _>>();
        let tables = finished.map_err(|error| problem(error.to_string()))?;
        let source_bytes = slots.iter().map(RawSlot::size_bytes).sum();
        Ok(BlockRows { range, blocks: links, tables, source_bytes, cursor: None })
    }

    /// Reads a block, and checks it as far as the level says.
    fn read(&self, raw: &RawSlot, RawBlock { header, block }: &RawBlock) -> Result<Read, Problem> {
        let header = verify::header(header, self.verify)?;
        let answer: Answer<SignedBlock<LazyValue<'_>>> = verify::parse(block, "the block")?;
        let no_version = || Problem::Malformed("its answer does not say of which fork it is".into());
        let (version, signed) = (answer.version.ok_or_else(no_version)?, answer.data);
        verify::block(raw.slot, &header, &signed, self.verify)?;
        let value = &signed.message.body;
        let body = match Fork::named(&version) {
            Some(fork) => {
                let body: Body = verify::parse(value.as_raw_str().as_bytes(), "the body of the block")?;
                if let Some(name) = body.lacks(fork) {
                    return Err(Problem::Malformed(format!("its body lacks `{name}`, which {version} has")));
                }
                if self.verify >= Verify::Full {
                    verify::body(value, &raw.chain.body(fork), &header)?;
                }
                body
            }
            None => {
                let newer::Read { body, other } = newer::read(value, &raw.chain.body(Fork::NEWEST))?;
                newer::SAID.say(&self.provider, raw.slot, &version, other);
                body
            }
        };
        let signed = signed.with_body(body);
        let timestamp_micros = raw.chain.timestamp_micros(raw.slot);
        Ok(Read { header, version, signed, timestamp_micros })
    }
}

/// Refuses a level that a beacon chain does not have.
pub(crate) fn check_level(level: Verify) -> Result<(), String> {
    if level <= Verify::Full {
        return Ok(());
    }
    Err(format!("a beacon chain has no senders to check; the strictest level is `{}`", Verify::Full))
}

fn append(read: &Read, filling: &mut [Box<dyn Filling>]) -> Result<(), Problem> {
    let message = &read.header.header.message;
    let row = BlockRow {
        slot: message.slot.0,
        root: read.header.root.0,
        body_root: message.body_root.0,
        timestamp_micros: read.timestamp_micros,
        version: &read.version,
        signed: &read.signed,
    };
    filling.iter_mut().try_for_each(|table| table.push(&row)).map_err(Problem::Malformed)
}
