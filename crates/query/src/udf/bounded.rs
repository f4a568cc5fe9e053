//! Functions of the engine whose results can be as large as a number in the query says, or grow with each call within
//! another, or that take a step for each pair of what they are given. No limit of memory knows of what they make while
//! they make it, and none of time stops them, so that one call could end the process: too much is refused before.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arrow::{
    array::{Array, ArrayRef, AsArray, LargeStringArray},
    buffer::NullBuffer,
    compute::{cast, concat},
    datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, TimeUnit},
};
use datafusion::{
    common::{ScalarValue, exec_err},
    error::{DataFusionError, Result},
    execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF},
    prelude::SessionContext,
};

use super::{
    sizes::{bytes, column, items, numbers},
    wrapped::{Around, wrap, wrapped},
};
use crate::memory::Kept;

#[cfg(test)]
mod tests;

/// What one call for a batch of rows may make where a number says how much, in bytes.
const MOST_MADE: i128 = 64 << 20;

/// What it may make of what is there, or step by step, without asking for memory.
const MOST_GROWN: i128 = 256 << 20;

/// What it may make of what is there where the query's memory has room for it: what a contract is called with can have
/// a hundred kilobytes and more in each row. The offsets of the engine's texts end at twice as much.
const MOST_HELD: i128 = 1 << 30;

/// What all calls may make that are constants of the query: it keeps them to its end, each step of its planning goes
/// through them, and many of them copy them.
const MOST_CONSTANT: u64 = 4 << 20;

/// The steps that one call may take where each of one thing meets each of another: some seconds.
const MOST_STEPS: i128 = 4 << 30;

/// How much a function makes of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Makes {
    /// So many times its first argument, a text.
    Repeated,
    /// As many letters as its second argument says.
    Padded,
    /// Its first argument, so many times.
    Filled,
    /// The items of its first argument, and its third for each that lacks.
    Resized,
    /// A step for each number from its first argument, or 0, to its second, or its only one.
    Series,
    /// All of its arguments behind each other.
    Together,
    /// The same, with its first argument between them.
    Separated,
    /// Its first argument, with the third in the place of each second.
    Replaced,
    /// The same, where the second is a pattern.
    Matched,
    /// The same, where the first is a list.
    Exchanged,
    /// A text of its first argument, a list, with the others between the items.
    Joined,
    /// A text in the form of its second argument.
    Formatted,
    /// Up to so many times its first argument.
    Times(u8),
    /// Nothing large, but it looks at each byte of one argument for each of the other.
    Pairs,
    /// The same, but where the second is one for all rows it is found faster.
    PairsOfColumns,
    /// The same with the items of lists.
    PairsOfItems,
    /// The same, but where one of them is one for all rows it is looked up.
    PairsOfItemColumns,
}

const FUNCTIONS: [(&str, Makes); 34] = [
    ("repeat", Makes::Repeated),
    ("lpad", Makes::Padded),
    ("rpad", Makes::Padded),
    ("array_repeat", Makes::Filled),
    ("array_resize", Makes::Resized),
    ("range", Makes::Series),
    ("generate_series", Makes::Series),
    ("concat", Makes::Together),
    (super::joined::NAME, Makes::Together),
    ("overlay", Makes::Together),
    ("make_array", Makes::Together),
    ("array_append", Makes::Together),
    ("array_prepend", Makes::Together),
    ("array_concat", Makes::Together),
    ("arrays_zip", Makes::Together),
    ("concat_ws", Makes::Separated),
    ("replace", Makes::Replaced),
    ("regexp_replace", Makes::Matched),
    ("array_replace", Makes::Exchanged),
    ("array_replace_n", Makes::Exchanged),
    ("array_replace_all", Makes::Exchanged),
    ("array_to_string", Makes::Joined),
    ("to_char", Makes::Formatted),
    ("translate", Makes::Times(4)),
    ("encode", Makes::Times(2)),
    ("evm_decode_hex", Makes::Times(2)),
    ("string_to_array", Makes::Times(8)),
    ("levenshtein", Makes::Pairs),
    ("strpos", Makes::PairsOfColumns),
    ("btrim", Makes::Pairs),
    ("ltrim", Makes::Pairs),
    ("rtrim", Makes::Pairs),
    ("array_has_all", Makes::PairsOfItems),
    ("array_has_any", Makes::PairsOfItemColumns),
];

