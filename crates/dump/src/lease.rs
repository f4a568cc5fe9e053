//! Holding leases: claiming, keeping them alive in the background, giving them back.

use std::{sync::Arc, time::Duration};

use nozzle_core::{BlockNum, BlockRange, RevisionId, SourceRevisions};
use nozzle_metadata::{CommitSeq, HEARTBEAT, HeldLease, LEASE_TIMEOUT, Lease, LeaseId, MetadataStore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    error::DumpError,
    observe::{Event, Observer},
};

/// How often a claim is made again while a holder's silence is watched.
const CLAIM_AGAIN: Duration = Duration::from_millis(250);

/// How long a renewal may take before it is tried anew.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Leases that are renewed in the background until this is dropped.
#[derive(Debug)]
pub struct Leases {
    leases: Vec<Lease>,
    sequence: CommitSeq,
    store: Arc<dyn MetadataStore>,
    lost: CancellationToken,
    _heartbeat: DropGuard,
}

impl Leases {
    fn keep(store: Arc<dyn MetadataStore>, leases: Vec<Lease>, sequence: CommitSeq) -> Self {
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let ids = leases.iter().map(|lease| lease.id).collect();
        tokio::spawn(heartbeat(Arc::clone(&store), ids, lost.clone(), stop.clone()));
        Self { leases, sequence, store, lost, _heartbeat: stop.drop_guard() }
    }

    /// The claimed ranges, in block order.
    pub fn ranges(&self) -> Vec<BlockRange> {
        self.leases.iter().map(|lease| lease.range).collect()
    }

    /// The terms under which all of `range` can be written.
    pub fn covering(&self, range: BlockRange) -> Option<Terms> {
        let lease = self.leases.iter().find(|lease| lease.range.covers(range))?;
        Some(Terms { lease: lease.id, after_commit: self.sequence, building_until: None, sources: None })
    }

    /// Is cancelled when a lease is found to have been taken by another writer.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Whether nobody has taken one of them, as far as the database can be asked.
    pub async fn are_alive(&self) -> bool {
        let ids: Vec<LeaseId> = self.leases.iter().map(|lease| lease.id).collect();
        self.store.renew(&ids).await.is_ok_and(|alive| alive.len() == ids.len())
    }

    /// Gives the leases back.
    pub async fn release(self) -> Result<(), DumpError> {
        let ids: Vec<LeaseId> = self.leases.iter().map(|lease| lease.id).collect();
        Ok(self.store.release(&ids).await?)
    }
}

/// Under what segments are written: what allows it, and what their files say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The lease that holds their blocks.
    pub lease: LeaseId,
    /// The newest commit when it was claimed.
    pub after_commit: CommitSeq,
    /// The last block that the revision needs before it is read; `None` where it is read.
    pub building_until: Option<BlockNum>,
    /// What the rows were computed from, where the dataset is derived.
    pub sources: Option<SourceRevisions>,
}

/// Renews until `stop`. A database that does not answer is asked again: the lease lives as long as
/// nobody else has taken it, and the commit has the last word.
async fn heartbeat(
    store: Arc<dyn MetadataStore>,
    ids: Vec<LeaseId>,
    lost: CancellationToken,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // On a connection that was cut off it would wait for longer than the lease lives.
        match timeout(RENEWAL_TIMEOUT, store.renew(&ids)).await {
            Ok(Ok(alive)) if alive.len() < ids.len() => return lost.cancel(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed; trying again"),
            Err(_) => tracing::warn!("the lease could not be renewed in time; trying again"),
        }
    }
}

/// Claims all of a range for a compaction; `None` where somebody else holds some of it.
pub async fn claim_to_merge(
    store: &Arc<dyn MetadataStore>,
    revision: RevisionId,
    range: BlockRange,
    holder: &str,
) -> Result<Option<Leases>, DumpError> {
    let claimed = store.claim_to_merge(revision, range, holder).await?;
    Ok(claimed.map(|(lease, sequence)| Leases::keep(Arc::clone(store), vec![lease], sequence)))
}

/// The outcome of a claim.
#[derive(Debug)]
pub enum Claimed {
    /// The parts that nobody else holds, and who holds the others.
    Some(Leases, Vec<HeldLease>),
    /// Live writers hold all of it.
    None(Box<HeldLease>),
    /// The caller was asked to stop while it waited.
    Stopped,
}

/// What [`claim`] takes.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where leases are kept.
    pub store: &'a Arc<dyn MetadataStore>,
    /// The revision.
    pub revision: RevisionId,
    /// The wanted blocks.
    pub wanted: &'a [BlockRange],
    /// Whether anything less than all of the wanted blocks is of no use.
    pub all_or_nothing: bool,
    /// Who asks.
    pub holder: &'a str,
}

/// Claims what nobody holds. Where others hold all of it, waits for one that has gone silent: it
/// may have been killed a moment ago.
pub async fn claim(
    request: Request<'_>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<Claimed, DumpError> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let claim = request.store.claim(request.revision, request.wanted, request.holder).await?;
        let enough = !claim.granted.is_empty() && (claim.held.is_empty() || !request.all_or_nothing);
        if enough {
            let leases = Leases::keep(Arc::clone(request.store), claim.granted, claim.sequence);
            return Ok(Claimed::Some(leases, claim.held));
        }
        let partial: Vec<LeaseId> = claim.granted.iter().map(|lease| lease.id).collect();
        if !partial.is_empty() {
            request.store.release(&partial).await?;
        }
        let Some(quietest) = claim.held.iter().max_by_key(|held| held.silent_for).cloned() else {
            return Err(DumpError::Refused("the claim of no blocks at all was refused".into()));
        };
        // A holder that still lives renews within this time, whatever its silence was at first.
        let watched = started.elapsed() >= HEARTBEAT * 2;
        let is_silent = quietest.silent_for >= HEARTBEAT * 2;
        if watched && !is_silent || started.elapsed() > LEASE_TIMEOUT * 3 {
            return Ok(Claimed::None(Box::new(quietest)));
        }
        if !told && is_silent {
            told = true;
            observer.event(Event::WaitingForWriter { holder: quietest.holder.clone() });
        }
        if cancel.run_until_cancelled(tokio::time::sleep(CLAIM_AGAIN)).await.is_none() {
            return Ok(Claimed::Stopped);
        }
    }
}
