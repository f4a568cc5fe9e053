//! What a job is asked to do, as the Admin API takes it and the metadata database keeps it.

use anyhow::{Context, ensure};
use nozzle_core::{BlockNum, manifest::Manifest, range::MAX_BLOCK};
use nozzle_dump::EndBlock;
use nozzle_metadata::Job;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;
use utoipa::ToSchema;

/// The most jobs that extract side by side within one task.
const MAX_JOBS: u16 = 1024;

/// The largest file that can be asked for, in MiB.
const MAX_PARTITION_MB: u64 = 1 << 20;

/// A dump of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobRequest {
    /// The last block; absent: the head is followed.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "end_block")]
    pub end_block: Option<End>,
    /// How many jobs extract side by side within one task.
    #[schema(minimum = 1, maximum = 1024)]
    pub n_jobs: u16,
    /// Whether a new revision is built.
    pub fresh: bool,
    /// Whether only blocks are wanted that the chain calls final.
    pub only_finalized_blocks: bool,
    /// At which size of a file, in MiB, all tables are cut.
    #[schema(minimum = 1, maximum = 1_048_576)]
    pub partition_size_mb: u64,
}

/// The last block of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum End {
    /// A block, or so many below the head where it is negative.
    Number(i64),
    /// The head as it is when the job starts.
    Latest(Latest),
}

/// The word `latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Latest {
    /// `"latest"`
    #[serde(rename = "latest")]
    Latest,
}

impl Default for JobRequest {
    fn default() -> Self {
        Self {
            end_block: None,
            n_jobs: 1,
            fresh: false,
            only_finalized_blocks: false,
            partition_size_mb: 4096,
        }
    }
}

/// Says what it takes, where the derived message would only say that nothing matches.
fn end_block<'de, D: Deserializer<'de>>(from: D) -> Result<Option<End>, D::Error> {
    let value = Option::<Value>::deserialize(from)?;
    let Some(value) = value else { return Ok(None) };
    let known = serde_json::from_value(value.clone());
    known.map(Some).map_err(|_| {
        D::Error::custom(format!(
            "`end_block` is {value}; it must be a block number, a negative number of blocks below the head, or \"latest\""
        ))
    })
}

impl JobRequest {
    /// The request of a stored job.
    pub fn of(job: &Job) -> anyhow::Result<Self> {
        serde_json::from_str(&job.descriptor)
            .with_context(|| format!("the stored request of the job {} is damaged", job.id))
    }

    /// Whether its last block depends on where the head is when it starts.
    pub fn ends_by_head(&self) -> bool {
        matches!(self.end_block, Some(End::Latest(_) | End::Number(..0)))
    }

    /// Whether a job of this request brings every block that one of `other` brings.
    pub fn reaches(&self, other: &Self) -> bool {
        match (self.end_block, other.end_block) {
            (None, _) => true,
            (Some(End::Number(own @ 0..)), Some(End::Number(wanted @ 0..))) => own >= wanted,
            (own, wanted) => own == wanted,
        }
    }

    /// As it is stored: the same text for the same request.
    pub fn to_text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Refuses what no dump of the dataset can do.
    pub fn check(&self, manifest: &Manifest) -> anyhow::Result<()> {
        ensure!((1..=MAX_JOBS).contains(&self.n_jobs), "`n_jobs` must be from 1 to {MAX_JOBS}");
        ensure!(
            (1..=MAX_PARTITION_MB).contains(&self.partition_size_mb),
            "`partition_size_mb` must be from 1 to {MAX_PARTITION_MB}"
        );
        if let Some(End::Number(number @ 0..)) = self.end_block {
            let start = manifest.start_block();
            ensure!(
                number.unsigned_abs() >= start,
                "the end block {number} is below the dataset's first block {start}"
            );
        }
        Ok(())
    }

    /// Where the job ends, once its head task has settled it at `settled`; `None` where it follows the head.
    pub fn end(&self, settled: Option<BlockNum>) -> Option<EndBlock> {
        Some(match (self.end_block?, settled) {
            (End::Number(number @ 0..), _) => EndBlock::Number(number.unsigned_abs().min(MAX_BLOCK)),
            (_, Some(settled)) => EndBlock::AtMost(settled),
            (End::Number(below), None) => EndBlock::BelowHead(below.unsigned_abs()),
            (End::Latest(_), None) => EndBlock::Latest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<JobRequest, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_is_read_with_its_defaults_and_written_always_alike() {
        assert_eq!(request("{}"), Ok(JobRequest::default()));
        let latest = request(r#"{"end_block":"latest","n_jobs":1}"#).expect("a request");
        assert_eq!(latest.end_block, Some(End::Latest(Latest::Latest)));
        let same = request(r#"{ "fresh": false, "end_block": "latest" }"#).expect("a request");
        assert_eq!(latest.to_text().expect("text"), same.to_text().expect("text"));
        assert_eq!(request(&latest.to_text().expect("text")), Ok(latest));
        for bad in [r#"{"end_block":"last"}"#, r#"{"end_block":1.5}"#, r#"{"end_block":[]}"#] {
            assert!(request(bad).expect_err("it is refused").contains("\"latest\""));
        }
        assert!(request(r#"{"endblock":1}"#).is_err());
    }

    #[test]
    fn an_end_below_the_head_is_settled_once() {
        let end = |text: &str, settled| request(text).expect("a request").end(settled);
        assert_eq!(end("{}", None), None);
        assert_eq!(end(r#"{"end_block":9}"#, Some(9)), Some(EndBlock::Number(9)));
        assert_eq!(end(r#"{"end_block":-9}"#, None), Some(EndBlock::BelowHead(9)));
        assert_eq!(end(r#"{"end_block":-9}"#, Some(91)), Some(EndBlock::AtMost(91)));
        assert_eq!(end(r#"{"end_block":"latest"}"#, None), Some(EndBlock::Latest));
    }
}
