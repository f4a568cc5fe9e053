//! Types and signatures of Solidity, and the Arrow types that stand for them.
//!
//! The forms are those of the contract ABI specification; a signature is written as in Solidity, with or
//! without `event` or `function` in front.

use std::sync::Arc;

use alloy_primitives::{B256, Selector, keccak256};
use arrow::datatypes::{DataType, Field, Fields};

/// The bytes of a word.
pub(super) const WORD: usize = 32;

/// Bits of the widest integers that a decimal of 38 digits holds.
const DECIMAL_BITS: usize = 125;

/// A type whose values are encoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Type {
    Bool,
    /// With its bits.
    Uint(usize),
    /// With its bits.
    Int(usize),
    Address,
    /// With its bytes.
    FixedBytes(usize),
    Bytes,
    String,
    List(Arc<Self>),
    FixedList(Arc<Self>, usize),
    Tuple(Arc<[Named]>),
}

/// A value with a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Named {
    pub name: String,
    pub ty: Type,
}

impl Type {
    /// Reads a type, such as `uint256`, `address[]` or `(uint8 a, string b)`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::new(text)?;
        let ty = reader.ty(0)?;
        reader.end().map(|()| ty)
    }

    fn of(text: &str) -> Option<Self> {
        match text {
            "bool" => return Some(Self::Bool),
            "address" => return Some(Self::Address),
            "bytes" => return Some(Self::Bytes),
            "string" => return Some(Self::String),
            _ => {}
        }
        let digits = text.find(|char: char| char.is_ascii_digit()).unwrap_or(text.len());
        let (name, size) = text.split_at(digits);
        let size = if size.is_empty() { None } else { Some(size.parse::<usize>().ok()?) };
        let bits = size.unwrap_or(256);
        let is_width =
            (8..=256).contains(&bits) && bits.is_multiple_of(8) && !text[digits..].starts_with('0');
        match (name, size) {
            ("uint", _) if is_width => Some(Self::Uint(bits)),
            ("int", _) if is_width => Some(Self::Int(bits)),
            ("bytes", Some(size @ 1..=32)) if !text[digits..].starts_with('0') => {
                Some(Self::FixedBytes(size))
            }
            _ => None,
        }
    }

    /// Whether its length is only known from the value.
    pub fn is_dynamic(&self) -> bool {
        match self {
            Self::Bytes | Self::String | Self::List(_) => true,
            Self::FixedList(item, _) => item.is_dynamic(),
            Self::Tuple(fields) => fields.iter().any(|field| field.ty.is_dynamic()),
            _ => false,
        }
    }

    /// How many lists and tuples lie within each other.
    fn depth(&self) -> usize {
        match self {
            Self::List(item) | Self::FixedList(item, _) => item.depth() + 1,
            Self::Tuple(fields) => fields.iter().map(|field| field.ty.depth()).max().unwrap_or(0) + 1,
            _ => 0,
        }
    }

    /// How many values a column has room for in each row.
    fn fixed_items(&self) -> usize {
        match self {
            Self::FixedList(item, count) => item.fixed_items().saturating_mul(*count),
            Self::Tuple(fields) => {
                fields.iter().map(|field| field.ty.fixed_items()).fold(0, usize::saturating_add)
            }
            // Of a list only the items that are there.
            Self::List(item) => item.fixed_items().min(1),
            _ => 1,
        }
    }

    /// The bytes that a value takes among its neighbours: of a dynamic one only an offset.
    pub fn head_bytes(&self) -> usize {
        match self {
            dynamic if dynamic.is_dynamic() => WORD,
            Self::FixedList(item, count) => item.head_bytes() * count,
            Self::Tuple(fields) => fields.iter().map(|field| field.ty.head_bytes()).sum(),
            _ => WORD,
        }
    }

    /// The Arrow type of its values.
    pub fn data_type(&self) -> DataType {
        let item = |ty: &Self| Arc::new(Field::new("item", ty.data_type(), true));
        match self {
            Self::Bool => DataType::Boolean,
            Self::Uint(..=8) => DataType::UInt8,
            Self::Uint(..=16) => DataType::UInt16,
            Self::Uint(..=32) => DataType::UInt32,
            Self::Uint(..=64) => DataType::UInt64,
            Self::Int(..=8) => DataType::Int8,
            Self::Int(..=16) => DataType::Int16,
            Self::Int(..=32) => DataType::Int32,
            Self::Int(..=64) => DataType::Int64,
            Self::Uint(..=DECIMAL_BITS) | Self::Int(..=DECIMAL_BITS) => DataType::Decimal128(38, 0),
            Self::Uint(_) | Self::Int(_) | Self::String => DataType::Utf8,
            Self::Address => DataType::FixedSizeBinary(20),
            Self::FixedBytes(size) => DataType::FixedSizeBinary(*size as i32),
            Self::Bytes => DataType::Binary,
            Self::List(ty) => DataType::List(item(ty)),
            Self::FixedList(ty, count) => DataType::FixedSizeList(item(ty), *count as i32),
            Self::Tuple(fields) => DataType::Struct(struct_fields(fields)),
        }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Uint(bits) => write!(f, "uint{bits}"),
            Self::Int(bits) => write!(f, "int{bits}"),
            Self::Address => f.write_str("address"),
            Self::FixedBytes(size) => write!(f, "bytes{size}"),
            Self::Bytes => f.write_str("bytes"),
            Self::String => f.write_str("string"),
            Self::List(item) => write!(f, "{item}[]"),
            Self::FixedList(item, count) => write!(f, "{item}[{count}]"),
            Self::Tuple(fields) => {
                let types: Vec<String> = fields.iter().map(|field| field.ty.to_string()).collect();
                write!(f, "({})", types.join(","))
            }
        }
    }
}

