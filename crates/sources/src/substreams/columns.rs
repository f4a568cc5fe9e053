//! Columns that are filled from the bytes of messages, without messages in between.
//!
//! What a message holds is found first, then each column takes what is its own: fields come in any order,
//! and of one that is there twice the last counts, as protobuf has it.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, ListArray, MapArray, StringBuilder, StructArray,
        TimestampMicrosecondBuilder,
    },
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field},
    error::ArrowError,
};

use super::{
    entity_value,
    found::{Budget, Found, Misfit, as_text, find, micros, wrong_kind},
    numbers::Numbers,
    shape::{EnumNames, FieldShape, Kind, Often, Scalar, Shape},
    wire::{Raw, varint},
};

/// The columns of a message's fields.
#[derive(Debug)]
pub(crate) struct Columns {
    shape: Arc<Shape>,
    columns: Vec<Column>,
}

impl Columns {
    pub fn new(shape: &Arc<Shape>) -> Self {
        Self { shape: shape.clone(), columns: shape.fields.iter().map(Column::new).collect() }
    }

    /// Appends a row: a message that was written in these parts.
    pub fn append(&mut self, parts: &[Raw<'_>], budget: &mut Budget) -> Result<(), Misfit> {
        let found = find(&self.shape, parts, budget)?;
        let mut rest = &found[..];
        let mut values = Vec::new();
        for (place, column) in self.columns.iter_mut().enumerate() {
            let count = rest.iter().take_while(|(found, _)| *found == place).count();
            let (own, others) = rest.split_at(count);
            rest = others;
            values.clear();
            values.extend(own.iter().map(|(_, value)| *value));
            let field = &self.shape.fields[place];
            column.append(field, &values, budget).map_err(|misfit| misfit.within(&field.name))?;
        }
        Ok(())
    }

    /// Appends a row for a message that is not there.
    fn append_absent(&mut self, budget: &mut Budget) -> Result<(), Misfit> {
        self.columns.iter_mut().try_for_each(|column| column.append_absent(budget))
    }

    /// The columns; after that there are none of before.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let fields = self.shape.fields.iter();
        fields.zip(&mut self.columns).map(|(field, column)| column.finish(&field.arrow())).collect()
    }
}

#[derive(Debug)]
enum Column {
    One(Values),
    List { ends: Vec<i32>, items: Values },
    Map { ends: Vec<i32>, keys: Values, values: Values, entry: Arc<Shape> },
}

impl Column {
    fn new(field: &FieldShape) -> Self {
        match field.often {
            Often::One { .. } => Self::One(Values::new(&field.kind)),
            Often::List => Self::List { ends: vec![0], items: Values::new(&field.kind) },
            Often::Map { key } => Self::Map {
                ends: vec![0],
                keys: Values::new(&Kind::Scalar(key)),
                values: Values::new(&field.kind),
                entry: Arc::new(Shape::entry(key, &field.kind)),
            },
        }
    }

    fn append(&mut self, field: &FieldShape, found: &[Raw<'_>], budget: &mut Budget) -> Result<(), Misfit> {
        match self {
            Self::One(values) => match field.often {
                Often::One { required: true, .. } if found.is_empty() => {
                    Err(Misfit::new("it is not there, though it is required"))
                }
                Often::One { nullable: false, .. } => values.append_or_default(found, budget),
                _ if found.is_empty() => values.append_null(budget),
                _ => values.append(found, budget),
            },
            Self::List { ends, items } => {
                let before = items.len();
                for value in found {
                    items.append_item(value, budget)?;
                }
                close(ends, items.len() - before, budget)
            }
            Self::Map { ends, keys, values, entry } => {
                let mut entries: Vec<Vec<Found<'_>>> = Vec::with_capacity(found.len());
                for written in found {
                    entries.push(find(entry, &[*written], budget)?);
                }
                // Of a key that is there twice the last value counts; it stays at the first one's place.
                let mut places = std::collections::HashMap::new();
                let mut kept: Vec<usize> = Vec::with_capacity(entries.len());
                for (i, found) in entries.iter().enumerate() {
                    match places.entry(key_of(found)) {
                        std::collections::hash_map::Entry::Vacant(vacant) => {
                            vacant.insert(kept.len());
                            kept.push(i);
                        }
                        std::collections::hash_map::Entry::Occupied(place) => kept[*place.get()] = i,
                    }
                }
                for i in &kept {
                    let of = |place| -> Vec<Raw<'_>> {
                        entries[*i].iter().filter(|(found, _)| *found == place).map(|(_, raw)| *raw).collect()
                    };
                    keys.append_or_default(&of(0), budget).map_err(|misfit| misfit.within("key"))?;
                    values.append_or_default(&of(1), budget).map_err(|misfit| misfit.within("value"))?;
                }
                close(ends, kept.len(), budget)
            }
        }
    }

