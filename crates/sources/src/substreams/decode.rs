//! From the outputs of a module to rows.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeBinaryArray, RecordBatch, TimestampMicrosecondArray, UInt64Array},
    error::ArrowError,
};
use bytes::Bytes;
use nozzle_core::{BlockNum, BlockRange, TableDef, block::BlockLink};

use super::{
    changes::{ChangeColumns, ChangedTable},
    columns::Columns,
    found::{Budget, Misfit},
    layout::{Layout, Rows},
    package::{Package, PackageError},
    wire::{Fields, Raw},
};
use crate::{
    error::SourceError,
    source::{BlockRows, Decoded, TableRows},
};

/// How much memory the rows of a block may take in columns: far below what a column of text can hold.
const BLOCK_BUDGET_BYTES: u64 = 512 << 20;

/// What a module gave for a block.
#[derive(Debug, Clone)]
pub struct ModuleOutput {
    /// The block, and the one before it.
    pub block: BlockLink,
    /// The block's time, in microseconds since 1970.
    pub timestamp_micros: i64,
    /// The full name of the message, where it was said; with or without an address before it.
    pub type_url: String,
    /// The message; empty where the module gave nothing.
    pub output: Bytes,
}

/// A message that does not fit the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unfit {
    table: Option<String>,
    misfit: Misfit,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the module's output does not fit its tables: ")?;
        if let Some(table) = &self.table {
            write!(f, "table `{table}`, ")?;
        }
        if !self.misfit.field.is_empty() {
            write!(f, "field `{}`: ", self.misfit.field)?;
        }
        f.write_str(&self.misfit.why)
    }
}

/// Decodes a module's outputs into the rows of its tables, or of some of them.
#[derive(Debug)]
pub struct Decoder {
    provider: String,
    layout: Layout,
    /// The tables that are wanted: which of the layout's, and which of its columns.
    wanted: Vec<(usize, Vec<usize>)>,
    tables: Vec<TableDef>,
    /// The places of changed tables by name.
    changed: HashMap<String, usize>,
}

impl Decoder {
    /// For the given tables of a module: all that [`super::tables`] gives, or fewer, with all or fewer of
    /// their columns. The error names the table or column that the module does not have (any more), or what
    /// is wrong with the package.
    pub fn new(
        provider: &str,
        package: &Package,
        module: &str,
        tables: Vec<TableDef>,
    ) -> Result<Self, SourceError> {
        let refused = |why: String| SourceError::Refused { provider: provider.to_owned(), why };
        let of_package = |error: PackageError| refused(error.to_string());
        let module = package.map_module(module).map_err(of_package)?;
        let layout = Layout::new(package, module).map_err(of_package)?;
        let places = |table: &TableDef| {
            place_of(&layout, table).map_err(|why| {
            refused(format!(
                "{why}: the package is not the one that the dataset was made with; use that package, or make a new \
                 version of the dataset"
            ))
        })
        };
        let wanted = tables.iter().map(places).collect::<Result<Vec<_>, _>>()?;
        let changed = match &layout.rows {
            Rows::Changes(_, tables) => {
                tables.iter().enumerate().map(|(i, table)| (table.name.clone(), i)).collect()
            }
            Rows::Items(_) => HashMap::new(),
        };
        Ok(Self { provider: provider.to_owned(), layout, wanted, tables, changed })
    }

    /// The tables whose rows it gives.
    pub fn tables(&self) -> &[TableDef] {
        &self.tables
    }

