//! Packages: `.spkg` files, which are messages `sf.substreams.v1.Package`.
//!
//! Only what is needed here is read, with the published tags
//! (<https://github.com/streamingfast/substreams/blob/develop/proto/sf/substreams/v1/package.proto> and
//! `modules.proto` beside it). The modules are handed to the endpoint as the bytes they are, so that nothing
//! of a newer package is lost on the way.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::FileDescriptorProto;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{
    weight,
    wire::{Fields, Raw, put, put_bytes},
};

/// A package larger than this is refused: it holds code and interfaces, no data.
pub const MAX_PACKAGE_BYTES: usize = 256 << 20;

/// Why a package or one of its modules cannot be used. Each says what to do where there is something to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PackageError {
    /// The bytes are not a package.
    #[error("this is not a Substreams package: {0}")]
    NotAPackage(String),
    /// The package has no such module, or it is not one that gives rows.
    #[error("{0}")]
    Module(String),
    /// The interface that the package describes is not whole, or no tables can be made of it.
    #[error("no tables can be made of the output of the module `{module}`: {why}")]
    Schema {
        /// The module.
        module: String,
        /// What is wrong, and where.
        why: String,
    },
}

#[derive(Clone, PartialEq, Message)]
struct PackageMessage {
    #[prost(message, repeated, tag = "1")]
    proto_files: Vec<FileDescriptorProto>,
    #[prost(bytes = "vec", tag = "6")]
    modules: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    package_meta: Vec<PackageMetadata>,
    #[prost(string, tag = "9")]
    network: String,
    #[prost(message, optional, tag = "10")]
    sink_config: Option<AnyMessage>,
    #[prost(string, tag = "11")]
    sink_module: String,
    #[prost(btree_map = "string, message", tag = "13")]
    networks: BTreeMap<String, NetworkParams>,
}

#[derive(Clone, PartialEq, Message)]
struct PackageMetadata {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What a package sets anew for one network.
#[derive(Clone, PartialEq, Message)]
struct NetworkParams {
    #[prost(btree_map = "string, uint64", tag = "1")]
    initial_blocks: BTreeMap<String, u64>,
    #[prost(btree_map = "string, string", tag = "2")]
    params: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ModulesMessage {
    #[prost(message, repeated, tag = "1")]
    modules: Vec<ModuleMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ModuleMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind_map: Option<KindMap>,
    #[prost(message, optional, tag = "3")]
    kind_store: Option<Nothing>,
    #[prost(message, optional, tag = "10")]
    kind_block_index: Option<Nothing>,
    #[prost(message, repeated, tag = "6")]
    inputs: Vec<Input>,
    #[prost(message, optional, tag = "7")]
    output: Option<TypeName>,
    #[prost(uint64, tag = "8")]
    initial_block: u64,
    #[prost(message, optional, tag = "9")]
    block_filter: Option<TypeName>,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct KindMap {
    #[prost(string, tag = "1")]
    output_type: String,
}

/// A message whose first field is a name.
#[derive(Clone, PartialEq, Message)]
struct TypeName {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(message, optional, tag = "2")]
    map: Option<TypeName>,
    #[prost(message, optional, tag = "3")]
    store: Option<TypeName>,
    #[prost(message, optional, tag = "4")]
    params: Option<TypeName>,
}

/// What a module does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// It gives a message for each block.
    Map,
    /// It keeps a store for others.
    Store,
    /// It says which blocks others need not look at.
    BlockIndex,
}

/// A module of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, unique in the package.
    pub name: String,
    /// What it does.
    pub kind: ModuleKind,
    /// The full name of the message it gives, without `proto:`; empty for stores.
    pub output_type: String,
    /// The first block for which it gives anything.
    pub initial_block: u64,
    /// The modules that it reads.
    pub reads: Vec<String>,
    /// Whether it takes a parameter.
    pub takes_params: bool,
}

/// A package that was read.
#[derive(Debug, Clone)]
pub struct Package {
    name: String,
    sha256: String,
    network: String,
    pub(super) files: Vec<FileDescriptorProto>,
    pub(super) sink_config: Option<(String, Vec<u8>)>,
    networks: BTreeMap<String, NetworkParams>,
    modules: Vec<Module>,
    modules_bytes: Vec<u8>,
}

