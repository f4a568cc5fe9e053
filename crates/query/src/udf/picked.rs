//! `first_value` and its kind over windows: one value of a window for each of its rows, which the engine writes out
//! without asking for memory.

use std::{
    hash::{Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::ArrayRef,
    compute::SortOptions,
    datatypes::{DataType, FieldRef},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    execution::memory_pool::MemoryReservation,
    logical_expr::{
        Documentation, LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, WindowUDF, WindowUDFImpl,
        function::{
            ExpressionArgs, PartitionEvaluatorArgs, WindowFunctionSimplification, WindowUDFFieldArgs,
        },
        window_state::WindowAggState,
    },
    physical_plan::PhysicalExpr,
};

use super::bounded::Bounds;
use crate::memory::Kept;

/// The functions that may give one value for many rows.
const FUNCTIONS: [&str; 3] = ["first_value", "last_value", "nth_value"];

/// What a value may have that is not counted, in bytes.
const SMALL: usize = 1 << 10;

impl Bounds {
    /// A function with what it gives accounted for, if it is one of these.
    pub(super) fn picked(&self, engine: &Arc<WindowUDF>, is_kept: bool) -> Option<WindowUDF> {
        let is_one = FUNCTIONS.contains(&engine.name());
        is_one.then(|| Picked { engine: Arc::clone(engine), is_kept, bounds: self.clone() }.into())
    }
}

#[derive(Debug)]
struct Picked {
    engine: Arc<WindowUDF>,
    /// Whether what is given is kept until that of all windows is there.
    is_kept: bool,
    bounds: Bounds,
}

impl PartialEq for Picked {
    fn eq(&self, other: &Self) -> bool {
        (&self.engine, self.is_kept) == (&other.engine, other.is_kept)
    }
}

impl Eq for Picked {}

impl Hash for Picked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.engine, self.is_kept).hash(state);
    }
}

impl WindowUDFImpl for Picked {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn aliases(&self) -> &[String] {
        self.engine.aliases()
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.engine.expressions(args)
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let engine = self.engine.partition_evaluator_factory(args)?;
        let Some(given) = self.bounds.reservation(self.name()) else { return Ok(engine) };
        Ok(Box::new(Accounted { engine, given, kept: self.is_kept.then(|| self.bounds.kept()) }))
    }

    fn simplify(&self) -> Option<WindowFunctionSimplification> {
        self.engine.simplify()
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        self.engine.field(args)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.engine.sort_options()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.engine.coerce_types(types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.engine.reverse_expr() {
            ReversedUDWF::Reversed(engine) => {
                let reversed = Self { engine, is_kept: self.is_kept, bounds: self.bounds.clone() };
                ReversedUDWF::Reversed(Arc::new(reversed.into()))
            }
            other => other,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine.documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.engine.inner().limit_effect(args)
    }
}

/// Takes what is given from the query's memory: twice, as the values are put together to a column.
#[derive(Debug)]
struct Accounted {
    engine: Box<dyn PartitionEvaluator>,
    given: MemoryReservation,
    kept: Option<Kept>,
}

impl PartitionEvaluator for Accounted {
    fn memoize(&mut self, state: &mut WindowAggState) -> Result<()> {
        self.engine.memoize(state)
    }

    fn get_range(&self, row: usize, rows: usize) -> Result<Range<usize>> {
        self.engine.get_range(row, rows)
    }

    fn is_causal(&self) -> bool {
        self.engine.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        self.engine.evaluate_all(values, rows)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        let value = self.engine.evaluate(values, range)?;
        let bytes = value.size();
        if bytes > SMALL {
            self.given.try_grow(bytes.saturating_mul(2))?;
        }
        Ok(value)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        self.engine.evaluate_all_with_rank(rows, ranks)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.engine.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.engine.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.engine.include_rank()
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            kept.take(&mut self.given);
        }
    }
}
