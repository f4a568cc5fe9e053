//! Columns of numbers, of whatever width and however they are written.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder,
    Int64Builder, UInt32Builder, UInt64Builder,
};

use super::{
    found::Misfit,
    shape::Scalar,
    wire::{Broken, Raw, varint},
};

/// The values of a column of numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    scalar: Scalar,
    builder: Builder,
}

#[derive(Debug)]
enum Builder {
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
}

macro_rules! with_builder {
    ($self:expr, $builder:ident => $do:expr) => {
        match &mut $self.builder {
            Builder::Bool($builder) => $do,
            Builder::Int32($builder) => $do,
            Builder::Int64($builder) => $do,
            Builder::UInt32($builder) => $do,
            Builder::UInt64($builder) => $do,
            Builder::Float32($builder) => $do,
            Builder::Float64($builder) => $do,
        }
    };
}

impl Numbers {
    /// For text and bytes there is no such column: they are not numbers.
    pub fn new(scalar: Scalar) -> Self {
        let builder = match scalar {
            Scalar::Bool | Scalar::String | Scalar::Bytes => Builder::Bool(BooleanBuilder::new()),
            Scalar::Int32 | Scalar::Sint32 | Scalar::Sfixed32 => Builder::Int32(Int32Builder::new()),
            Scalar::Int64 | Scalar::Sint64 | Scalar::Sfixed64 => Builder::Int64(Int64Builder::new()),
            Scalar::UInt32 | Scalar::Fixed32 => Builder::UInt32(UInt32Builder::new()),
            Scalar::UInt64 | Scalar::Fixed64 => Builder::UInt64(UInt64Builder::new()),
            Scalar::Float => Builder::Float32(Float32Builder::new()),
            Scalar::Double => Builder::Float64(Float64Builder::new()),
        };
        Self { scalar, builder }
    }

    pub fn len(&self) -> usize {
        match &self.builder {
            Builder::Bool(builder) => builder.len(),
            Builder::Int32(builder) => builder.len(),
            Builder::Int64(builder) => builder.len(),
            Builder::UInt32(builder) => builder.len(),
            Builder::UInt64(builder) => builder.len(),
            Builder::Float32(builder) => builder.len(),
            Builder::Float64(builder) => builder.len(),
        }
    }

    pub fn append_null(&mut self) {
        with_builder!(self, builder => builder.append_null());
    }

    pub fn append_default(&mut self) {
        with_builder!(self, builder => builder.append_value(Default::default()));
    }

    /// Takes the next of packed numbers off the front.
    pub fn unpack<'a>(&self, packed: &mut &'a [u8]) -> Result<Raw<'a>, Broken> {
        match self.scalar {
            Scalar::Float | Scalar::Fixed32 | Scalar::Sfixed32 => {
                let (bytes, rest) = packed.split_first_chunk().ok_or(Broken::Cut)?;
                *packed = rest;
                Ok(Raw::Fixed32(u32::from_le_bytes(*bytes)))
            }
            Scalar::Double | Scalar::Fixed64 | Scalar::Sfixed64 => {
                let (bytes, rest) = packed.split_first_chunk().ok_or(Broken::Cut)?;
                *packed = rest;
                Ok(Raw::Fixed64(u64::from_le_bytes(*bytes)))
            }
            _ => varint(packed).map(Raw::Varint),
        }
    }

    /// What does not fit 32 bits is cut off, as protobuf has it for numbers that were once wider.
    pub fn append(&mut self, value: &Raw<'_>) -> Result<(), Misfit> {
        match (self.scalar, &mut self.builder, value) {
            (Scalar::Bool, Builder::Bool(builder), Raw::Varint(v)) => builder.append_value(*v != 0),
            (Scalar::Int32, Builder::Int32(builder), Raw::Varint(v)) => builder.append_value(*v as i32),
            (Scalar::Sint32, Builder::Int32(builder), Raw::Varint(v)) => {
                builder.append_value(unzigzag(u64::from(*v as u32)) as i32);
            }
            (Scalar::Sfixed32, Builder::Int32(builder), Raw::Fixed32(v)) => builder.append_value(*v as i32),
            (Scalar::Int64, Builder::Int64(builder), Raw::Varint(v)) => builder.append_value(*v as i64),
            (Scalar::Sint64, Builder::Int64(builder), Raw::Varint(v)) => builder.append_value(unzigzag(*v)),
            (Scalar::Sfixed64, Builder::Int64(builder), Raw::Fixed64(v)) => builder.append_value(*v as i64),
            (Scalar::UInt32, Builder::UInt32(builder), Raw::Varint(v)) => builder.append_value(*v as u32),
            (Scalar::Fixed32, Builder::UInt32(builder), Raw::Fixed32(v)) => builder.append_value(*v),
            (Scalar::UInt64, Builder::UInt64(builder), Raw::Varint(v)) => builder.append_value(*v),
            (Scalar::Fixed64, Builder::UInt64(builder), Raw::Fixed64(v)) => builder.append_value(*v),
            (Scalar::Float, Builder::Float32(builder), Raw::Fixed32(v)) => {
                builder.append_value(f32::from_bits(*v));
            }
            (Scalar::Double, Builder::Float64(builder), Raw::Fixed64(v)) => {
                builder.append_value(f64::from_bits(*v));
            }
            (scalar, _, found) => {
                let why = format!("it should be a number ({scalar:?}), but it is {}", found.kind());
                return Err(Misfit::new(why));
            }
        }
        Ok(())
    }

    pub fn finish(&mut self) -> ArrayRef {
        fn array(array: impl Array + 'static) -> ArrayRef {
            Arc::new(array)
        }
        with_builder!(self, builder => array(builder.finish()))
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
