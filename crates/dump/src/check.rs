//! Checking what is stored, from the files alone.
//!
//! ```text
//!  live segments ─► files of all tables, read side by side ─► groups of blocks ─► checked on threads
//!                                                                   │
//!                              links between groups and segments ◄──┴──► findings
//! ```

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::RecordBatch;
use nozzle_core::{BlockHash, BlockRange, Span, TableDef};
use nozzle_metadata::{Location, MetadataStore, Scan, Segment};
use nozzle_query::Stores;
use nozzle_sources::stored::{BadBlock, Checked, StoredCheck};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    cursor::Cursor,
    error::DumpError,
    files,
    observe::{Event, Observer},
};

/// Blocks that are checked together: so many are in memory as rows and as text, times the threads.
const GROUP_BLOCKS: u64 = 16;

/// Bad blocks that are told one by one of each segment; the others are told together.
const MAX_TOLD: usize = 20;

/// Something wrong with what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The blocks.
    pub range: BlockRange,
    /// The URL of the file, where a single one is to blame.
    pub file: Option<String>,
    /// What is wrong.
    pub why: String,
}

/// What a check has seen.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// What is wrong, in block order.
    pub findings: Vec<Finding>,
    /// The blocks of the segments that have a finding: what must be extracted again.
    pub bad_segments: Vec<BlockRange>,
    /// Blocks that were looked at.
    pub blocks: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether it was asked to stop before its end.
    pub stopped: bool,
}

/// The segments of all tables for the same blocks.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The blocks and how they link.
    pub span: Span,
    /// The segment of each table, in the tables' order; all tables are cut at the same blocks.
    pub segments: Vec<Segment>,
}

/// Checks one revision of a raw dataset.
#[derive(Debug)]
pub struct Check {
    /// The metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// The stores.
    pub stores: Arc<Stores>,
    /// The tables, each with its location in the revision.
    pub tables: Vec<(TableDef, Location)>,
    /// What is checked; its tables are those above, in their order.
    pub check: Arc<dyn StoredCheck>,
}

impl Check {
    /// Checks what is stored of `range` at this moment.
    pub async fn run(
        &self,
        range: BlockRange,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<CheckReport, DumpError> {
        let started = Instant::now();
        let pieces = self.pieces(range).await?;
        let wanted = |piece: &Piece| piece.span.range.intersect(range);
        observer.event(Event::Planned {
            blocks: pieces.iter().filter_map(wanted).map(|blocks| blocks.len()).sum(),
        });
        let mut report = CheckReport::default();
        let (mut queue, mut below): (VecDeque<Piece>, Option<Span>) = (pieces.into(), None);
        while let Some(piece) = queue.pop_front() {
            let Some(blocks) = wanted(&piece) else { continue };
            let mut findings = vec![];
            findings.extend(below.and_then(|below| parted(&below, &piece.span)));
            let mut walk = Walk::new(self, &piece, blocks, observer);
            walk.run(cancel).await?;
            findings.extend(walk.findings());
            report.stopped = cancel.is_cancelled();
            if !findings.is_empty() && !report.stopped {
                // A merge, or a reorg, may have put others in its place, and its files may be gone.
                let now = self.pieces(piece.span.range).await?;
                if !now.iter().any(|live| live.is_same(&piece)) {
                    queue.retain(|later| !now.iter().any(|live| live.span.range.overlaps(later.span.range)));
                    now.into_iter().rev().for_each(|live| queue.push_front(live));
                    continue;
                }
            }
            if !findings.is_empty() {
                report.bad_segments.push(piece.span.range);
            }
            report.findings.extend(findings);
            if report.stopped {
                break;
            }
            below = Some(piece.span);
            report.blocks += blocks.len();
        }
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// The live segments that share a block with `range`, in block order.
    pub(crate) async fn pieces(&self, range: BlockRange) -> Result<Vec<Piece>, DumpError> {
        let sequence = self.metadata.sequence().await?;
        let mut pieces: Vec<Piece> = vec![];
        for (index, (table, location)) in self.tables.iter().enumerate() {
            let segments = self.metadata.segments(&Scan { location: location.id, sequence, range }).await?;
            if index == 0 {
                pieces = segments.iter().map(|s| Piece { span: s.span, segments: vec![] }).collect();
            }
            let is_cut_alike = segments.len() == pieces.len()
                && segments.iter().zip(&pieces).all(|(segment, piece)| segment.span == piece.span);
            if !is_cut_alike {
                return Err(DumpError::Refused(format!(
                    "the table `{}` is not cut at the same blocks as the others; build the dataset anew with `nozzle dump --fresh`",
                    table.name
                )));
            }
            pieces.iter_mut().zip(segments).for_each(|(piece, segment)| piece.segments.push(segment));
        }
        Ok(pieces)
    }
}

impl Piece {
    /// Whether both are the same segments.
    fn is_same(&self, other: &Self) -> bool {
        let ids = |piece: &Self| piece.segments.iter().map(|segment| segment.id).collect::<Vec<_>>();
        self.span == other.span && ids(self) == ids(other)
    }
}

/// What is wrong between two neighbours, if they are and do not link.
fn parted(below: &Span, above: &Span) -> Option<Finding> {
    let is_parted = below.touches(above) && !below.links_to(above);
    let why = format!(
        "it was committed as the child of {}, but the block before it as {}",
        above.prev_hash, below.hash
    );
    is_parted.then(|| Finding { range: BlockRange::single(above.range.start()), file: None, why })
}

/// A group of blocks that is being checked.
struct Group {
    blocks: BlockRange,
    rows: u64,
    checked: JoinHandle<Checked>,
}

/// The walk over one piece.
struct Walk<'a> {
    check: &'a Check,
    piece: &'a Piece,
    /// The blocks of the piece that are wanted.
    blocks: BlockRange,
    observer: &'a dyn Observer,
    bad: Vec<Finding>,
    /// The hash that the next group's first block must name as its parent, where it is known.
    before: Option<BlockHash>,
}

impl<'a> Walk<'a> {
    fn new(check: &'a Check, piece: &'a Piece, blocks: BlockRange, observer: &'a dyn Observer) -> Self {
        let is_whole_below = blocks.start() == piece.span.range.start();
        let before = is_whole_below.then_some(piece.span.prev_hash);
        Self { check, piece, blocks, observer, bad: vec![], before }
    }

