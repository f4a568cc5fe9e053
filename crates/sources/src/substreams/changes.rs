//! Changes of rows: the messages `DatabaseChanges` and `EntityChanges`, in all their versions.
//!
//! Their packages' names and some of their fields' numbers have changed over the years, so both are found by
//! the names of their fields in the package's own descriptors
//! (<https://github.com/streamingfast/substreams-sink-database-changes> and `substreams-sink-entity-changes`).

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, StringBuilder},
    datatypes::{DataType, Field},
    error::ArrowError,
};
use prost_types::{DescriptorProto, FieldDescriptorProto};

use super::{
    descriptors::{Type, Types},
    entity_value,
    found::{Budget, Misfit, as_text},
    shape::EnumNames,
    values::{Cells, Sent, ValueColumn, shortened},
    wire::{Fields, Raw},
};

/// The column that says what is done with a row.
const OPERATION: &str = "_operation";
/// The operation of a new row, without what may stand before it.
const CREATE: &str = "CREATE";

/// What is changed: rows of tables, or entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Tables,
    Entities,
}

/// The numbers of the fields of such messages.
#[derive(Debug)]
pub(crate) struct Numbers {
    of: Of,
    /// In the whole message: the changes.
    changes: u32,
    /// In a change.
    table: u32,
    key: u32,
    composite_key: Option<u32>,
    operation: u32,
    operations: Arc<EnumNames>,
    fields: u32,
    /// In a field of a change.
    name: u32,
    new_value: u32,
    update: Option<u32>,
}

/// A table and the columns that changes may have values for.
#[derive(Debug)]
pub(crate) struct ChangedTable {
    /// As changes name it.
    pub name: String,
    pub columns: Vec<ValueColumn>,
    /// The places of the primary key's columns.
    key: Vec<usize>,
    by_name: HashMap<String, usize>,
}

impl ChangedTable {
    pub fn new(name: String, columns: Vec<ValueColumn>, key: &[String]) -> Self {
        let by_name: HashMap<_, _> =
            columns.iter().enumerate().map(|(i, column)| (column.name.to_lowercase(), i)).collect();
        let key = key.iter().filter_map(|name| by_name.get(&name.to_lowercase()).copied()).collect();
        Self { name, columns, key, by_name }
    }

    /// The columns as Arrow has them: what is done with the row, then the values.
    pub fn arrow_fields(&self) -> Vec<Field> {
        let values = self.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true));
        std::iter::once(Field::new(OPERATION, DataType::Utf8, false)).chain(values).collect()
    }
}

impl Numbers {
    /// Of a message that has such changes; `None` where it is another message of that name.
    pub fn find(types: &Types<'_>, message: &str, of: Of) -> Option<Self> {
        let descriptor = message_of(types, message, "")?;
        let (table, key) = match of {
            Of::Tables => ("table", "pk"),
            Of::Entities => ("entity", "id"),
        };
        let changes = descriptor.field.iter().find(|field| {
            let name = simple(field.name());
            name == "tablechanges" || name == "entitychanges"
        })?;
        let change = message_of(types, changes.type_name(), message)?;
        let number = |descriptor: &DescriptorProto, name: &str| field(descriptor, name).and_then(number_of);
        let fields = field(change, "fields")?;
        let changed = message_of(types, fields.type_name(), message)?;
        let operation = field(change, "operation")?;
        let Ok((_, Type::Enum(operations))) = types.find(operation.type_name(), message) else { return None };
        Some(Self {
            of,
            changes: number_of(changes)?,
            table: number(change, table)?,
            key: number(change, key)?,
            composite_key: number(change, "composite_pk"),
            operation: number_of(operation)?,
            operations: Arc::new(EnumNames::new(operations)),
            fields: number_of(fields)?,
            name: number(changed, "name")?,
            new_value: number(changed, "new_value").or_else(|| number(changed, "value"))?,
            update: number(changed, "update_op"),
        })
    }

    /// The full name of the message that is an entity's value.
    pub fn entity_value(types: &Types<'_>, message: &str) -> Option<String> {
        let change = message_of(
            types,
            field(message_of(types, message, "")?, "entity_changes")?.type_name(),
            message,
        )?;
        let changed = message_of(types, field(change, "fields")?.type_name(), message)?;
        types.find(field(changed, "new_value")?.type_name(), message).ok().map(|(full, _)| full)
    }
}