    /// A value for a message that is not there.
    fn append_absent(&mut self, budget: &mut Budget) -> Result<(), Misfit> {
        match self {
            // Under a null it may be anything, but where the field is never null it has to be something.
            Self::One(values) => values.append_or_default(&[], budget),
            Self::List { ends, .. } | Self::Map { ends, .. } => close(ends, 0, budget),
        }
    }

    fn finish(&mut self, field: &Field) -> Result<ArrayRef, ArrowError> {
        let offsets = |ends: &mut Vec<i32>| {
            // They begin with 0 and never go down.
            OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(ends, vec![0])))
        };
        Ok(match (self, field.data_type()) {
            (Self::One(values), data_type) => values.finish(data_type)?,
            (Self::List { ends, items }, DataType::List(item)) => {
                let items = items.finish(item.data_type())?;
                Arc::new(ListArray::try_new(item.clone(), offsets(ends), items, None)?)
            }
            (Self::Map { ends, keys, values, .. }, DataType::Map(entries, sorted)) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(ArrowError::SchemaError("a map without entries".into()));
                };
                let columns =
                    vec![keys.finish(fields[0].data_type())?, values.finish(fields[1].data_type())?];
                let pairs = StructArray::try_new(fields.clone(), columns, None)?;
                Arc::new(MapArray::try_new(entries.clone(), offsets(ends), pairs, None, *sorted)?)
            }
            _ => return Err(ArrowError::SchemaError("a column of another type".into())),
        })
    }
}

/// The key of an entry in a form that can be compared; `None` for the default.
fn key_of<'a>(found: &[Found<'a>]) -> Option<(u64, &'a [u8])> {
    let (_, key) = found.iter().rev().find(|(place, _)| *place == 0)?;
    let key = match key {
        Raw::Varint(number) | Raw::Fixed64(number) => (*number, &[][..]),
        Raw::Fixed32(number) => (u64::from(*number), &[][..]),
        Raw::Bytes(bytes) => (0, *bytes),
    };
    // The default written out is the same key.
    Some(key).filter(|key| *key != (0, &[][..]))
}

fn close(ends: &mut Vec<i32>, added: usize, budget: &mut Budget) -> Result<(), Misfit> {
    budget.take(0)?;
    let last = ends.last().copied().unwrap_or(0);
    let end = i32::try_from(added).ok().and_then(|added| last.checked_add(added));
    ends.push(end.ok_or_else(|| Misfit::new("a list is too long"))?);
    Ok(())
}

impl Shape {
    /// The entries of a map as messages.
    fn entry(key: Scalar, value: &Kind) -> Self {
        let often = Often::One { nullable: false, required: false, oneof: None };
        Self::new(vec![
            FieldShape { name: "key".into(), number: 1, kind: Kind::Scalar(key), often },
            FieldShape { name: "value".into(), number: 2, kind: value.clone(), often },
        ])
    }
}