/// What a constant that says how much is made may be, for its function to make nothing large.
const FEW: usize = 4_096;

/// Whether a call can make a large value of small ones, so that rows of small tables are large.
pub(crate) fn makes_large(name: &str, args: &[Expr]) -> bool {
    if matches!(name, "array_agg" | "string_agg") {
        return true;
    }
    let Some((_, makes)) = FUNCTIONS.into_iter().find(|(bounded, _)| *bounded == name) else { return false };
    let is_constant_of = |at: usize, most: usize| match args.get(at) {
        Some(Expr::Literal(ScalarValue::Int64(Some(number)), _)) => {
            usize::try_from(*number).is_ok_and(|number| number <= most)
        }
        Some(Expr::Literal(value, _)) => value.try_as_str().flatten().is_some_and(|text| text.len() <= most),
        _ => false,
    };
    match makes {
        Makes::Padded => !is_constant_of(1, FEW),
        // A few letters in the place of each one.
        Makes::Replaced | Makes::Matched => !is_constant_of(2, 8),
        makes => makes.is_multiple(),
    }
}

/// Functions with the limits of one query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    query: Arc<OfQuery>,
}

/// What the functions of one query share.
#[derive(Debug, Default)]
struct OfQuery {
    /// What its constants have come to, in bytes.
    constants: AtomicU64,
    /// Whether it runs: what has one value then is no constant that the plan keeps, but the same for a batch of rows.
    is_running: AtomicBool,
    memory: Option<Arc<dyn MemoryPool>>,
    kept: Kept,
}

impl OfQuery {
    /// Takes note of a constant.
    fn keep(&self, bytes: i128) -> Result<()> {
        if self.is_running.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.constants.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.check_constants()
    }

    fn check_constants(&self) -> Result<()> {
        if self.constants.load(Ordering::Relaxed) > MOST_CONSTANT {
            return exec_err!("the constants of a query can have {MOST_CONSTANT} bytes together at most");
        }
        Ok(())
    }

    /// Takes what a call makes from the query's memory where it is much, until it has been made.
    fn hold(&self, name: &str, bytes: i128) -> Result<Option<MemoryReservation>> {
        let Some(memory) = self.memory.as_ref().filter(|_| bytes > MOST_GROWN) else { return Ok(None) };
        let held = MemoryConsumer::new(format!("`{name}`")).register(memory);
        held.try_grow(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        Ok(Some(held))
    }
}

impl Bounds {
    /// The bounds of a query that has some memory.
    pub fn new(memory: Option<Arc<dyn MemoryPool>>) -> Self {
        Self { query: Arc::new(OfQuery { memory, ..OfQuery::default() }) }
    }

    /// Memory of the query, of which nothing is taken yet; absent where it has all that there is.
    pub fn reservation(&self, name: &str) -> Option<MemoryReservation> {
        let memory = self.query.memory.as_ref()?;
        Some(MemoryConsumer::new(format!("`{name}`")).register(memory))
    }

    /// What is held to the query's end.
    pub fn kept(&self) -> Kept {
        self.query.kept.clone()
    }

    /// Constants are made from here on.
    pub fn begin_planning(&self) {
        self.query.kept.clear();
        self.query.is_running.store(false, Ordering::Relaxed);
    }

    /// They have been made; the query is refused if they are too much. The engine would go on where one of them fails,
    /// and make it anew for each batch of rows.
    pub fn begin_running(&self) -> Result<()> {
        self.query.is_running.store(true, Ordering::Relaxed);
        self.query.check_constants()
    }

    /// Puts the bounded functions in the place of the engine's.
    pub(super) fn register(&self, context: &SessionContext) {
        FUNCTIONS.into_iter().for_each(|(name, makes)| wrap(context, name, self.around(makes)));
    }

    /// The bounded function in the place of one of the engine's, if it is to be bounded.
    pub(super) fn of(&self, engine: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
        match FUNCTIONS.into_iter().find(|(name, _)| *name == engine.name()) {
            Some((_, makes)) => Arc::new(wrapped(engine, self.around(makes))),
            None => engine,
        }
    }

