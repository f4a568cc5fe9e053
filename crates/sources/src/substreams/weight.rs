//! How much a package would take in memory, told in place before any of it is read: two bytes of a file can be a
//! message of hundreds.

use super::wire::{Broken, Fields, Raw};

/// The most that a package may weigh; real ones weigh some ten thousand. So much takes about 200 MB.
const MAX_WEIGHT: usize = 2_000_000;
/// The decoder takes no message that is deeper.
const MAX_DEPTH: usize = 100;

/// A message whose parts are weighed each.
#[derive(Debug, Clone, Copy)]
enum Of {
    Package,
    File,
    Message,
    Enum,
    Modules,
    Module,
}

impl Of {
    /// What a field of it holds, where that is such a message.
    fn part(self, number: u32) -> Option<Self> {
        match (self, number) {
            (Self::Package, 1) => Some(Self::File),
            (Self::Package, 6) => Some(Self::Modules),
            (Self::File, 4) | (Self::Message, 3) => Some(Self::Message),
            (Self::File, 5) | (Self::Message, 4) => Some(Self::Enum),
            (Self::Modules, 1) => Some(Self::Module),
            _ => None,
        }
    }

    /// Whether what is in its other fields is made into many small things, and not kept as it is.
    fn is_broken_up(self) -> bool {
        !matches!(self, Self::Package | Self::Modules)
    }
}

/// Whether a package describes more than any real one.
pub(crate) fn is_too_much(package: &[u8]) -> Result<bool, Broken> {
    let mut left = MAX_WEIGHT;
    Ok(!weigh(package, Of::Package, 0, &mut left)?)
}

/// Takes the weight of a message off what is left; `false` where that is too little.
fn weigh(message: &[u8], of: Of, depth: usize, left: &mut usize) -> Result<bool, Broken> {
    if depth > MAX_DEPTH {
        return Ok(false);
    }
    for field in Fields::new(message) {
        let (number, Raw::Bytes(bytes)) = field? else { continue };
        let part = of.part(number);
        let own = if part.is_none() && of.is_broken_up() { bytes.len() / 2 } else { 0 };
        match left.checked_sub(1 + own) {
            Some(less) => *left = less,
            None => return Ok(false),
        }
        if let Some(part) = part
            && !weigh(bytes, part, depth + 1, left)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{super::wire::put_bytes, *};

    fn repeated(number: u32, content: &[u8], times: usize) -> Vec<u8> {
        let mut message = Vec::new();
        (0..times).for_each(|_| put_bytes(&mut message, number, content));
        message
    }

    fn within(number: u32, content: &[u8]) -> Vec<u8> {
        repeated(number, content, 1)
    }

    #[test]
    fn many_small_messages_are_too_much_and_large_ones_are_not() {
        let many = MAX_WEIGHT + 1;
        for package in [
            repeated(1, &[], many),
            repeated(8, &[], many),
            within(1, &repeated(4, &[], many)),
            within(1, &within(4, &repeated(2, &[], many))),
            within(1, &within(4, &within(3, &within(4, &repeated(2, &[], many))))),
            within(1, &within(9, &repeated(1, &[], many))),
            within(1, &within(4, &within(2, &within(8, &repeated(999, &[], many))))),
            within(6, &repeated(1, &[], many)),
            within(6, &within(1, &repeated(6, &[], many))),
        ] {
            assert_eq!(is_too_much(&package), Ok(true), "{:?}", &package[..16]);
        }
        let deep = (0..150).fold(vec![], |message, _| within(3, &message));
        assert_eq!(is_too_much(&within(1, &within(4, &deep))), Ok(true));
        // Code and schemas are kept as they are.
        for package in [within(6, &within(2, &vec![0; 64 << 20])), within(10, &vec![0; 64 << 20])] {
            assert_eq!(is_too_much(&package), Ok(false));
        }
        assert!(is_too_much(&[10, 5, 1]).is_err());
    }
}
