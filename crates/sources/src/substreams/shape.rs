//! The shape of a message: its fields as columns, made from foreign descriptors.
//!
//! | protobuf                       | Arrow                                                     |
//! |--------------------------------|-----------------------------------------------------------|
//! | numbers, `bool`                | the number of that width, Boolean                         |
//! | `string`, `bytes`              | Utf8, Binary                                              |
//! | an enum                        | Utf8: the value's name, its number where it has none      |
//! | a message                      | Struct, nullable; Boolean where it has no fields          |
//! | `repeated`, `map`              | List, Map, never null                                     |
//! | `Timestamp`, `Int64Value` …    | Timestamp in microseconds, the number; nullable           |
//! | `optional`, in a `oneof`       | nullable                                                  |

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto,
    field_descriptor_proto::{Label, Type as FieldType},
};

use super::{
    descriptors::{Type, Types},
    wire::MAX_FIELD_NUMBER,
};

/// How deep messages may be within each other.
const MAX_DEPTH: usize = 32;
/// How many columns a table may have, those within others counted.
pub(crate) const MAX_COLUMNS: usize = 4096;

/// How long the name of a field or of an enum's value may be.
const MAX_NAME_BYTES: usize = 255;

/// A value without parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Double,
    Float,
    Int64,
    UInt64,
    Int32,
    UInt32,
    Bool,
    String,
    Bytes,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
}

/// What a field holds.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar(Scalar),
    Enum(Arc<EnumNames>),
    Message(Arc<Shape>),
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `google.protobuf.Int64Value` and its like.
    Wrapper(Scalar),
    /// A message without fields: whether it is there is all that it says.
    Present,
    /// A value of an entity's field, as text.
    EntityValue,
}

/// How often a field may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Often {
    /// Once at most.
    One {
        nullable: bool,
        required: bool,
        /// The group of fields of which one at most is there.
        oneof: Option<i32>,
    },
    List,
    Map {
        key: Scalar,
    },
}

/// A field.
#[derive(Debug, Clone)]
pub(crate) struct FieldShape {
    pub name: String,
    pub number: u32,
    pub kind: Kind,
    pub often: Often,
}

/// A message.
#[derive(Debug)]
pub(crate) struct Shape {
    pub fields: Vec<FieldShape>,
    /// The places in `fields` by number, ascending: a foreign number may be large, so nothing is sized by it.
    by_number: Vec<(u32, usize)>,
    pub has_oneof: bool,
    columns: usize,
    depth: usize,
}

/// The names of an enum's values, by number, ascending.
#[derive(Debug)]
pub(crate) struct EnumNames(Vec<(i32, String)>);

impl EnumNames {
    pub fn new(descriptor: &EnumDescriptorProto) -> Self {
        let mut names: Vec<_> =
            descriptor.value.iter().map(|value| (value.number(), value.name().to_owned())).collect();
        // Of two names for one number the first counts, as in protobuf's JSON.
        names.sort_by_key(|(number, _)| *number);
        names.dedup_by_key(|(number, _)| *number);
        Self(names)
    }

    pub fn get(&self, number: i32) -> Option<&str> {
        let place = self.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.0[place].1)
    }
}

impl Shape {
    /// A message without fields.
    pub fn empty() -> Self {
        Self::new(Vec::new())
    }

    pub fn new(fields: Vec<FieldShape>) -> Self {
        let mut by_number: Vec<_> = fields.iter().enumerate().map(|(i, f)| (f.number, i)).collect();
        by_number.sort_unstable();
        let columns = |field: &FieldShape| match &field.kind {
            Kind::Message(shape) => shape.columns.max(1),
            _ => 1,
        };
        let depth = |field: &FieldShape| match &field.kind {
            Kind::Message(shape) => shape.depth + 1,
            _ => 1,
        };
        Self {
            by_number,
            has_oneof: fields.iter().any(|f| matches!(f.often, Often::One { oneof: Some(_), .. })),
            columns: fields.iter().fold(0, |sum: usize, field| sum.saturating_add(columns(field))),
            depth: fields.iter().map(depth).max().unwrap_or(0),
            fields,
        }
    }

