//! What a dump tells while it runs, and what it has done in the end.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use nozzle_core::{BlockId, BlockNum, BlockRange, TableName};

/// Something that happened during a dump.
#[derive(Debug, Clone)]
pub enum Event {
    /// A round has found out how many blocks it will extract.
    Planned {
        /// Blocks.
        blocks: u64,
    },
    /// Blocks were received and encoded; they are not yet visible.
    Extracted {
        /// Blocks.
        blocks: u64,
        /// Rows of all tables.
        rows: u64,
    },
    /// Stored blocks were read and checked.
    Checked {
        /// Blocks.
        blocks: u64,
        /// Rows of all tables.
        rows: u64,
    },
    /// Blocks were committed and are visible.
    Committed {
        /// The blocks.
        range: BlockRange,
        /// For each table with a file: rows and bytes.
        files: Vec<(TableName, u64, u64)>,
    },
    /// The head is below the wanted end; the dump waits for it.
    WaitingForHead {
        /// The head.
        head: BlockNum,
        /// The wanted end.
        end: BlockNum,
    },
    /// All that there is of the wanted blocks is stored.
    UpToDate,
    /// There is nothing to extract yet.
    NothingYet {
        /// Why, as the end of a sentence.
        why: String,
    },
    /// The node or the database is away; a dump that follows or waits goes on when it is back.
    Outlasting {
        /// What failed.
        why: String,
        /// How long until it is tried again.
        wait: Duration,
    },
    /// Another writer holds the wanted blocks; the dump waits to see whether it still lives.
    WaitingForWriter {
        /// Who.
        holder: String,
    },
    /// Stored blocks are no longer on the provider's chain and are replaced.
    Reorg {
        /// The last block in common; `None` where the run of blocks has none.
        fork: Option<BlockId>,
        /// The orphaned blocks.
        orphaned: BlockRange,
    },
    /// What a derived dataset is made of was built anew: stored segments were computed again and compared.
    Recomputed {
        /// Their blocks.
        range: BlockRange,
        /// How many segments there are of each table.
        segments: usize,
        /// How many of them had other rows, and were replaced.
        replaced: usize,
    },
    /// Another live writer has these blocks; this dump leaves them to it.
    LeftToWriter {
        /// The blocks.
        range: BlockRange,
        /// Who.
        holder: String,
    },
    /// The building revision is complete and is now the one that is read.
    Activated,
}

/// Is told what happens. Called often and from several tasks: it must be quick.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Nobody who wants to know.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// What a dump has done.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Blocks committed.
    pub blocks: u64,
    /// Rows, bytes and files committed, by table.
    pub tables: BTreeMap<TableName, TableSummary>,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether the dump was asked to stop before it reached its end.
    pub stopped: bool,
}

/// What a dump has written of one table.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableSummary {
    /// Rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// Adds up a [`Summary`] and passes every event on.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    next: &'a dyn Observer,
    started: Instant,
    summary: Mutex<Summary>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(next: &'a dyn Observer, tables: impl Iterator<Item = TableName>) -> Self {
        let tables = tables.map(|table| (table, TableSummary::default())).collect();
        let summary = Summary { tables, ..Summary::default() };
        Self { next, started: Instant::now(), summary: Mutex::new(summary) }
    }

    pub(crate) fn summary(&self, stopped: bool) -> Summary {
        let summary = self.summary.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Summary { elapsed: self.started.elapsed(), stopped, ..summary.clone() }
    }
}

impl Observer for Tally<'_> {
    fn event(&self, event: Event) {
        if let Event::Committed { range, files } = &event {
            let mut summary = self.summary.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            summary.blocks += range.len();
            for (table, rows, bytes) in files {
                let entry = summary.tables.entry(table.clone()).or_default();
                entry.rows += rows;
                entry.bytes += bytes;
                entry.files += 1;
            }
        }
        self.next.event(event);
    }
}