/// The fields of a struct of these values.
pub(super) fn struct_fields(fields: &[Named]) -> Fields {
    fields.iter().map(|field| Field::new(&field.name, field.ty.data_type(), true)).collect()
}

fn check_names(fields: &[Named]) -> Result<(), String> {
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|before| before.name == field.name) {
            return Err(format!("two parameters are named `{}`", field.name));
        }
    }
    Ok(())
}

/// The canonical form, of which the hash is taken.
fn canonical(name: &str, parameters: &[Parameter]) -> String {
    let types: Vec<String> = parameters.iter().map(|parameter| parameter.named.ty.to_string()).collect();
    format!("{name}({})", types.join(","))
}

/// The hash that is the first topic of an event's logs. Its parameters need no names.
pub(super) fn topic(text: &str) -> Result<B256, String> {
    let (name, parameters) = event(text)?;
    Ok(keccak256(canonical(&name, &parameters)))
}

fn event(text: &str) -> Result<(String, Vec<Parameter>), String> {
    let mut reader = Reader::new(text)?;
    let event = reader.signature("event")?;
    if reader.takes("anonymous") {
        return Err(format!("`{text}` is anonymous: no topic tells its logs"));
    }
    reader.end()?;
    Ok(event)
}

/// An event, as its logs are decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EventSignature {
    /// What the topics behind it hold: at most three. Of a value that is no word only its hash.
    pub indexed: Vec<Named>,
    /// What the data holds.
    pub body: Vec<Named>,
}

impl EventSignature {
    /// Reads a signature, such as `Transfer(address indexed from, address indexed to, uint256 value)`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (_, parameters) = event(text)?;
        let (mut indexed, mut body) = (vec![], vec![]);
        for Parameter { named: Named { name, ty }, is_indexed } in parameters {
            if name.is_empty() {
                return Err(format!("a parameter of `{text}` has no name"));
            }
            // Of what is more than a word the topic has only the hash.
            let is_word = !matches!(ty, Type::FixedList(..) | Type::Tuple(_)) && !ty.is_dynamic();
            match is_indexed {
                true if is_word => indexed.push(Named { name, ty }),
                true => indexed.push(Named { name, ty: Type::FixedBytes(WORD) }),
                false => body.push(Named { name, ty }),
            }
        }
        if indexed.len() > 3 {
            return Err(format!("`{text}` has more than three indexed parameters"));
        }
        check_names(&[indexed.as_slice(), &body].concat())?;
        Ok(Self { indexed, body })
    }

    /// All values, the indexed ones first.
    pub fn fields(&self) -> Fields {
        struct_fields(&[self.indexed.as_slice(), &self.body].concat())
    }
}