fn simple(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

fn field<'a>(descriptor: &'a DescriptorProto, name: &str) -> Option<&'a FieldDescriptorProto> {
    descriptor.field.iter().find(|field| simple(field.name()) == simple(name))
}

fn number_of(field: &FieldDescriptorProto) -> Option<u32> {
    u32::try_from(field.number()).ok().filter(|number| *number > 0)
}

fn message_of<'a>(types: &Types<'a>, name: &str, scope: &str) -> Option<&'a DescriptorProto> {
    let name = if scope.is_empty() { format!(".{name}") } else { name.to_owned() };
    match types.find(&name, scope) {
        Ok((_, Type::Message(descriptor, _))) => Some(descriptor),
        _ => None,
    }
}

/// One change as it was sent.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// The table or the type of the entity.
    pub table: &'a str,
    operation: i32,
    key: &'a str,
    composite_key: Vec<(&'a str, &'a str)>,
    fields: Vec<(&'a str, Option<Sent<'a>>)>,
}

impl Numbers {
    /// The changes of a message, in order.
    pub fn changes<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = Result<Change<'a>, Misfit>> + 'a {
        Fields::new(message).filter_map(|field| match field {
            Ok((number, value)) if number == self.changes => Some(self.change(&value)),
            Ok(_) => None,
            Err(broken) => Some(Err(Misfit::new(broken))),
        })
    }

    fn change<'a>(&self, change: &Raw<'a>) -> Result<Change<'a>, Misfit> {
        let Raw::Bytes(bytes) = change else { return Err(Misfit::new("a change is not a message")) };
        let mut read =
            Change { table: "", operation: 0, key: "", composite_key: Vec::new(), fields: Vec::new() };
        for field in Fields::new(bytes) {
            let (number, value) = field.map_err(Misfit::new)?;
            if number == self.table {
                read.table = as_text(&value)?;
            } else if number == self.key {
                read.key = as_text(&value)?;
            } else if number == self.operation {
                let Raw::Varint(operation) = value else {
                    return Err(Misfit::new("an operation is not a number"));
                };
                read.operation = operation as i32;
            } else if number == self.fields {
                read.fields.push(self.field(&value)?);
            } else if Some(number) == self.composite_key {
                read_keys(&value, &mut read.composite_key)?;
            }
        }
        Ok(read)
    }

    fn field<'a>(&self, field: &Raw<'a>) -> Result<(&'a str, Option<Sent<'a>>), Misfit> {
        let Raw::Bytes(bytes) = field else { return Err(Misfit::new("a field is not a message")) };
        let (mut name, mut parts, mut update) = ("", Vec::new(), 0);
        for field in Fields::new(bytes) {
            let (number, value) = field.map_err(Misfit::new)?;
            if number == self.name {
                name = as_text(&value)?;
            } else if number == self.new_value {
                parts.push(value);
            } else if let (true, Raw::Varint(number)) = (Some(number) == self.update, &value) {
                update = *number;
            }
        }
        if update != 0 {
            let why = "it is changed by adding to it or comparing with it, and not set; such a module's rows \
                       are no values that could be stored";
            return Err(Misfit::new(why).within(name));
        }
        let value = match self.of {
            Of::Tables => Some(Sent::Text(match parts.last() {
                Some(text) => as_text(text).map_err(|misfit| misfit.within(name))?,
                None => "",
            })),
            Of::Entities => {
                let value = entity_value::read(&parts, 0).map_err(|misfit| misfit.within(name))?;
                value.map(Sent::Entity)
            }
        };
        Ok((name, value))
    }

    /// What is done, without what the enum puts before the name: `CREATE`, `UPDATE`, `DELETE`.
    fn operation(&self, number: i32) -> Result<&str, Misfit> {
        let name = self.operations.get(number).filter(|_| number != 0);
        let name = name.ok_or_else(|| Misfit::new(format!("the operation {number} is unknown")))?;
        Ok(name.strip_prefix("OPERATION_").unwrap_or(name))
    }
}