    fn around(&self, makes: Makes) -> Bounded {
        Bounded { makes, query: Arc::clone(&self.query) }
    }
}

#[derive(Debug)]
struct Bounded {
    makes: Makes,
    query: Arc<OfQuery>,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.makes == other.makes
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.makes.hash(state);
    }
}

impl Around for Bounded {
    /// The engine would put functions of its own in the place of these.
    fn is_simplified(&self, _: &[Expr]) -> bool {
        false
    }

    fn call(&self, engine: &ScalarUDF, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Scalar(_));
        let is_constant = !args.args.is_empty() && args.args.iter().all(is_scalar);
        if is_constant {
            // Some functions would make it for each row; the engine takes one value as that of all.
            args.number_rows = 1;
        }
        let rows = self.makes.of_rows(&args)?;
        let (total, most) = (rows.iter().sum::<i128>(), self.makes.most());
        if is_constant && total <= most && !self.makes.is_steps() {
            self.query.keep(total)?;
        }
        if total <= most {
            let made = if self.makes.is_steps() { 0 } else { total };
            let _held = self.query.hold(engine.name(), made)?;
            return engine.invoke_with_args(args);
        }
        let largest = rows.iter().max().copied().unwrap_or(0);
        if self.makes.is_at_most() && largest <= most && !is_constant {
            return self.in_parts(engine, &args, &rows);
        }
        let what = if self.makes.is_steps() { "take {} steps" } else { "make {} bytes" };
        let what = what.replace("{}", &total.to_string());
        let advice = if is_constant { "" } else { ": ask for fewer rows, or for parts of large values" };
        exec_err!("`{}` would {what} at once, and {most} are the most{advice}", engine.name())
    }
}

impl Bounded {
    /// Calls a function for some rows after the others, as long as what it has made is no more than it may be.
    fn in_parts(
        &self,
        engine: &ScalarUDF,
        args: &ScalarFunctionArgs,
        rows: &[i128],
    ) -> Result<ColumnarValue> {
        let (mut parts, mut start, mut made): (Vec<ArrayRef>, _, _) = (vec![], 0, 0);
        let mut held = None;
        while start < rows.len() {
            let mut sum = 0;
            let fits = |row: &&i128| {
                sum += **row;
                sum <= self.makes.most()
            };
            let count = rows[start..].iter().take_while(fits).count().max(1);
            let of_part = |arg: &ColumnarValue| match arg {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, count)),
                constant => constant.clone(),
            };
            let part = args.args.iter().map(of_part).collect();
            let part = ScalarFunctionArgs { args: part, number_rows: count, ..args.clone() };
            let part = engine.invoke_with_args(part)?.into_array(count)?;
            made += part.get_array_memory_size() as i128;
            if made > MOST_HELD {
                return exec_err!("`{}` would make more than {MOST_HELD} bytes at once", engine.name());
            }
            drop(held.take());
            // The parts, and what they are put together to.
            held = self.query.hold(engine.name(), made * 2)?;
            parts.push(part);
            start += count;
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }
}

impl Makes {
    fn most(self) -> i128 {
        match self {
            Self::Repeated | Self::Padded | Self::Filled | Self::Resized => MOST_MADE,
            steps if steps.is_steps() => MOST_STEPS,
            // What takes long as well, and parts of what is counted as too much.
            Self::Series => MOST_GROWN,
            parts if parts.is_at_most() => MOST_GROWN,
            _ => MOST_HELD,
        }
    }

    fn is_steps(self) -> bool {
        matches!(self, Self::Pairs | Self::PairsOfColumns | Self::PairsOfItems | Self::PairsOfItemColumns)
    }

    fn is_multiple(self) -> bool {
        match self {
            Self::Repeated | Self::Padded | Self::Filled | Self::Resized | Self::Series => true,
            Self::Separated | Self::Replaced | Self::Matched | Self::Exchanged | Self::Joined => true,
            Self::Together | Self::Formatted | Self::Times(_) => false,
            Self::Pairs | Self::PairsOfColumns | Self::PairsOfItems | Self::PairsOfItemColumns => false,
        }
    }

    /// Whether it may make much less than is counted here.
    fn is_at_most(self) -> bool {
        matches!(self, Self::Matched | Self::Joined | Self::Formatted | Self::Times(_))
    }