/// A function, as its calls are decoded and made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FunctionSignature {
    /// The four bytes before the parameters.
    pub selector: Selector,
    /// Its parameters.
    pub inputs: Vec<Named>,
}

impl FunctionSignature {
    /// Reads a signature, such as `function transfer(address to, uint256 value)`. What stands behind the
    /// parameters does not matter.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, parameters) = Reader::new(text)?.signature("function")?;
        if parameters.iter().any(|parameter| parameter.is_indexed) {
            return Err(format!("`{text}` has an indexed parameter, as only events have"));
        }
        let hash = keccak256(canonical(&name, &parameters));
        let inputs = parameters.into_iter().map(|parameter| parameter.named).collect();
        Ok(Self { selector: Selector::from_slice(&hash[..4]), inputs })
    }

    /// The same, where each parameter must have a name of its own.
    pub fn parse_named(text: &str) -> Result<Self, String> {
        let signature = Self::parse(text)?;
        if signature.inputs.iter().any(|input| input.name.is_empty()) {
            return Err(format!("a parameter of `{text}` has no name"));
        }
        check_names(&signature.inputs)?;
        Ok(signature)
    }
}

/// A parameter as it is written.
struct Parameter {
    named: Named,
    is_indexed: bool,
}

/// Lists and tuples within each other at most.
const MAX_DEPTH: usize = 16;

/// Items of lists of a fixed length in one value at most, those of lists within lists multiplied: a column has
/// room for all of them also where a row has no value.
const MAX_FIXED_ITEMS: usize = 256;