    /// The place of the field with that number.
    pub fn place(&self, number: u32) -> Option<usize> {
        let at = self.by_number.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.by_number[at].1)
    }

    /// The fields as Arrow has them.
    pub fn arrow_fields(&self) -> Vec<Field> {
        self.fields.iter().map(FieldShape::arrow).collect()
    }
}

/// The type of points in time: microseconds since 1970, in UTC.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

impl Scalar {
    pub fn data_type(self) -> DataType {
        match self {
            Self::Double => DataType::Float64,
            Self::Float => DataType::Float32,
            Self::Int64 | Self::Sint64 | Self::Sfixed64 => DataType::Int64,
            Self::UInt64 | Self::Fixed64 => DataType::UInt64,
            Self::Int32 | Self::Sint32 | Self::Sfixed32 => DataType::Int32,
            Self::UInt32 | Self::Fixed32 => DataType::UInt32,
            Self::Bool => DataType::Boolean,
            Self::String => DataType::Utf8,
            Self::Bytes => DataType::Binary,
        }
    }
}

impl Kind {
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Scalar(scalar) | Self::Wrapper(scalar) => scalar.data_type(),
            Self::Enum(_) | Self::EntityValue => DataType::Utf8,
            Self::Message(shape) => DataType::Struct(shape.arrow_fields().into()),
            Self::Timestamp => timestamp_type(),
            Self::Present => DataType::Boolean,
        }
    }
}

impl FieldShape {
    pub fn arrow(&self) -> Field {
        let value = self.kind.data_type();
        match self.often {
            Often::One { nullable, .. } => Field::new(&self.name, value, nullable),
            Often::List => {
                let item = Arc::new(Field::new("item", value, false));
                Field::new(&self.name, DataType::List(item), false)
            }
            Often::Map { key } => {
                Field::new(&self.name, DataType::Map(entries(key.data_type(), value), false), false)
            }
        }
    }
}

fn entries(key: DataType, value: DataType) -> Arc<Field> {
    let fields: Fields = vec![Field::new("key", key, false), Field::new("value", value, false)].into();
    Arc::new(Field::new("entries", DataType::Struct(fields), false))
}

/// Makes shapes of the types of a package.
pub(crate) struct Shapes<'a> {
    types: &'a Types<'a>,
    known: HashMap<String, Arc<Shape>>,
    enums: HashMap<String, Arc<EnumNames>>,
    /// The messages that are being made, outermost first.
    open: Vec<String>,
    /// The message that is the value of an entity's field, which is shown as text.
    pub entity_value: Option<String>,
}

impl<'a> Shapes<'a> {
    pub fn new(types: &'a Types<'a>) -> Self {
        Self { types, known: HashMap::new(), enums: HashMap::new(), open: Vec::new(), entity_value: None }
    }