    /// How much a call makes of each row.
    fn of_rows(self, args: &ScalarFunctionArgs) -> Result<Vec<i128>> {
        let (args, rows) = (args.args.as_slice(), args.number_rows);
        let Some(first) = args.first() else { return Ok(vec![]) };
        let of = |count: &dyn Fn(usize) -> i128| Ok((0..rows).map(|row| count(row).max(0)).collect());
        match (self, args) {
            (Self::Repeated, [text, times, ..]) => {
                let (lengths, times) = (bytes(text)?, numbers(times)?);
                of(&|row| lengths.at(row) * times.at(row))
            }
            (Self::Padded, [_, letters, ..]) => {
                let letters = numbers(letters)?;
                // A letter has up to four bytes.
                of(&|row| letters.at(row) * 4)
            }
            (Self::Filled, [item, times]) => {
                let (sizes, times) = (bytes(item)?, numbers(times)?);
                of(&|row| (sizes.at(row) + 8) * times.at(row))
            }
            (Self::Resized, [list, size, fill @ ..]) => {
                let (sizes, count) = (bytes(list)?, numbers(size)?);
                let fill = fill.first().map(bytes).transpose()?;
                let of_item = |row| fill.as_ref().map_or(0, |fill| fill.at(row)) + 8;
                of(&|row| sizes.at(row) + count.at(row).max(0) * of_item(row))
            }
            (Self::Series, _) => {
                let (steps, nulls) = (steps(args, rows)?, nulls(args)?);
                // A series from nowhere, or to there, is none.
                of(&|row| if is_null(&nulls, row) { 0 } else { steps[row].saturating_mul(8) })
            }
            (Self::Together | Self::Separated, _) => {
                let sizes = args.iter().map(bytes).collect::<Result<Vec<_>>>()?;
                let between = args.len() as i128;
                let between = |row| if self == Self::Separated { sizes[0].at(row) * between } else { 0 };
                of(&|row| sizes.iter().map(|sizes| sizes.at(row) + 8).sum::<i128>() + between(row))
            }
            (Self::Replaced, [text, from, to]) => {
                let (lengths, added) = (bytes(text)?, bytes(to)?);
                let found = occurrences(text, from, rows)?;
                of(&|row| lengths.at(row) + found[row] * added.at(row))
            }
            (Self::Matched, [text, _, to, flags @ ..]) => {
                let (lengths, added) = (bytes(text)?, bytes(to)?);
                let mark = |mark: &str| ColumnarValue::Scalar(ScalarValue::from(mark));
                let (groups, slashes) =
                    (occurrences(to, &mark("$"), rows)?, occurrences(to, &mark("\\"), rows)?);
                let is_global = !flags.is_empty();
                // Each match gives the text once, and what it has found wherever a group is named.
                of(&|row| {
                    let matches = if is_global { lengths.at(row) + 1 } else { 1 };
                    lengths.at(row) * (1 + groups[row] + slashes[row]) + matches * added.at(row)
                })
            }
            (Self::Exchanged, [list, _, to, ..]) => {
                let (sizes, count, added) = (bytes(list)?, items(list)?, bytes(to)?);
                of(&|row| sizes.at(row) + count.at(row) * added.at(row))
            }
            (Self::Joined, [list, between @ ..]) => {
                let (sizes, count) = (bytes(list)?, items(list)?);
                let between = between.iter().map(bytes).collect::<Result<Vec<_>>>()?;
                // A number may have more digits than bytes.
                let of_item = |row| 32 + between.iter().map(|each| each.at(row)).sum::<i128>();
                of(&|row| sizes.at(row) * 2 + count.at(row) * of_item(row))
            }
            (Self::Formatted, [_, form, ..]) => {
                // Two letters stand for a whole time.
                let form = bytes(form)?.map(|length| length * 20 + 64);
                of(&|row| form.at(row))
            }
            (Self::Times(times), _) => {
                let sizes = bytes(first)?;
                of(&|row| sizes.at(row) * i128::from(times))
            }
            (Self::PairsOfColumns, [_, ColumnarValue::Scalar(_)]) => Ok(vec![]),
            (Self::Pairs | Self::PairsOfColumns, [one, other]) => {
                let (one, other) = (bytes(one)?, bytes(other)?);
                of(&|row| one.at(row) * other.at(row))
            }
            (Self::PairsOfItemColumns, [ColumnarValue::Scalar(_), _] | [_, ColumnarValue::Scalar(_)]) => {
                Ok(vec![])
            }
            (Self::PairsOfItems | Self::PairsOfItemColumns, [one, other]) => {
                let (one, other) = (items(one)?, items(other)?);
                of(&|row| one.at(row) * other.at(row))
            }
            _ => Ok(vec![]),
        }
    }
}

