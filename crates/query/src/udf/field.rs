//! One field of a decoded log, where a query takes no other: only that one is then decoded, and of the table
//! only what holds it is read.

use std::sync::Arc;

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion::{
    common::tree_node::{Transformed, TreeNode},
    error::{DataFusionError, Result},
    logical_expr::{Expr, LogicalPlan, ScalarUDF, expr::ScalarFunction, expr_rewriter::NamePreserver, lit},
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

use super::{
    abi::{EventSignature, Named},
    decode::{self, rows_of_bytes},
    evm::DecodeLog,
    function::{Called, Function, Given, udf},
};

/// The engine's function that takes a field out of a struct.
const GET_FIELD: &str = "get_field";

/// Where a parameter of an event is.
enum Place {
    /// In the topic behind the first one and so many more.
    Topic(usize),
    /// In the data, among the others there.
    Data(usize),
}

fn place(event: &EventSignature, field: &str) -> Option<Place> {
    let among = |fields: &[Named]| fields.iter().position(|named| named.name == field);
    among(&event.indexed).map(Place::Topic).or_else(|| among(&event.body).map(Place::Data))
}

fn missing(field: &str) -> DataFusionError {
    DataFusionError::Plan(format!("the event has no parameter `{field}`"))
}

fn event(signature: &str) -> Result<EventSignature> {
    EventSignature::parse(signature).map_err(DataFusionError::Plan)
}

/// `evm_decode_log_field(bytes, signature, field)`: a parameter of an event, from the topic or the data that
/// holds it. No query calls it: [`Fields`] puts it into plans.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct DecodeLogField;

impl Function for DecodeLogField {
    const NAME: &'static str = "evm_decode_log_field";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(3)?;
        let (event, field) = (event(given.text(1, "the signature")?)?, given.text(2, "the field")?);
        match place(&event, field) {
            Some(Place::Topic(index)) => Ok(event.indexed[index].ty.data_type()),
            Some(Place::Data(index)) => Ok(event.body[index].ty.data_type()),
            None => Err(missing(field)),
        }
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let (event, field) = (event(called.text(1)?)?, called.text(2)?);
        let bytes = called.array(0)?;
        match place(&event, field) {
            Some(Place::Topic(index)) => decode::topic(&event.indexed[index].ty, &bytes),
            Some(Place::Data(index)) => {
                Ok(decode::parameter(&event.body, index, &rows_of_bytes("the data", &bytes)?))
            }
            None => Err(missing(field)),
        }
    }
}

/// Puts [`DecodeLogField`] where a field is taken out of a decoded log.
#[derive(Debug)]
pub(crate) struct Fields {
    function: Arc<ScalarUDF>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { function: udf::<DecodeLogField>() }
    }
}

impl Fields {
    fn of_expr(&self, expr: Expr) -> Result<Transformed<Expr>> {
        match self.field_alone(&expr) {
            Some(alone) => Ok(Transformed::yes(alone)),
            None => Ok(Transformed::no(expr)),
        }
    }

    fn field_alone(&self, expr: &Expr) -> Option<Expr> {
        let Expr::ScalarFunction(taken) = expr else { return None };
        let (Expr::ScalarFunction(decoded), [field, within @ ..]) = taken.args.split_first()? else {
            return None;
        };
        if taken.func.name() != GET_FIELD || decoded.func.name() != DecodeLog::NAME {
            return None;
        }
        let (field, signature) = (text(field)?, text(decoded.args.get(4)?)?);
        let bytes = match place(&EventSignature::parse(signature).ok()?, field)? {
            Place::Topic(index) => decoded.args.get(index)?,
            Place::Data(_) => decoded.args.get(3)?,
        };
        let args = vec![bytes.clone(), lit(signature), lit(field)];
        let alone = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.function), args));
        if within.is_empty() {
            return Some(alone);
        }
        // The field is a struct itself, of which a field is taken.
        let args = [alone].into_iter().chain(within.iter().cloned()).collect();
        Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&taken.func), args)))
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

impl OptimizerRule for Fields {
    fn name(&self) -> &str {
        "decoded_fields"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|part| self.of_expr(part))?.update_data(|expr| name.restore(expr)))
        })
    }
}