impl Package {
    /// Reads a package. The error says why the bytes are not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        let refuse = |why: String| PackageError::NotAPackage(why);
        if bytes.len() > MAX_PACKAGE_BYTES {
            return Err(refuse(format!("it is larger than {} MB", MAX_PACKAGE_BYTES >> 20)));
        }
        if bytes.is_empty() {
            return Err(refuse("it is empty".into()));
        }
        if weight::is_too_much(bytes).map_err(|broken| refuse(broken.to_string()))? {
            return Err(refuse("it describes more than any package does".into()));
        }
        let package = PackageMessage::decode(bytes).map_err(|error| refuse(error.to_string()))?;
        let modules =
            ModulesMessage::decode(&*package.modules).map_err(|error| refuse(error.to_string()))?.modules;
        let version = package.package_meta.first();
        let name = version.map_or(String::new(), |meta| format!("{} {}", meta.name, meta.version));
        Ok(Self {
            name: name.trim().to_owned(),
            sha256: const_hex::encode(Sha256::digest(bytes)),
            network: package.network,
            files: package.proto_files,
            sink_config: package.sink_config.map(|any| (any.type_url, any.value)),
            networks: package.networks,
            modules: modules.into_iter().map(module).collect(),
            modules_bytes: package.modules,
        })
    }

    /// The package's name and version, for messages; empty where it does not say.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of the package's bytes, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The network that the package is for, where it says.
    pub fn network(&self) -> Option<&str> {
        Some(self.network.as_str()).filter(|network| !network.is_empty())
    }

    /// All modules, in the package's order.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The map module of that name, with all that it reads, directly or not, in the package. The error names
    /// the modules that could have been meant, or what is missing.
    pub fn map_module(&self, name: &str) -> Result<&Module, PackageError> {
        let error = |why: String| Err(PackageError::Module(why));
        let maps = || {
            let maps = self.modules.iter().filter(|module| module.kind == ModuleKind::Map);
            let names: Vec<_> = maps.map(|module| module.name.as_str()).collect();
            match names.len() {
                0 => "it has none that give rows".to_owned(),
                1..=40 => format!("those that give rows are {}", names.join(", ")),
                many => format!("those that give rows are {many}, such as {}", names[..40].join(", ")),
            }
        };
        if self.modules.is_empty() {
            return error(format!("the package has no modules, and so no `{name}`"));
        }
        let mut found = self.modules.iter().filter(|module| module.name == name);
        let Some(module) = found.next() else {
            return error(format!("the package has no module `{name}`; {}", maps()));
        };
        if found.next().is_some() {
            return error(format!("the package has two modules `{name}`"));
        }
        if module.kind != ModuleKind::Map {
            return error(format!("the module `{name}` is not a map module; {}", maps()));
        }
        self.check_graph(module)?;
        Ok(module)
    }

    /// That all that a module reads is there and nothing reads itself.
    fn check_graph(&self, root: &Module) -> Result<(), PackageError> {
        let by_name: BTreeMap<&str, &Module> = self.modules.iter().map(|m| (m.name.as_str(), m)).collect();
        // Depth first with a stack of one's own: a foreign graph may be as deep as it likes.
        let mut done = BTreeMap::from([(root.name.as_str(), false)]);
        let mut path = vec![(root, 0)];
        while let Some((module, next)) = path.last_mut() {
            let reader: &Module = module;
            let Some(read) = reader.reads.get(*next) else {
                done.insert(reader.name.as_str(), true);
                path.pop();
                continue;
            };
            *next += 1;
            let reader = &reader.name;
            let Some(module) = by_name.get(read.as_str()) else {
                let why = format!("the module `{reader}` reads `{read}`, which the package does not have");
                return Err(PackageError::Module(why));
            };
            match done.get(read.as_str()) {
                Some(true) => {}
                Some(false) => {
                    return Err(PackageError::Module(format!("the module `{read}` reads itself")));
                }
                None => {
                    done.insert(module.name.as_str(), false);
                    path.push((module, 0));
                }
            }
        }
        Ok(())
    }

    /// The first block for which a module gives anything on a network.
    pub fn initial_block(&self, module: &Module, network: &str) -> u64 {
        let of_network = self.networks.get(network).and_then(|set| set.initial_blocks.get(&module.name));
        of_network.copied().unwrap_or(module.initial_block)
    }

    /// The modules as a request takes them: with what the package sets for the network, and then with the
    /// given parameters, by module. The error names a module that takes none.
    pub fn modules_for(
        &self,
        network: &str,
        params: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, PackageError> {
        for name in params.keys() {
            if !self.modules.iter().any(|module| module.name == *name && module.takes_params) {
                let why = format!("a parameter is given for the module `{name}`, which takes none");
                return Err(PackageError::Module(why));
            }
        }
        let set = self.networks.get(network).cloned().unwrap_or_default();
        let mut all = set.params;
        all.extend(params.clone());
        if all.is_empty() && set.initial_blocks.is_empty() {
            return Ok(self.modules_bytes.clone());
        }
        rewrite_modules(&self.modules_bytes, &all, &set.initial_blocks)
            .map_err(|broken| PackageError::NotAPackage(broken.to_string()))
    }
}

