//! Where the objects of a dataset lie in the store:
//! `<dataset>/<table>/<revision>/<start>-<random>.parquet`.

use crate::{
    block::BlockNum,
    name::{DatasetName, TableName},
    segment::RevisionId,
};

/// The folder of one table of one revision, relative to the revision's base, without a final `/`.
pub fn location_path(dataset: &DatasetName, table: &TableName, revision: RevisionId) -> String {
    format!("{dataset}/{table}/{revision}")
}

/// The name of a new file whose first block is `start`. The random part keeps two writers of the
/// same block from ever writing one object.
pub fn file_name(start: BlockNum, random: u64) -> String {
    format!("{start:09}-{random:016x}.parquet")
}

/// The first block that a file's name tells; `None` for a name that [`file_name`] did not make.
pub fn parse_file_name(name: &str) -> Option<BlockNum> {
    let (start, random) = name.strip_suffix(".parquet")?.split_once('-')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let well_formed = start.len() >= 9
        && start.bytes().all(|b| b.is_ascii_digit())
        && random.len() == 16
        && random.bytes().all(hex);
    well_formed.then(|| start.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_back() {
        for start in [0, 7, 999_999_999, 1_000_000_000, u64::MAX] {
            assert_eq!(parse_file_name(&file_name(start, 0xfeed)), Some(start));
        }
        for other in [
            "",
            "x.parquet",
            "000000001.parquet",
            "1-0000000000000001.parquet",
            "000000001-0000000000000001.txt",
        ] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