    /// Reads and checks to the end of the blocks, to the first part that cannot be read, or until
    /// `cancel`.
    async fn run(&mut self, cancel: &CancellationToken) -> Result<(), DumpError> {
        let Some(mut cursors) = self.open().await? else { return Ok(()) };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut groups: VecDeque<Group> = VecDeque::new();
        let parts = self.blocks.split(self.blocks.len().div_ceil(GROUP_BLOCKS));
        for blocks in parts {
            if cancel.is_cancelled() {
                break;
            }
            let Some(rows) = self.read(&mut cursors, blocks).await else { break };
            groups.push_back(self.start(blocks, rows));
            if groups.len() > threads {
                self.take_first(&mut groups).await?;
            }
        }
        while !groups.is_empty() {
            self.take_first(&mut groups).await?;
        }
        Ok(())
    }

    /// Opens the files of all tables; `None` where one cannot be read.
    async fn open(&mut self) -> Result<Option<Vec<Cursor>>, DumpError> {
        let mut cursors = vec![];
        // Rows below the piece's own blocks are to be found, those below the wanted ones are not read.
        let is_whole_below = self.blocks.start() == self.piece.span.range.start();
        let first = if is_whole_below { 0 } else { self.blocks.start() };
        self.compare_footers().await?;
        for (index, (table, location)) in self.check.tables.iter().enumerate() {
            let file = self.piece.segments[index].file.as_ref();
            match Cursor::open(&self.check.stores, table, location, file, first).await {
                Ok(cursor) => cursors.push(cursor),
                Err(error) => self.unreadable(index, self.blocks, &error),
            }
        }
        Ok((cursors.len() == self.check.tables.len()).then_some(cursors))
    }

    /// Compares what the metadata says of each file with its footer. What cannot be read shows when its rows
    /// are.
    async fn compare_footers(&mut self) -> Result<(), DumpError> {
        let ids: Vec<_> = self.piece.segments.iter().map(|segment| segment.id).collect();
        let recorded: HashMap<_, _> = self.check.metadata.footers(&ids).await?.into_iter().collect();
        for (index, (_, location)) in self.check.tables.iter().enumerate() {
            let segment = &self.piece.segments[index];
            let Some(file) = &segment.file else { continue };
            let object = files::object(&self.check.stores, location, &file.name)?;
            let Ok((footer, rows)) = files::footer(&object, file).await else { continue };
            if recorded.get(&segment.id) != Some(&footer) {
                self.tell(
                    self.blocks,
                    Some(index),
                    "its footer is not the one in the metadata database".into(),
                );
            }
            if rows != file.rows {
                let why = format!("it has {rows} rows, and the metadata database says {}", file.rows);
                self.tell(self.blocks, Some(index), why);
            }
        }
        Ok(())
    }