    /// The shape of a message, by its full name. The error says which type or field is why there is none.
    fn shape(&mut self, full: &str) -> Result<Arc<Shape>, String> {
        if let Some(shape) = self.known.get(full) {
            return Ok(shape.clone());
        }
        if let Some(start) = self.open.iter().position(|open| open == full) {
            let path: Vec<_> = self.open[start..].iter().map(|name| format!("`{name}`")).collect();
            let through =
                if path.len() > 1 { format!(" ({})", path.join(" within ")) } else { String::new() };
            return Err(format!("the message `{full}` holds itself{through}; a column cannot hold itself"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("messages are more than {MAX_DEPTH} deep within each other at `{full}`"));
        }
        let (_, Type::Message(descriptor, file)) = self.types.find(&format!(".{full}"), "")? else {
            return Err(format!("`{full}` is not a message"));
        };
        check_fields(full, descriptor)?;
        self.open.push(full.to_owned());
        let explicit = file.syntax() != "proto3";
        let fields = descriptor.field.iter().map(|field| self.field(full, descriptor, field, explicit));
        let fields = fields.collect::<Result<Vec<_>, String>>();
        self.open.pop();
        let shape = Shape::new(fields?);
        if shape.columns > MAX_COLUMNS {
            return Err(format!("the message `{full}` would have more than {MAX_COLUMNS} columns"));
        }
        // Not only what is open counts: a message that was made before may be deep in itself.
        if self.open.len() + shape.depth > MAX_DEPTH {
            return Err(format!("messages are more than {MAX_DEPTH} deep within each other in `{full}`"));
        }
        let shape = Arc::new(shape);
        self.known.insert(full.to_owned(), shape.clone());
        Ok(shape)
    }

    fn field(
        &mut self,
        message: &str,
        descriptor: &DescriptorProto,
        field: &FieldDescriptorProto,
        explicit: bool,
    ) -> Result<FieldShape, String> {
        let name = field.name();
        let within = |why: String| format!("the field `{name}` of `{message}`: {why}");
        let repeated = field.label() == Label::Repeated;
        if repeated && let Some(entry) = map_entry(descriptor, message, field) {
            let [key, value] = entry.map_err(within)?;
            let key = match scalar(key.r#type()) {
                Some(key) => key,
                None => return Err(within("the keys of a map are neither text nor numbers".into())),
            };
            let kind = self.kind(message, value)?;
            return Ok(FieldShape {
                name: name.to_owned(),
                number: number(field),
                kind,
                often: Often::Map { key },
            });
        }
        let kind = self.kind(message, field)?;
        let is_message = !matches!(kind, Kind::Scalar(_) | Kind::Enum(_));
        let required = field.label() == Label::Required;
        let often = if repeated {
            Often::List
        } else {
            let nullable = !required
                && (is_message || explicit || field.proto3_optional() || field.oneof_index.is_some());
            Often::One { nullable, required, oneof: field.oneof_index }
        };
        Ok(FieldShape { name: name.to_owned(), number: number(field), kind, often })
    }

    /// What a field holds, however often.
    pub fn kind(&mut self, message: &str, field: &FieldDescriptorProto) -> Result<Kind, String> {
        let within = |why: String| format!("the field `{}` of `{message}`: {why}", field.name());
        if field.r#type.is_some() && FieldType::try_from(field.r#type.unwrap_or_default()).is_err() {
            return Err(within(format!("its type {} is unknown", field.r#type.unwrap_or_default())));
        }
        match field.r#type() {
            FieldType::Group => return Err(within("groups cannot be read".into())),
            // Also where no type is set: then the name says what it is.
            FieldType::Message | FieldType::Enum => {}
            _ if field.r#type.is_none() => {}
            other => {
                return scalar(other).map(Kind::Scalar).ok_or_else(|| within("its type is unknown".into()));
            }
        }
        if let Some(kind) = well_known(field.type_name()) {
            return Ok(kind);
        }
        let (full, found) = self.types.find(field.type_name(), message).map_err(within)?;
        match found {
            Type::Enum(descriptor) => {
                if descriptor.value.iter().any(|value| value.name().len() > MAX_NAME_BYTES) {
                    return Err(within(format!("a name of `{full}` has more than {MAX_NAME_BYTES} bytes")));
                }
                let names = self.enums.entry(full).or_insert_with(|| Arc::new(EnumNames::new(descriptor)));
                Ok(Kind::Enum(names.clone()))
            }
            Type::Message(..) if self.entity_value.as_ref() == Some(&full) => Ok(Kind::EntityValue),
            Type::Message(descriptor, _) if descriptor.field.is_empty() => Ok(Kind::Present),
            Type::Message(..) => Ok(Kind::Message(self.shape(&full)?)),
        }
    }
}

/// A field's number, once [`check_fields`] has said that it is one.
pub(crate) fn number(field: &FieldDescriptorProto) -> u32 {
    u32::try_from(field.number()).unwrap_or_default()
}

/// That each field has a name and a possible number of its own.
pub(crate) fn check_fields(message: &str, descriptor: &DescriptorProto) -> Result<(), String> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for field in &descriptor.field {
        let (name, number) = (field.name(), field.number());
        let within = |why: String| Err(format!("the field `{name}` of `{message}`: {why}"));
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(format!(
                "a field of `{message}` has no name, or one of more than {MAX_NAME_BYTES} bytes"
            ));
        }
        if !u32::try_from(number).is_ok_and(|number| (1..=MAX_FIELD_NUMBER).contains(&number)) {
            return within(format!("its number {number} is not within 1 and {MAX_FIELD_NUMBER}"));
        }
        if !names.insert(name) {
            return within("there are two of that name".into());
        }
        if !numbers.insert(number) {
            return within(format!("there are two of the number {number}"));
        }
    }
    Ok(())
}