    /// The rows of `outputs`, which are the blocks of `range`, ascending. Where one does not fit, those
    /// before it are given, up to the number before it.
    pub fn decode(&self, range: BlockRange, outputs: &[ModuleOutput], source_bytes: u64) -> Decoded {
        let (place, unfit) = match self.try_decode(range, outputs, source_bytes) {
            Ok(rows) => return Decoded { rows: Some(rows), error: None },
            Err(unfit) => unfit,
        };
        let error =
            |block| SourceError::Malformed { provider: self.provider.clone(), block, why: unfit.to_string() };
        let Some(number) = outputs.get(place).map(|output| output.block.number) else {
            return Decoded { rows: None, error: Some(error(range.start())) };
        };
        let before = number.checked_sub(1).and_then(|end| BlockRange::new(range.start(), end));
        let rows = before.and_then(|before| self.try_decode(before, &outputs[..place], source_bytes).ok());
        Decoded { rows, error: Some(error(number)) }
    }

    /// The error is the place of the block that does not fit; one behind the last where the rows as a whole
    /// cannot be put together.
    fn try_decode(
        &self,
        range: BlockRange,
        outputs: &[ModuleOutput],
        source_bytes: u64,
    ) -> Result<BlockRows, (usize, Unfit)> {
        let mut building = self.start();
        for (place, output) in outputs.iter().enumerate() {
            let mut budget = Budget::new(BLOCK_BUDGET_BYTES);
            self.append(&mut building, output, &mut budget).map_err(|unfit| (place, unfit))?;
            building.iter_mut().for_each(Building::end_block);
        }
        let tables = self.wanted.iter().zip(&self.tables).map(|((place, columns), table)| {
            building[*place].finish(&self.layout.tables[*place], columns, table)
        });
        let tables = tables
            .collect::<Result<_, ArrowError>>()
            .map_err(|error| (outputs.len(), Unfit { table: None, misfit: Misfit::new(error) }))?;
        let blocks = outputs.iter().map(|output| output.block).collect();
        Ok(BlockRows { range, blocks, tables, source_bytes, cursor: None })
    }

    fn start(&self) -> Vec<Building> {
        let own: Vec<Own> = match &self.layout.rows {
            Rows::Items(items) => items.iter().map(|(_, shape)| Own::Item(Columns::new(shape))).collect(),
            Rows::Changes(_, tables) => {
                tables.iter().map(|table| Own::Changes(ChangeColumns::new(table))).collect()
            }
        };
        own.into_iter().map(Building::new).collect()
    }

    fn append(
        &self,
        building: &mut [Building],
        output: &ModuleOutput,
        budget: &mut Budget,
    ) -> Result<(), Unfit> {
        let named = output.type_url.rsplit('/').next().unwrap_or_default();
        if !named.is_empty() && named != self.layout.message {
            let why = format!("it is a `{named}`, not a `{}`", self.layout.message);
            return Err(Unfit { table: None, misfit: Misfit::new(why) });
        }
        match &self.layout.rows {
            Rows::Items(items) => {
                for field in Fields::new(&output.output) {
                    let (number, value) =
                        field.map_err(|broken| Unfit { table: None, misfit: Misfit::new(broken) })?;
                    let Some(place) = items.iter().position(|(item, _)| *item == number) else { continue };
                    let row = building[place].append_item(&value, output, budget);
                    row.map_err(|misfit| self.unfit(place, misfit))?;
                }
            }
            Rows::Changes(numbers, tables) => {
                for change in numbers.changes(&output.output) {
                    let change = change.map_err(|misfit| Unfit { table: None, misfit })?;
                    let place = self.changed_place(change.table, tables)?;
                    let row = match &mut building[place] {
                        Building { own: Own::Changes(columns), front, .. } => columns
                            .append(&tables[place], numbers, &change, budget)
                            .map(|()| front.append(output)),
                        _ => Ok(()),
                    };
                    row.map_err(|misfit| self.unfit(place, misfit))?;
                }
            }
        }
        Ok(())
    }

    fn changed_place(&self, name: &str, tables: &[ChangedTable]) -> Result<usize, Unfit> {
        let exact = self.changed.get(name).copied();
        let found = exact.or_else(|| tables.iter().position(|table| table.name.eq_ignore_ascii_case(name)));
        found.ok_or_else(|| {
            let known: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
            let why = format!("the package's schema has no such table; it has {}", known.join(", "));
            Unfit { table: Some(super::values::shortened(name)), misfit: Misfit::new(why) }
        })
    }