fn module(message: ModuleMessage) -> Module {
    let kind = match (&message.kind_map, &message.kind_store, &message.kind_block_index) {
        (Some(_), None, None) => ModuleKind::Map,
        (_, _, Some(_)) => ModuleKind::BlockIndex,
        _ => ModuleKind::Store,
    };
    let declared = message.kind_map.map(|map| map.output_type).filter(|name| !name.is_empty());
    let output_type = declared.or(message.output.map(|output| output.name)).unwrap_or_default();
    let output_type = output_type.strip_prefix("proto:").unwrap_or(&output_type).to_owned();
    let reads = message.inputs.iter().filter_map(|input| input.map.as_ref().or(input.store.as_ref()));
    let filter = message.block_filter.iter();
    Module {
        kind,
        output_type,
        // Packages of early tools have the greatest number where none was given.
        initial_block: if message.initial_block == u64::MAX { 0 } else { message.initial_block },
        reads: reads.chain(filter).map(|read| read.name.clone()).collect(),
        takes_params: message.inputs.iter().any(|input| input.params.is_some()),
        name: message.name,
    }
}

/// Sets parameters and first blocks, by module, in a message `Modules`; all else stays as it is.
fn rewrite_modules(
    modules: &[u8],
    params: &BTreeMap<String, String>,
    initial_blocks: &BTreeMap<String, u64>,
) -> Result<Vec<u8>, super::wire::Broken> {
    let mut written = Vec::with_capacity(modules.len());
    for field in Fields::new(modules) {
        let (number, value) = field?;
        let Raw::Bytes(bytes) = value else {
            put(&mut written, number, value);
            continue;
        };
        if number != 1 {
            put_bytes(&mut written, number, bytes);
            continue;
        }
        let name = name_of(bytes)?;
        let (param, first) = (params.get(&name), initial_blocks.get(&name));
        put_bytes(&mut written, number, &rewrite_module(bytes, param.map(String::as_str), first.copied())?);
    }
    Ok(written)
}

fn name_of(module: &[u8]) -> Result<String, super::wire::Broken> {
    let mut name = String::new();
    for field in Fields::new(module) {
        if let (1, Raw::Bytes(bytes)) = field? {
            name = String::from_utf8_lossy(bytes).into_owned();
        }
    }
    Ok(name)
}

fn rewrite_module(
    module: &[u8],
    param: Option<&str>,
    initial_block: Option<u64>,
) -> Result<Vec<u8>, super::wire::Broken> {
    let mut written = Vec::with_capacity(module.len());
    for field in Fields::new(module) {
        match (field?, param) {
            ((6, Raw::Bytes(input)), Some(param)) if is_params(input)? => {
                let (mut value, mut input) = (Vec::new(), Vec::new());
                put_bytes(&mut value, 1, param.as_bytes());
                put_bytes(&mut input, 4, &value);
                put_bytes(&mut written, 6, &input);
            }
            ((number, value), _) => put(&mut written, number, value),
        }
    }
    // Of a field that is written twice the last one counts.
    if let Some(block) = initial_block {
        put(&mut written, 8, Raw::Varint(block));
    }
    Ok(written)
}

fn is_params(input: &[u8]) -> Result<bool, super::wire::Broken> {
    let mut is_params = false;
    for field in Fields::new(input) {
        is_params |= field?.0 == 4;
    }
    Ok(is_params)
}
