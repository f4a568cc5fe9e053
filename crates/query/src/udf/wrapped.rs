//! A function of the engine with something of ours around each call of it.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::{
    error::Result,
    execution::FunctionRegistry,
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature,
        preimage::PreimageResult,
        simplify::{ExprSimplifyResult, SimplifyContext},
        sort_properties::{ExprProperties, SortProperties},
    },
    prelude::SessionContext,
};

/// What is around the calls.
pub(super) trait Around: Debug + Eq + Hash + Send + Sync + 'static {
    /// Whether the engine may write a call in another way.
    fn is_simplified(&self, _: &[Expr]) -> bool {
        true
    }

    /// Calls the function of the engine, or refuses to.
    fn call(&self, engine: &ScalarUDF, args: ScalarFunctionArgs) -> Result<ColumnarValue>;
}

/// Puts a function in the place of the engine's of that name.
pub(super) fn wrap(context: &SessionContext, name: &str, around: impl Around) {
    if let Ok(engine) = context.udf(name) {
        context.register_udf(wrapped(engine, around));
    }
}

/// A function with something around it.
pub(super) fn wrapped(engine: Arc<ScalarUDF>, around: impl Around) -> ScalarUDF {
    ScalarUDF::new_from_impl(Wrapped { engine, around })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Wrapped<A> {
    engine: Arc<ScalarUDF>,
    around: A,
}

impl<A: Around> ScalarUDFImpl for Wrapped<A> {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.engine.schema_name(args)
    }

    fn aliases(&self) -> &[String] {
        self.engine.aliases()
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.engine.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.engine.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.engine.coerce_types(types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if self.around.is_simplified(&args) {
            self.engine.simplify(args, info)
        } else {
            Ok(ExprSimplifyResult::Original(args))
        }
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.engine.preimage(args, literal, info)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.engine.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.around.call(&self.engine, args)
    }
}
