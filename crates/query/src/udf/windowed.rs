//! Aggregates over windows whose results grow with the rows, such as lists. A window has such a result for each of its
//! rows, and the engine makes them without asking for memory.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef},
    datatypes::{DataType, FieldRef},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    execution::memory_pool::MemoryReservation,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, ReversedUDAF, SetMonotonicity, Signature,
        WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
        expr::{AggregateFunctionParams, WindowFunctionParams},
        function::{AccumulatorArgs, StateFieldsArgs},
        planner::RawWindowExpr,
        utils::AggregateOrderSensitivity,
    },
};

use super::bounded::Bounds;
use crate::memory::Kept;

/// Aggregates with values as large as those of the rows, or larger.
const FUNCTIONS: [&str; 4] = ["array_agg", "string_agg", "min", "max"];

/// The rows that a result is made for at least where it is not known: those that a filter leaves out are not seen.
const ROWS_OF_A_FILTER: usize = 8_192;

impl Bounds {
    /// A call over a window with what it makes accounted for.
    pub(super) fn windowed(&self, mut raw: RawWindowExpr) -> RawWindowExpr {
        let is_kept = raw.window_frame.end_bound.is_unbounded();
        let engine = match &raw.func_def {
            WindowFunctionDefinition::AggregateUDF(engine) => engine,
            WindowFunctionDefinition::WindowUDF(engine) => {
                if let Some(picked) = self.picked(engine, is_kept) {
                    raw.func_def = WindowFunctionDefinition::WindowUDF(Arc::new(picked));
                }
                return raw;
            }
        };
        if !FUNCTIONS.contains(&engine.name()) {
            return raw;
        }
        let rows = match (is_one_for_all(&raw.window_frame, raw.order_by.is_empty()), &raw.filter) {
            (false, _) => Rows::One,
            (true, None) => Rows::All,
            (true, Some(_)) => Rows::AllBesideFiltered,
        };
        let windowed = Windowed { engine: Arc::clone(engine), rows, is_kept, bounds: self.clone() };
        raw.func_def = WindowFunctionDefinition::AggregateUDF(Arc::new(windowed.into()));
        raw
    }
}

/// Whether a window has one result for all of its rows.
fn is_one_for_all(frame: &WindowFrame, is_unordered: bool) -> bool {
    let is_end = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => is_unordered && frame.units == WindowFrameUnits::Range,
        bound => bound.is_unbounded(),
    };
    is_end(&frame.start_bound) && is_end(&frame.end_bound)
}

/// The rows that a result is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rows {
    One,
    /// All that were seen.
    All,
    /// All that were seen, and those that were not.
    AllBesideFiltered,
}

#[derive(Debug)]
struct Windowed {
    engine: Arc<AggregateUDF>,
    rows: Rows,
    /// Whether results are kept until those of all windows are there.
    is_kept: bool,
    bounds: Bounds,
}

impl PartialEq for Windowed {
    fn eq(&self, other: &Self) -> bool {
        (&self.engine, self.rows, self.is_kept) == (&other.engine, other.rows, other.is_kept)
    }
}

impl Eq for Windowed {}

impl Hash for Windowed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.engine, self.rows, self.is_kept).hash(state);
    }
}

impl Windowed {
    fn accounted(&self, engine: Box<dyn Accumulator>) -> Box<dyn Accumulator> {
        let Some(made) = self.bounds.reservation(self.engine.name()) else { return engine };
        let kept = self.is_kept.then(|| self.bounds.kept());
        Box::new(Accounted { engine, rows: self.rows, seen: 0, made, kept })
    }
}