fn read_keys<'a>(composite: &Raw<'a>, keys: &mut Vec<(&'a str, &'a str)>) -> Result<(), Misfit> {
    let Raw::Bytes(bytes) = composite else { return Err(Misfit::new("a key is not a message")) };
    for entry in Fields::new(bytes) {
        let (1, Raw::Bytes(entry)) = entry.map_err(Misfit::new)? else { continue };
        let (mut name, mut value) = ("", "");
        for part in Fields::new(entry) {
            match part.map_err(Misfit::new)? {
                (1, text) => name = as_text(&text)?,
                (2, text) => value = as_text(&text)?,
                _ => {}
            }
        }
        keys.push((name, value));
    }
    Ok(())
}

/// The columns of a changed table.
#[derive(Debug)]
pub(crate) struct ChangeColumns {
    operations: StringBuilder,
    cells: Vec<Cells>,
}

impl ChangeColumns {
    pub fn new(table: &ChangedTable) -> Self {
        let cells = table.columns.iter().map(|column| Cells::new(&column.data_type)).collect();
        Self { operations: StringBuilder::new(), cells }
    }

    /// Appends a row. What the change does not name is null, but for the key.
    pub fn append(
        &mut self,
        table: &ChangedTable,
        numbers: &Numbers,
        change: &Change<'_>,
        budget: &mut Budget,
    ) -> Result<(), Misfit> {
        let operation = numbers.operation(change.operation).map_err(|misfit| misfit.within("operation"))?;
        budget.take(operation.len())?;
        self.operations.append_value(operation);
        let mut row: Vec<Option<Sent<'_>>> = vec![None; table.columns.len()];
        for (name, value) in keys(table, change).into_iter().chain(change.fields.iter().cloned()) {
            let Some(place) = table.by_name.get(&name.to_lowercase()) else {
                let known: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
                let known = shortened(&known.join(", "));
                let why = format!("the package's schema has no such column; it has {known}");
                return Err(Misfit::new(why).within(&shortened(name)));
            };
            row[*place] = value;
        }
        numbers.check_key(table, change, operation, &row)?;
        for ((value, cells), column) in row.iter().zip(&mut self.cells).zip(&table.columns) {
            let appended = match value {
                Some(value) => cells.append(value, budget),
                None => cells.append_null(budget),
            };
            appended.map_err(|misfit| misfit.within(&column.name))?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(self.operations.finish())];
        for cells in &mut self.cells {
            columns.push(cells.finish()?);
        }
        Ok(columns)
    }
}

/// The values of the key's columns, which updates and deletions need not name among the fields.
fn keys<'a>(table: &'a ChangedTable, change: &Change<'a>) -> Vec<(&'a str, Option<Sent<'a>>)> {
    if !change.composite_key.is_empty() {
        return change.composite_key.iter().map(|(name, value)| (*name, Some(Sent::Text(value)))).collect();
    }
    match table.key[..] {
        [place] if !change.key.is_empty() => {
            vec![(table.columns[place].name.as_str(), Some(Sent::Text(change.key)))]
        }
        // What names its row by one value has the key's columns among its fields, or none.
        _ => vec![],
    }
}

impl Numbers {
    /// Refuses a change of which the row would not say which one it is of: it has to name all columns of the key. A
    /// new row of a table without a key need not, nor does one whose key the database makes up.
    fn check_key(
        &self,
        table: &ChangedTable,
        change: &Change<'_>,
        operation: &str,
        row: &[Option<Sent<'_>>],
    ) -> Result<(), Misfit> {
        let (by_one, by_several) = (!change.key.is_empty(), !change.composite_key.is_empty());
        let is_named =
            (!table.key.is_empty() || by_several) && table.key.iter().all(|place| row[*place].is_some());
        let is_new = operation == CREATE && (table.key.is_empty() || !by_one && !by_several);
        if is_named || is_new {
            return Ok(());
        }
        let key = match self.of {
            Of::Tables => "pk",
            Of::Entities => "id",
        };
        Err(if by_several {
            let why = "the change does not name all columns that are this table's primary key in the package's schema";
            Misfit::new(why).within("composite_pk")
        } else if by_one {
            let why = "the change names its row by one value, but the package's schema does not have one \
                       column as this table's primary key";
            Misfit::new(why).within(key)
        } else {
            Misfit::new("the change does not say which row it is of").within(key)
        })
    }
}