/// Key and value of a map, where the field is one.
pub(crate) fn map_entry<'a>(
    descriptor: &'a DescriptorProto,
    message: &str,
    field: &FieldDescriptorProto,
) -> Option<Result<[&'a FieldDescriptorProto; 2], String>> {
    let name = field.type_name().strip_prefix('.')?.strip_prefix(message)?.strip_prefix('.')?;
    let entry = descriptor.nested_type.iter().find(|nested| nested.name() == name)?;
    entry.options.as_ref().filter(|options| options.map_entry())?;
    let of = |number| entry.field.iter().find(|field| field.number() == number);
    Some(match (of(1), of(2)) {
        (Some(key), Some(value)) => Ok([key, value]),
        _ => Err("a map without keys or values".into()),
    })
}

fn scalar(field_type: FieldType) -> Option<Scalar> {
    Some(match field_type {
        FieldType::Double => Scalar::Double,
        FieldType::Float => Scalar::Float,
        FieldType::Int64 => Scalar::Int64,
        FieldType::Uint64 => Scalar::UInt64,
        FieldType::Int32 => Scalar::Int32,
        FieldType::Uint32 => Scalar::UInt32,
        FieldType::Bool => Scalar::Bool,
        FieldType::String => Scalar::String,
        FieldType::Bytes => Scalar::Bytes,
        FieldType::Sint32 => Scalar::Sint32,
        FieldType::Sint64 => Scalar::Sint64,
        FieldType::Fixed32 => Scalar::Fixed32,
        FieldType::Fixed64 => Scalar::Fixed64,
        FieldType::Sfixed32 => Scalar::Sfixed32,
        FieldType::Sfixed64 => Scalar::Sfixed64,
        FieldType::Group | FieldType::Message | FieldType::Enum => return None,
    })
}

/// The types that every implementation knows; packages need not describe them.
fn well_known(type_name: &str) -> Option<Kind> {
    Some(match type_name.strip_prefix(".google.protobuf.")? {
        "Timestamp" => Kind::Timestamp,
        "DoubleValue" => Kind::Wrapper(Scalar::Double),
        "FloatValue" => Kind::Wrapper(Scalar::Float),
        "Int64Value" => Kind::Wrapper(Scalar::Int64),
        "UInt64Value" => Kind::Wrapper(Scalar::UInt64),
        "Int32Value" => Kind::Wrapper(Scalar::Int32),
        "UInt32Value" => Kind::Wrapper(Scalar::UInt32),
        "BoolValue" => Kind::Wrapper(Scalar::Bool),
        "StringValue" => Kind::Wrapper(Scalar::String),
        "BytesValue" => Kind::Wrapper(Scalar::Bytes),
        "Empty" => Kind::Present,
        _ => return None,
    })
}