/// Reads a text word by word: names, and brackets and commas by themselves.
struct Reader<'a> {
    text: &'a str,
    words: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Result<Self, String> {
        let is_of_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '$';
        let (mut words, mut rest) = (vec![], text.trim_start());
        while let Some(first) = rest.chars().next() {
            let end = match first {
                '(' | ')' | '[' | ']' | ',' | ';' => 1,
                _ => rest.find(|char| !is_of_name(char)).unwrap_or(rest.len()),
            };
            if end == 0 {
                return Err(format!("`{text}` is not a signature or a type: it has a `{first}`"));
            }
            words.push(&rest[..end]);
            rest = rest[end..].trim_start();
        }
        Ok(Self { text, words: words.into_iter().peekable() })
    }

    fn takes(&mut self, word: &str) -> bool {
        self.words.next_if_eq(&word).is_some()
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.takes(word) {
            return Ok(());
        }
        let text = self.text;
        match self.words.peek() {
            Some(found) => Err(format!("`{text}` has `{found}` where `{word}` must be")),
            None => Err(format!("`{text}` ends where `{word}` must be")),
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        self.words
            .next_if(|word| word.starts_with(|char: char| char.is_ascii_alphabetic() || "_$".contains(char)))
    }

    /// Nothing, or a semicolon, is behind it.
    fn end(&mut self) -> Result<(), String> {
        self.takes(";");
        match self.words.next() {
            None => Ok(()),
            Some(more) => Err(format!("`{}` has `{more}` behind its end", self.text)),
        }
    }

    fn signature(&mut self, kind: &str) -> Result<(String, Vec<Parameter>), String> {
        self.takes(kind);
        let Some(name) = self.name() else {
            return Err(format!("`{}` is not the signature of an {kind}: it has no name", self.text));
        };
        self.expect("(")?;
        Ok((name.to_owned(), self.parameters(0)?))
    }

    /// The parameters up to the bracket that ends them.
    fn parameters(&mut self, depth: usize) -> Result<Vec<Parameter>, String> {
        let mut parameters = vec![];
        if self.takes(")") {
            return Ok(parameters);
        }
        loop {
            let ty = self.ty(depth)?;
            let mut is_indexed = false;
            while let Some(word) = self.words.next_if(|word| MODIFIERS.contains(word)) {
                is_indexed |= word == "indexed";
            }
            let name = self.name().unwrap_or_default().to_owned();
            parameters.push(Parameter { named: Named { name, ty }, is_indexed });
            if self.takes(")") {
                return Ok(parameters);
            }
            self.expect(",")?;
        }
    }

    fn ty(&mut self, depth: usize) -> Result<Type, String> {
        let text = self.text;
        if depth > MAX_DEPTH {
            return Err(format!("`{text}` has more than {MAX_DEPTH} lists and tuples within each other"));
        }
        self.takes("tuple");
        let mut ty = if self.takes("(") {
            self.tuple(depth)?
        } else {
            let word = self.words.next().ok_or_else(|| format!("`{text}` ends where a type must be"))?;
            Type::of(word).ok_or_else(|| format!("`{word}` in `{text}` is not a type of Solidity"))?
        };
        while self.takes("[") {
            ty = match self.words.next_if(|word| *word != "]") {
                None => Type::List(Arc::new(ty)),
                // One of no items would take no room, so that any number of them fits into nothing.
                Some(length) => match length.parse() {
                    Ok(length @ 1..=MAX_FIXED_ITEMS) => Type::FixedList(Arc::new(ty), length),
                    _ => {
                        return Err(format!(
                            "`{text}` has a list that is not one of 1 to {MAX_FIXED_ITEMS} items"
                        ));
                    }
                },
            };
            self.expect("]")?;
            if ty.depth() > MAX_DEPTH {
                return Err(format!("`{text}` has more than {MAX_DEPTH} lists and tuples within each other"));
            }
            if ty.fixed_items() > MAX_FIXED_ITEMS {
                return Err(format!("`{text}` has lists of more than {MAX_FIXED_ITEMS} items in all"));
            }
        }
        Ok(ty)
    }

    fn tuple(&mut self, depth: usize) -> Result<Type, String> {
        let parameters = self.parameters(depth + 1)?;
        if parameters.is_empty() {
            return Err(format!("`{}` has a tuple without components", self.text));
        }
        let named = |(index, parameter): (usize, Parameter)| match parameter.named {
            Named { name, ty } if name.is_empty() => Named { name: format!("c{index}"), ty },
            named => named,
        };
        let fields: Vec<Named> = parameters.into_iter().enumerate().map(named).collect();
        check_names(&fields)?;
        Ok(Type::Tuple(fields.into()))
    }
}