/// The values of a column, without what says how often they are there.
#[derive(Debug)]
enum Values {
    Numbers(Numbers),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Enum(Arc<EnumNames>, StringBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Wrapper(Arc<Shape>, Box<Values>),
    Present(BooleanBuilder),
    Entity(StringBuilder),
    Message { columns: Box<Columns>, valid: Vec<bool> },
}

impl Values {
    fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Scalar(Scalar::String) => Self::Text(StringBuilder::new()),
            Kind::Scalar(Scalar::Bytes) => Self::Bytes(BinaryBuilder::new()),
            Kind::Scalar(scalar) => Self::Numbers(Numbers::new(*scalar)),
            Kind::Enum(names) => Self::Enum(names.clone(), StringBuilder::new()),
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("+00:00")),
            Kind::Wrapper(scalar) => {
                let value = Kind::Scalar(*scalar);
                let shape = Shape::new(vec![FieldShape {
                    name: "value".into(),
                    number: 1,
                    kind: value.clone(),
                    often: Often::One { nullable: false, required: false, oneof: None },
                }]);
                Self::Wrapper(Arc::new(shape), Box::new(Self::new(&value)))
            }
            Kind::Present => Self::Present(BooleanBuilder::new()),
            Kind::EntityValue => Self::Entity(StringBuilder::new()),
            Kind::Message(shape) => Self::Message { columns: Box::new(Columns::new(shape)), valid: vec![] },
        }
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Text(text) | Self::Enum(_, text) | Self::Entity(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Timestamp(times) => times.len(),
            Self::Wrapper(_, value) => value.len(),
            Self::Present(flags) => flags.len(),
            Self::Message { valid, .. } => valid.len(),
        }
    }

    /// Appends what was found last, or the type's default where nothing was found.
    fn append_or_default(&mut self, found: &[Raw<'_>], budget: &mut Budget) -> Result<(), Misfit> {
        if !found.is_empty() {
            return self.append(found, budget);
        }
        match self {
            Self::Numbers(numbers) => {
                budget.take(0)?;
                numbers.append_default();
            }
            Self::Text(text) | Self::Entity(text) => {
                budget.take(0)?;
                text.append_value("");
            }
            Self::Bytes(bytes) => {
                budget.take(0)?;
                bytes.append_value([]);
            }
            Self::Enum(..) => self.append(&[Raw::Varint(0)], budget)?,
            Self::Present(flags) => {
                budget.take(0)?;
                flags.append_value(false);
            }
            Self::Timestamp(_) | Self::Wrapper(..) => self.append(&[Raw::Bytes(&[])], budget)?,
            Self::Message { columns, valid } => {
                columns.append_absent(budget)?;
                valid.push(true);
            }
        }
        Ok(())
    }

    fn append_null(&mut self, budget: &mut Budget) -> Result<(), Misfit> {
        budget.take(0)?;
        match self {
            Self::Numbers(numbers) => numbers.append_null(),
            Self::Text(text) | Self::Enum(_, text) | Self::Entity(text) => text.append_null(),
            Self::Bytes(bytes) => bytes.append_null(),
            Self::Timestamp(times) => times.append_null(),
            Self::Wrapper(_, value) => value.append_null(budget)?,
            Self::Present(flags) => flags.append_null(),
            Self::Message { columns, valid } => {
                columns.append_absent(budget)?;
                valid.push(false);
            }
        }
        Ok(())
    }

    /// Appends the items that were written in one piece: several where they are packed.
    fn append_item(&mut self, found: &Raw<'_>, budget: &mut Budget) -> Result<(), Misfit> {
        let Raw::Bytes(mut packed) = *found else { return self.append(std::slice::from_ref(found), budget) };
        match self {
            Self::Numbers(numbers) => {
                while !packed.is_empty() {
                    budget.take(0)?;
                    numbers.append(&numbers.unpack(&mut packed).map_err(Misfit::new)?)?;
                }
                Ok(())
            }
            Self::Enum(..) => {
                while !packed.is_empty() {
                    let number = varint(&mut packed).map_err(Misfit::new)?;
                    self.append(&[Raw::Varint(number)], budget)?;
                }
                Ok(())
            }
            _ => self.append(std::slice::from_ref(found), budget),
        }
    }

    /// Appends one value: the last of those found, or a message of all of them, which are its parts.
    fn append(&mut self, found: &[Raw<'_>], budget: &mut Budget) -> Result<(), Misfit> {
        let Some(last) = found.last() else { return self.append_null(budget) };
        match self {
            Self::Numbers(numbers) => {
                budget.take(0)?;
                numbers.append(last)?;
            }
            Self::Text(text) => {
                let value = as_text(last)?;
                budget.take(value.len())?;
                text.append_value(value);
            }
            Self::Bytes(bytes) => {
                let Raw::Bytes(value) = last else { return Err(wrong_kind("bytes", last)) };
                budget.take(value.len())?;
                bytes.append_value(value);
            }
            Self::Enum(names, text) => {
                let Raw::Varint(number) = last else { return Err(wrong_kind("an enum's number", last)) };
                // Enums are 32 bits wide; what is above is cut off, as protobuf has it.
                let number = *number as i32;
                match names.get(number) {
                    Some(name) => {
                        budget.take(name.len())?;
                        text.append_value(name);
                    }
                    None => {
                        budget.take(11)?;
                        text.append_value(number.to_string());
                    }
                }
            }
            Self::Timestamp(times) => {
                budget.take(0)?;
                times.append_value(micros(found)?);
            }
            Self::Wrapper(shape, value) => {
                let found: Vec<_> = find(shape, found, budget)?.into_iter().map(|(_, raw)| raw).collect();
                value.append_or_default(&found, budget)?;
            }
            Self::Present(flags) => {
                let Raw::Bytes(_) = last else { return Err(wrong_kind("a message", last)) };
                budget.take(0)?;
                flags.append_value(true);
            }
            Self::Entity(text) => match entity_value::text_of(found)? {
                Some(value) => {
                    budget.take(value.len())?;
                    text.append_value(value);
                }
                None => self.append_null(budget)?,
            },
            Self::Message { columns, valid } => {
                columns.append(found, budget)?;
                valid.push(true);
            }
        }
        Ok(())
    }

    fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Numbers(numbers) => numbers.finish(),
            Self::Text(text) | Self::Enum(_, text) | Self::Entity(text) => Arc::new(text.finish()),
            Self::Bytes(bytes) => Arc::new(bytes.finish()),
            Self::Timestamp(times) => Arc::new(times.finish()),
            Self::Wrapper(_, value) => value.finish(data_type)?,
            Self::Present(flags) => Arc::new(flags.finish()),
            Self::Message { columns, valid } => {
                let DataType::Struct(fields) = data_type else {
                    return Err(ArrowError::SchemaError("a message without fields".into()));
                };
                let nulls = NullBuffer::from(std::mem::take(valid));
                let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
                Arc::new(StructArray::try_new(fields.clone(), columns.finish()?, nulls)?)
            }
        })
    }
}