/// How often a text is found in another; between all letters where it is empty.
fn occurrences(text: &ColumnarValue, of: &ColumnarValue, rows: usize) -> Result<Vec<i128>> {
    let texts = |value| cast(&column(value)?, &DataType::LargeUtf8).map_err(DataFusionError::from);
    let (text, of) = (texts(text)?, texts(of)?);
    let (text, of) = (text.as_string::<i64>(), of.as_string::<i64>());
    let at = |array: &LargeStringArray, row: usize| if array.len() == 1 { 0 } else { row };
    let count = |row| {
        let (in_text, in_of) = (at(text, row), at(of, row));
        if text.is_null(in_text) || of.is_null(in_of) {
            return 0;
        }
        text.value(in_text).matches(of.value(in_of)).count() as i128
    };
    Ok((0..rows).map(count).collect())
}

/// Where each argument is null.
fn nulls(args: &[ColumnarValue]) -> Result<Vec<NullBuffer>> {
    let nulls = |arg| Ok(column(arg)?.logical_nulls());
    args.iter().filter_map(|arg| nulls(arg).transpose()).collect()
}

/// Whether any of them is null in a row.
fn is_null(nulls: &[NullBuffer], row: usize) -> bool {
    nulls.iter().any(|nulls| nulls.is_null(if nulls.len() == 1 { 0 } else { row }))
}

/// The steps of each row's series; a null argument is taken for any number.
fn steps(args: &[ColumnarValue], rows: usize) -> Result<Vec<i128>> {
    let count = |(start, stop): (i128, i128), step: i128| match (stop - start).checked_div(step) {
        Some(steps) => steps.max(-1) + 1,
        None => 0,
    };
    match args {
        [stop] => {
            let stops = numbers(stop)?;
            Ok((0..rows).map(|row| count((0, stops.at(row)), 1)).collect())
        }
        [start, stop, step @ ..] if start.data_type().is_integer() => {
            let (starts, stops) = (numbers(start)?, numbers(stop)?);
            let step = step.first().map(numbers).transpose()?;
            let step = |row| step.as_ref().map_or(1, |step| step.at(row));
            Ok((0..rows).map(|row| count((starts.at(row), stops.at(row)), step(row))).collect())
        }
        [start, stop, step, ..] => {
            let (starts, stops, steps) = (nanoseconds(start)?, nanoseconds(stop)?, column(step)?);
            let Some(steps) = steps.as_primitive_opt::<IntervalMonthDayNanoType>() else {
                return Ok(vec![0; rows]);
            };
            let at = |length: usize, row: usize| if length == 1 { 0 } else { row };
            let of_row = |row| {
                let step = steps.value(at(steps.len(), row));
                let ends = (starts[at(starts.len(), row)], stops[at(stops.len(), row)]);
                let of_month = |days: i128| {
                    let days = i128::from(step.months) * days + i128::from(step.days);
                    days * 86_400_000_000_000 + i128::from(step.nanoseconds)
                };
                let (short, long) = (of_month(28), of_month(31));
                match short.signum() * long.signum() {
                    1 if short.abs() < long.abs() => count(ends, short),
                    1 => count(ends, long),
                    // It leads to where it began, or back and forth.
                    _ if (step.months, step.days, step.nanoseconds) != (0, 0, 0) => i128::from(i64::MAX),
                    _ => 0,
                }
            };
            Ok((0..rows).map(of_row).collect())
        }
        _ => Ok(vec![0; rows]),
    }
}

/// Times and dates as nanoseconds; null ones are 0.
fn nanoseconds(value: &ColumnarValue) -> Result<Vec<i128>> {
    let times = column(value)?;
    let unit: i128 = match times.data_type() {
        DataType::Date32 => 86_400_000_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    let times = cast(&times, &DataType::Int64).map_err(DataFusionError::from)?;
    Ok(times.as_primitive::<Int64Type>().iter().map(|time| i128::from(time.unwrap_or(0)) * unit).collect())
}