/// What may stand between a type and a name.
const MODIFIERS: [&str; 5] = ["indexed", "memory", "calldata", "storage", "payable"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_solidity() {
        let cases = [
            ("uint8", DataType::UInt8),
            ("uint24", DataType::UInt32),
            ("uint64", DataType::UInt64),
            ("int40", DataType::Int64),
            ("uint120", DataType::Decimal128(38, 0)),
            ("int120", DataType::Decimal128(38, 0)),
            ("uint128", DataType::Utf8),
            ("int256", DataType::Utf8),
            ("uint", DataType::Utf8),
            ("bool", DataType::Boolean),
            ("address", DataType::FixedSizeBinary(20)),
            ("bytes4", DataType::FixedSizeBinary(4)),
            ("bytes", DataType::Binary),
            ("string", DataType::Utf8),
            ("uint8[]", DataType::new_list(DataType::UInt8, true)),
            ("uint8[][2]", DataType::new_fixed_size_list(DataType::new_list(DataType::UInt8, true), 2, true)),
        ];
        for (text, expected) in cases {
            assert_eq!(Type::parse(text).expect(text).data_type(), expected, "{text}");
        }
        let tuple = Type::parse("(uint8 a,(bool,string) b)[]").expect("a type");
        let Type::List(item) = &tuple else { panic!("{tuple}") };
        let Type::Tuple(fields) = &**item else { panic!("{item}") };
        assert_eq!(fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(fields[1].ty.data_type().to_string(), "Struct(\"c0\": Boolean, \"c1\": Utf8)");
        assert_eq!(tuple.to_string(), "(uint8,(bool,string))[]");
        for bad in [
            "uint7",
            "uint264",
            "bytes33",
            "bytes0",
            "uint8[0]",
            "()",
            "x",
            "",
            "uint8,uint8",
            "uint8[70000]",
        ] {
            assert!(Type::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn heads_are_offsets_where_a_length_is_not_known() {
        let head = |text: &str| Type::parse(text).expect(text).head_bytes();
        assert_eq!(
            ["uint8", "uint8[3]", "(bool,bytes4)", "string", "string[3]", "(bool,bytes)"].map(head),
            [32, 96, 64, 32, 32, 32]
        );
    }

    #[test]
    fn signatures_give_topics_selectors_and_parameters() {
        let event =
            EventSignature::parse("Transfer(address indexed from, address indexed to, uint256 value)")
                .expect("an event");
        for same in [
            "Transfer(address indexed from, address indexed to, uint256 value)",
            "event Transfer(address,address,uint);",
        ] {
            let topic = topic(same).expect(same).to_string();
            assert_eq!(topic, "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
        }
        let names: Vec<_> = event.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["from", "to", "value"]);
        let hashed = EventSignature::parse("event E(uint8 a, string indexed b, uint8[2] indexed c)")
            .expect("an event");
        assert_eq!(hashed.indexed[0].ty, Type::FixedBytes(32));
        assert_eq!(hashed.indexed[1].ty, Type::FixedBytes(32));
        for bad in [
            "Transfer",
            "E(uint8 a) anonymous",
            "E(uint8)",
            "E(uint8 a, bool a)",
            "E(uint8 indexed a, uint8 indexed b, uint8 indexed c, uint8 indexed d)",
        ] {
            assert!(EventSignature::parse(bad).is_err(), "{bad}");
        }
        let function =
            FunctionSignature::parse_named("function transfer(address to, uint256 value)").expect("one");
        assert_eq!(function.selector.to_string(), "0xa9059cbb");
        assert!(FunctionSignature::parse_named("transfer(address,uint256)").is_err());
        let same = [
            "transfer(address,uint256)",
            "function transfer(address payable to, uint v) external returns (bool);",
        ];
        for text in same {
            assert_eq!(FunctionSignature::parse(text).expect(text).selector, function.selector, "{text}");
        }
        let struct_of = "exactInputSingle((address tokenIn, address tokenOut, uint24 fee, address recipient, uint256 \
                         deadline, uint256 amountIn, uint256 amountOutMinimum, uint160 sqrtPriceLimitX96) params)";
        let nested = FunctionSignature::parse_named(struct_of).expect("one");
        assert_eq!(nested.selector.to_string(), "0x414bf389");
        for bad in [
            "f(",
            "f(uint8",
            "f(uint8,)",
            "f(,)",
            "f)",
            "f(uint8 indexed a)",
            "(uint8)",
            "f(uint8 a b)",
            "f(uint8-a)",
        ] {
            assert!(FunctionSignature::parse(bad).is_err(), "{bad}");
        }
        let deep = format!("f({}uint8{})", "(".repeat(40), ")".repeat(40));
        assert!(FunctionSignature::parse(&deep).is_err());
        let (many, wide) = ("[]".repeat(300_000), "[256]".repeat(4));
        assert!(
            Type::parse(&format!("uint8{many}")).is_err() && Type::parse(&format!("uint8{wide}")).is_err()
        );
        assert!(
            Type::parse("(uint8[100] a,bool[157] b)[2]").is_err() && Type::parse("uint8[16][16]").is_ok()
        );
    }
}
