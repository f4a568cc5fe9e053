//! What is common to all scalar functions here.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use arrow::{
    array::ArrayRef,
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    common::{ScalarValue, internal_err, plan_err},
    error::Result,
    logical_expr::{
        ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

/// A function of SQL whose rows have nothing to do with each other.
pub(super) trait Function: Debug + Default + PartialEq + Eq + Hash + Send + Sync + 'static {
    /// What it is called by.
    const NAME: &'static str;
    /// What else it is called by.
    const ALIASES: &'static [&'static str] = &[];

    /// The type of the result; an error where the arguments are not as they must be.
    fn returns(given: &Given<'_>) -> Result<DataType>;

    /// The result of each row.
    fn run(called: &Called) -> Result<ArrayRef>;
}

/// The arguments when a query is planned.
pub(super) struct Given<'a> {
    name: &'static str,
    /// Their types.
    pub types: Vec<&'a DataType>,
    literals: Vec<Option<&'a ScalarValue>>,
}

impl Given<'_> {
    /// An error unless there are so many.
    pub fn expect_count(&self, count: usize) -> Result<()> {
        match self.types.len() {
            given if given == count => Ok(()),
            given => plan_err!("`{}` takes {count} arguments, not {given}", self.name),
        }
    }

    /// An argument that must be a text in the query itself.
    pub fn text(&self, index: usize, what: &str) -> Result<&str> {
        let text = self.literals.get(index).copied().flatten().and_then(ScalarValue::try_as_str).flatten();
        match text {
            Some(text) => Ok(text),
            None => plan_err!("{what} of `{}` must be a text that stands in the query itself", self.name),
        }
    }

    /// An error of the plan.
    pub fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T> {
        plan_err!("`{}`: {why}", self.name)
    }
}

/// The arguments when a query runs.
pub(super) struct Called {
    values: Vec<ColumnarValue>,
    /// How many rows there are.
    pub rows: usize,
}

impl Called {
    /// An argument as a column.
    pub fn array(&self, index: usize) -> Result<ArrayRef> {
        match self.values.get(index) {
            Some(value) => value.to_array(self.rows),
            None => internal_err!("there is no argument {index}"),
        }
    }

    /// All arguments but for the last ones, as columns.
    pub fn arrays_before(&self, end: usize) -> Result<Vec<ArrayRef>> {
        (0..end).map(|index| self.array(index)).collect()
    }

    /// How many arguments there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// An argument that was found to be a text when the query was planned.
    pub fn text(&self, index: usize) -> Result<&str> {
        match self.values.get(index) {
            Some(ColumnarValue::Scalar(scalar)) => {
                scalar.try_as_str().flatten().map_or_else(|| internal_err!("argument {index} is no text"), Ok)
            }
            _ => internal_err!("argument {index} is no literal"),
        }
    }
}

/// A function as the engine takes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Registered<F> {
    function: F,
    aliases: Vec<String>,
    signature: Signature,
}

/// The function, to be registered.
pub(super) fn udf<F: Function>() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Registered {
        function: F::default(),
        aliases: F::ALIASES.iter().map(|alias| (*alias).to_owned()).collect(),
        signature: Signature::variadic_any(Volatility::Immutable),
    }))
}

impl<F: Function> ScalarUDFImpl for Registered<F> {
    fn name(&self) -> &str {
        F::NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of `{}` depends on its arguments", F::NAME)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let given = Given {
            name: F::NAME,
            types: args.arg_fields.iter().map(|field| field.data_type()).collect(),
            literals: args.scalar_arguments.to_vec(),
        };
        Ok(Arc::new(Field::new(F::NAME, F::returns(&given)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let called = Called { values: args.args, rows: args.number_rows };
        F::run(&called).map(ColumnarValue::Array)
    }
}
