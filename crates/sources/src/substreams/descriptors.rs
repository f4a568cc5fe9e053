//! The types that a package describes, found by name whatever the order of its files.
//!
//! Packages list their descriptors in any order and leave files out, so a type is looked for only once
//! something needs it: what is missing elsewhere does not matter.

use std::collections::{HashMap, HashSet};

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// A type, and the file that it is of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type<'a> {
    Message(&'a DescriptorProto, &'a FileDescriptorProto),
    Enum(&'a EnumDescriptorProto),
}

/// All types of a package by their full names, without a point in front.
#[derive(Debug)]
pub(crate) struct Types<'a> {
    by_name: HashMap<String, Type<'a>>,
    /// Names that stand for two types that are not the same.
    ambiguous: HashSet<String>,
    files: &'a [FileDescriptorProto],
}

impl<'a> Types<'a> {
    pub fn new(files: &'a [FileDescriptorProto]) -> Self {
        let mut types = Self { by_name: HashMap::new(), ambiguous: HashSet::new(), files };
        for file in files {
            for message in &file.message_type {
                types.add_message(file.package(), message, file);
            }
            for each in &file.enum_type {
                types.add(join(file.package(), each.name()), Type::Enum(each));
            }
        }
        types
    }

    /// Nested messages are as deep as the decoder of the package lets them be: a hundred.
    fn add_message(&mut self, scope: &str, message: &'a DescriptorProto, file: &'a FileDescriptorProto) {
        let name = join(scope, message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for nested in &message.enum_type {
            self.add(join(&name, nested.name()), Type::Enum(nested));
        }
        self.add(name, Type::Message(message, file));
    }

    fn add(&mut self, name: String, found: Type<'a>) {
        let same = |known: &Type<'_>| match (known, &found) {
            (Type::Message(a, _), Type::Message(b, _)) => a == b,
            (Type::Enum(a), Type::Enum(b)) => a == b,
            _ => false,
        };
        match self.by_name.get(&name) {
            Some(known) if same(known) => {}
            Some(_) => {
                self.ambiguous.insert(name);
            }
            None => {
                self.by_name.insert(name, found);
            }
        }
    }

    /// The full name and the type that `name` means within `scope`. The error says what the package lacks.
    pub fn find(&self, name: &str, scope: &str) -> Result<(String, Type<'a>), String> {
        let full = match name.strip_prefix('.') {
            Some(full) => Some(full.to_owned()).filter(|full| self.by_name.contains_key(full)),
            None => scopes(scope).map(|scope| join(scope, name)).find(|full| self.by_name.contains_key(full)),
        };
        let Some(full) = full else { return Err(self.missing(name.trim_start_matches('.'))) };
        if self.ambiguous.contains(&full) {
            return Err(format!("the package describes `{full}` twice, and not in the same way"));
        }
        let found = self.by_name.get(&full).copied();
        found.map(|found| (full.clone(), found)).ok_or_else(|| self.missing(&full))
    }

    fn missing(&self, name: &str) -> String {
        let what = format!("the package does not describe the type `{name}`");
        let have: HashSet<&str> = self.files.iter().map(FileDescriptorProto::name).collect();
        let imports = self.files.iter().flat_map(|file| {
            let absent = file.dependency.iter().filter(|import| !have.contains(import.as_str()));
            absent.map(|import| format!("`{import}`, which `{}` imports", file.name()))
        });
        let imports: Vec<_> = imports.take(3).collect();
        if imports.is_empty() {
            return format!("{what}; it has to be packed again with the file that has it");
        }
        format!("{what}, and it lacks {}; it has to be packed again with all files", imports.join(", "))
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

/// A scope, then those around it, up to none.
fn scopes(scope: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(scope), |scope| {
        if scope.is_empty() { None } else { Some(scope.rfind('.').map_or("", |end| &scope[..end])) }
    })
}