    /// The rows of the next blocks; `None` where a file cannot be read on.
    async fn read(&mut self, cursors: &mut [Cursor], blocks: BlockRange) -> Option<Vec<RecordBatch>> {
        let mut rows = vec![];
        for (index, cursor) in cursors.iter_mut().enumerate() {
            match cursor.rows_up_to(blocks.end()).await {
                Ok(batch) => rows.push(batch),
                Err(error) => {
                    let left = BlockRange::new(blocks.start(), self.blocks.end())?;
                    self.unreadable(index, left, &error);
                    return None;
                }
            }
        }
        if blocks.end() == self.piece.span.range.end() {
            for (index, cursor) in cursors.iter_mut().enumerate() {
                match cursor.is_at_end().await {
                    Ok(true) => {}
                    Ok(false) => self.tell(blocks, Some(index), "it has rows of later blocks".into()),
                    Err(error) => self.unreadable(index, blocks, &error),
                }
            }
        }
        Some(rows)
    }

    fn start(&self, blocks: BlockRange, rows: Vec<RecordBatch>) -> Group {
        let check = Arc::clone(&self.check.check);
        let count = rows.iter().map(|batch| batch.num_rows() as u64).sum();
        let checked = tokio::task::spawn_blocking(move || check.check(blocks, &rows));
        Group { blocks, rows: count, checked }
    }

    /// Takes note of the first group's outcome, and whether it links to what was before it.
    async fn take_first(&mut self, groups: &mut VecDeque<Group>) -> Result<(), DumpError> {
        let Some(group) = groups.pop_front() else { return Ok(()) };
        let checked = group.checked.await.map_err(|error| DumpError::store("checking blocks", error))?;
        if let (Some(before), Some(parent)) = (self.before, checked.first_parent)
            && before != parent
        {
            let why = format!("its parent is {parent}, but the block before it is {before}");
            self.tell(BlockRange::single(group.blocks.start()), None, why);
        }
        for BadBlock { block, table, why } in checked.bad {
            self.tell(BlockRange::single(block), table, why);
        }
        let last_hash = if checked.is_skipped { self.before } else { checked.last_hash };
        let Span { range, hash, .. } = self.piece.span;
        if let Some(found) = last_hash.filter(|found| group.blocks.end() == range.end() && *found != hash) {
            let why = format!("its hash is {found}, but it was committed as {hash}");
            self.tell(BlockRange::single(range.end()), None, why);
        }
        self.before = last_hash;
        self.observer.event(Event::Checked { blocks: group.blocks.len(), rows: group.rows });
        Ok(())
    }

    fn unreadable(&mut self, table: usize, blocks: BlockRange, error: &DumpError) {
        self.tell(blocks, Some(table), error.with_causes());
    }

    /// Takes note of something wrong. Of very many only how far they reach.
    fn tell(&mut self, range: BlockRange, table: Option<usize>, why: String) {
        if self.bad.len() < MAX_TOLD {
            let file = table.and_then(|table| self.url(table));
            self.bad.push(Finding { range, file, why });
            return;
        }
        if self.bad.len() == MAX_TOLD {
            let why = "more is wrong in these blocks".to_owned();
            self.bad.push(Finding { range, file: None, why });
        }
        if let Some(rest) = self.bad.last_mut() {
            let (start, end) = (rest.range.start().min(range.start()), rest.range.end().max(range.end()));
            rest.range = BlockRange::new(start, end).unwrap_or(range);
        }
    }

    fn url(&self, table: usize) -> Option<String> {
        let file = self.piece.segments[table].file.as_ref()?;
        Some(format!("{}{}", self.check.tables[table].1.url, file.name))
    }

    /// What was found, in block order.
    fn findings(mut self) -> Vec<Finding> {
        self.bad.sort_by_key(|finding| finding.range.start());
        self.bad
    }
}