impl AggregateUDFImpl for Windowed {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn aliases(&self) -> &[String] {
        self.engine.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.engine.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.engine.human_display(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.engine.display_name(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.engine.window_function_schema_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.engine.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.engine.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.engine.return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.engine.return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.engine.is_nullable()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.engine.default_value(data_type)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(self.accounted(self.engine.accumulator(args)?))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(self.accounted(self.engine.create_sliding_accumulator(args)?))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.engine.state_fields(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.engine.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.engine.reverse_udf() {
            ReversedUDAF::Reversed(engine) => {
                let reversed =
                    Self { engine, rows: self.rows, is_kept: self.is_kept, bounds: self.bounds.clone() };
                ReversedUDAF::Reversed(Arc::new(reversed.into()))
            }
            other => other,
        }
    }

    fn is_descending(&self) -> Option<bool> {
        self.engine.is_descending()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.engine.inner().set_monotonicity(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.engine.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.engine.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine.documentation()
    }
}

/// Takes what is made from the query's memory: twice, as results are put together to columns.
#[derive(Debug)]
struct Accounted {
    engine: Box<dyn Accumulator>,
    rows: Rows,
    /// The rows since the last result.
    seen: usize,
    made: MemoryReservation,
    kept: Option<Kept>,
}

impl Accumulator for Accounted {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.seen += values.first().map_or(0, Array::len);
        self.engine.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.engine.evaluate()?;
        let rows = if self.rows == Rows::One { 1 } else { self.seen.max(1) };
        let most = if self.rows == Rows::AllBesideFiltered { rows.max(ROWS_OF_A_FILTER) } else { rows };
        self.seen = 0;
        let of_rows = |rows: usize| value.size().saturating_mul(2).saturating_mul(rows);
        self.made.try_grow(of_rows(most))?;
        self.made.shrink(of_rows(most) - of_rows(rows));
        Ok(value)
    }

    fn size(&self) -> usize {
        self.engine.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.engine.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.engine.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.engine.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.engine.supports_retract_batch()
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            kept.take(&mut self.made);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::{
        execution::{SessionStateBuilder, runtime_env::RuntimeEnvBuilder},
        prelude::SessionContext,
    };

    use crate::{session::context, udf::tests::rows_of};

    fn limited(megabytes: usize) -> SessionContext {
        let runtime =
            RuntimeEnvBuilder::new().with_memory_limit(megabytes << 20, 1.0).build_arc().expect("a runtime");
        context(SessionStateBuilder::new().with_runtime_env(runtime))
    }

    const ROWS: &str = "(SELECT value, value % 4 AS part FROM generate_series(1, 8000))";
    const TEXT: &str = "lpad(CAST(value AS text), 100)";

    #[tokio::test]
    async fn what_windows_make_is_within_the_memory() {
        let limited = limited(32);
        let long = "lpad(CAST(value AS text), 2000)";
        for (call, window) in [
            ("array_agg(value)", "ORDER BY value"),
            ("array_agg(value)", ""),
            ("array_agg(value) FILTER (WHERE value < 2000)", ""),
            ("array_agg(value)", "PARTITION BY part"),
            (&format!("string_agg({TEXT}, ',')"), "ORDER BY value"),
            (&format!("string_agg({TEXT}, ',')"), "PARTITION BY part"),
            ("array_agg(value)", "ORDER BY value ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"),
            (&format!("array_agg({TEXT})"), "ORDER BY value ROWS BETWEEN 2000 PRECEDING AND 2000 FOLLOWING"),
            ("max(rpad('x', CASE WHEN value = 9 THEN 100000 ELSE 1 END))", ""),
            ("first_value(rpad('x', CASE WHEN value = 1 THEN 100000 ELSE 1 END))", ""),
            (&format!("nth_value({long} || {long}, 2)"), "ORDER BY value"),
        ] {
            let sql = format!("SELECT count(w) FROM (SELECT {call} OVER ({window}) AS w FROM {ROWS})");
            let error = rows_of(&limited, &sql).await.expect_err(call).to_string();
            assert!(error.contains("Resources exhausted") || error.contains("allocate"), "{call}: {error}");
        }
        let memory = Arc::clone(&limited.runtime_env().memory_pool);
        drop(limited);
        assert_eq!(memory.reserved(), 0);
    }

    #[tokio::test]
    async fn windows_answer_as_without_a_limit() {
        let limited = limited(512);
        let free = SessionContext::new();
        for (call, window) in [
            ("array_agg(value)", "PARTITION BY value / 20 ORDER BY value"),
            ("array_agg(value)", "PARTITION BY value / 20"),
            ("array_agg(value) FILTER (WHERE value % 3 = 0)", "PARTITION BY value / 20"),
            ("string_agg(CAST(value AS text), ',')", "PARTITION BY value / 20 ORDER BY value DESC"),
            ("string_agg(CAST(value AS text), ',')", "PARTITION BY value / 20"),
            ("array_agg(value)", "ORDER BY value DESC ROWS BETWEEN 9 PRECEDING AND 3 FOLLOWING"),
            ("array_agg(value)", "PARTITION BY part ORDER BY value ROWS BETWEEN 1 FOLLOWING AND 4 FOLLOWING"),
            ("max(CAST(value AS text))", "ORDER BY value DESC ROWS BETWEEN CURRENT ROW AND 10 FOLLOWING"),
            ("min(CAST(value AS text))", "PARTITION BY part ORDER BY value"),
            ("first_value(rpad('x', 2000) || value)", "PARTITION BY value / 20 ORDER BY value"),
            ("last_value(value)", "PARTITION BY part"),
            (
                "nth_value(rpad('x', 2000) || value, 3)",
                "ORDER BY value ROWS BETWEEN 9 PRECEDING AND 3 FOLLOWING",
            ),
            ("max(value)", "PARTITION BY part"),
        ] {
            let sql = format!("SELECT value, {call} OVER ({window}) AS w FROM {ROWS} ORDER BY value");
            let (ours, engines) = (rows_of(&limited, &sql).await, rows_of(&free, &sql).await);
            assert_eq!(ours.expect(&sql), engines.expect(&sql), "{sql}");
        }
    }
}