    fn unfit(&self, place: usize, misfit: Misfit) -> Unfit {
        Unfit { table: self.layout.tables.get(place).map(|table| table.name.to_string()), misfit }
    }
}

/// Which of the layout's tables one is, and which of its columns it has.
fn place_of(layout: &Layout, table: &TableDef) -> Result<(usize, Vec<usize>), String> {
    let place = layout.tables.iter().position(|known| known.name == table.name);
    let place = place.ok_or_else(|| format!("the module has no table `{}`", table.name))?;
    let known = &layout.tables[place].schema;
    let columns = table.schema.fields().iter().map(|field| {
        let name = field.name();
        let Ok(place) = known.index_of(name) else {
            return Err(format!("the module's table `{}` has no column `{name}`", table.name));
        };
        let found = known.field(place);
        if found.data_type() != field.data_type() || found.is_nullable() != field.is_nullable() {
            let [now, was] = [found, field.as_ref()].map(|field| {
                format!("{}{}", field.data_type(), if field.is_nullable() { "" } else { " without nulls" })
            });
            return Err(format!(
                "the column `{name}` of the module's table `{}` is {now}, not {was}",
                table.name
            ));
        }
        Ok(place)
    });
    Ok((place, columns.collect::<Result<_, _>>()?))
}

/// A table whose rows are being put together.
#[derive(Debug)]
struct Building {
    front: Front,
    own: Own,
    ends: Vec<usize>,
}

/// The columns in front of a table's own.
#[derive(Debug, Default)]
struct Front {
    numbers: Vec<BlockNum>,
    times: Vec<i64>,
    hashes: Vec<u8>,
}

#[derive(Debug)]
enum Own {
    Item(Columns),
    Changes(ChangeColumns),
}

impl Front {
    fn append(&mut self, output: &ModuleOutput) {
        self.numbers.push(output.block.number);
        self.times.push(output.timestamp_micros);
        self.hashes.extend_from_slice(output.block.hash.as_slice());
    }

    fn finish(&mut self) -> Result<[ArrayRef; 4], ArrowError> {
        let numbers: ArrayRef = Arc::new(UInt64Array::from(std::mem::take(&mut self.numbers)));
        let times = TimestampMicrosecondArray::from(std::mem::take(&mut self.times)).with_timezone("+00:00");
        let hashes = FixedSizeBinaryArray::try_new(32, std::mem::take(&mut self.hashes).into(), None)?;
        Ok([numbers.clone(), numbers, Arc::new(times), Arc::new(hashes)])
    }
}

impl Building {
    fn new(own: Own) -> Self {
        Self { front: Front::default(), own, ends: Vec::new() }
    }

    fn append_item(
        &mut self,
        value: &Raw<'_>,
        output: &ModuleOutput,
        budget: &mut Budget,
    ) -> Result<(), Misfit> {
        budget.take(56)?;
        self.front.append(output);
        match &mut self.own {
            Own::Item(columns) => columns.append(std::slice::from_ref(value), budget),
            Own::Changes(_) => Ok(()),
        }
    }

    fn end_block(&mut self) {
        self.ends.push(self.front.numbers.len());
    }

    fn finish(
        &mut self,
        layout: &TableDef,
        columns: &[usize],
        table: &TableDef,
    ) -> Result<TableRows, ArrowError> {
        let mut all = self.front.finish()?.to_vec();
        all.extend(match &mut self.own {
            Own::Item(columns) => columns.finish()?,
            Own::Changes(columns) => columns.finish()?,
        });
        let batch = RecordBatch::try_new(layout.schema.clone(), all)?.project(columns)?;
        // The same columns, with the very schema that was asked for.
        let batch = RecordBatch::try_new(table.schema.clone(), batch.columns().to_vec())?;
        Ok(TableRows { batch, ends: std::mem::take(&mut self.ends) })
    }
}
