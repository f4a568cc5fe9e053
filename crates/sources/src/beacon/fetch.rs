//! The questions that are asked of a node.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::ready, stream};
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, block::BlockLink, manifest::Verify};
use tokio::{sync::OnceCell, time::Instant};

use super::{chain::Chain, client::Client, events::Events, json::HeaderAnswer, verify};
use crate::{
    error::SourceError,
    head::{HeadWatch, Stall},
    limit::Turn,
    source::{Head, check_link},
};

/// So many slots are asked for side by side where a block is looked for behind skipped ones.
const LOOKED_FOR_AT_A_TIME: u64 = 8;
/// Within so many slots the first block is looked for slot by slot.
const NEAR_SLOTS: u64 = 64;

/// What a node has at a slot.
#[derive(Debug)]
pub(crate) struct RawSlot {
    pub slot: BlockNum,
    /// The network that it is of.
    pub chain: Arc<Chain>,
    /// `None` where the slot was skipped, or so the node says.
    pub block: Option<RawBlock>,
}

/// A block as the node sent it.
#[derive(Debug)]
pub(crate) struct RawBlock {
    /// The answer to `/eth/v1/beacon/headers/{slot}`.
    pub header: Bytes,
    /// The answer to `/eth/v2/beacon/blocks/{slot}`.
    pub block: Bytes,
}

impl RawSlot {
    /// How many bytes the node sent.
    pub fn size_bytes(&self) -> u64 {
        self.block.as_ref().map_or(0, |raw| (raw.header.len() + raw.block.len()) as u64)
    }
}

/// A node and the limits that hold for all that is asked of it.
#[derive(Debug)]
pub(crate) struct Fetch {
    client: Arc<Client>,
    /// The most requests at a time.
    pub request_limit: usize,
    verify: Verify,
    chain: OnceCell<Arc<Chain>>,
    heads: Mutex<HeadWatch>,
    events: Events,
}

impl Fetch {
    /// Asks a node with at most `request_limit` requests at a time.
    pub fn new(client: Client, request_limit: usize, verify: Verify) -> Self {
        Self {
            client: Arc::new(client),
            request_limit,
            verify,
            chain: OnceCell::new(),
            heads: Mutex::default(),
            events: Events::default(),
        }
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        self.client.provider()
    }

    /// Waits until one more request may be under way. Requests get their turn in this order.
    pub async fn turn(&self) -> Turn {
        self.client.limiter().turn().await
    }

    /// What the node says of its network, asked for once; the caller has a turn.
    async fn chain(&self) -> Result<Arc<Chain>, SourceError> {
        let asked = self.chain.get_or_try_init(|| async {
            let spec = self.always("eth/v1/config/spec").await?;
            let genesis = self.always("eth/v1/beacon/genesis").await?;
            let chain = Chain::of_answers(&spec, &genesis);
            chain.map(Arc::new).map_err(|why| self.client.unavailable(format!("its answer {why}")))
        });
        asked.await.cloned()
    }

    /// The id of the execution layer's chain.
    pub async fn chain_id(&self) -> Result<u64, SourceError> {
        let _turn = self.turn().await;
        let none = || self.client.refused("its `/eth/v1/config/spec` has no `DEPOSIT_CHAIN_ID`".into());
        self.chain().await?.chain_id.ok_or_else(none)
    }

    /// The answer to a question that every node can answer.
    async fn always(&self, path: &str) -> Result<Bytes, SourceError> {
        let none = || self.client.unavailable(format!("it does not have `/{path}`"));
        self.client.get(path).await?.ok_or_else(none)
    }

    /// What the node has at a slot; the caller has a turn. The header comes first, so that a skipped
    /// slot costs one request; side by side with the block where nobody else wants the turn.
    pub async fn raw_slot(&self, slot: BlockNum) -> Result<RawSlot, SourceError> {
        self.ask_raw_slot(slot).await.map_err(|error| error.of_block(slot))
    }

    async fn ask_raw_slot(&self, slot: BlockNum) -> Result<RawSlot, SourceError> {
        let chain = self.chain().await?;
        let (header, block) =
            (format!("eth/v1/beacon/headers/{slot}"), format!("eth/v2/beacon/blocks/{slot}"));
        let further = self.client.limiter().further_turns(1);
        let (header, block) = if further.is_empty() {
            let header = self.client.get(&header).await?;
            let block = if header.is_some() { self.client.get(&block).await? } else { None };
            (header, block)
        } else {
            futures::try_join!(self.client.get(&header), self.client.get(&block))?
        };
        let block = match (header, block) {
            (Some(header), Some(block)) => Some(RawBlock { header, block }),
            (None, None) => None,
            // One of the two was asked for before it came, or after it was reorganised away.
            (None, Some(_)) => return Err(self.missing(slot, "the header")),
            (Some(_), None) => return Err(self.missing(slot, "the block")),
        };
        Ok(RawSlot { slot, chain, block })
    }

    fn missing(&self, block: BlockNum, what: &'static str) -> SourceError {
        SourceError::Missing { provider: self.provider().to_owned(), block, what }
    }

    /// The newest block and the newest final one.
    pub async fn head(&self) -> Result<Head, SourceError> {
        let (mut latest, finalized) = futures::try_join!(self.named("head"), self.named("finalized"))?;
        if finalized.number > latest.number {
            // Only of a chain whose head has moved in between.
            latest = self.named("head").await?;
            if finalized.number > latest.number {
                let (above, head) = (finalized.number, latest.number);
                return Err(self
                    .client
                    .unavailable(format!("its finalized block {above} is above its head {head}")));
            }
        }
        self.watch(latest);
        Ok(Head { latest, finalized: Some(finalized) })
    }

    /// Dials anew where the head is stuck: others may stand behind the same address.
    fn watch(&self, latest: BlockId) {
        let stall = self.heads.lock().unwrap_or_else(PoisonError::into_inner).note(latest, Instant::now());
        let Some(Stall { duration, is_news }) = stall else { return };
        if is_news {
            let (provider, head, seconds) = (self.provider(), latest.number, duration.as_secs());
            tracing::warn!(provider, head, seconds, "the head has stopped moving; the node is dialled anew");
        }
        self.client.redial();
    }

    /// Waits until the node tells of a new head.
    pub async fn head_moved(&self) {
        self.events.head_moved(&self.client).await;
    }

    /// The block that the node calls `head` or `finalized`. That there is none, which is no answer of a
    /// beacon chain, is a failure: taken for a chain without finality, it would let blocks count as final
    /// by their depth alone.
    async fn named(&self, name: &str) -> Result<BlockId, SourceError> {
        let _turn = self.turn().await;
        // What has not answered before may be no node at all.
        self.chain().await?;
        let answer = self.always(&format!("eth/v1/beacon/headers/{name}")).await?;
        let header = verify::header(&answer, self.verify).map_err(|problem| {
            self.client.unavailable(format!("its {name} block cannot be used: {}", problem.why()))
        })?;
        Ok(verify::link(&header).id())
    }

    /// The block of a slot, a skipped one's being the block before it; `None` above the head.
    pub async fn block_id(&self, slot: BlockNum) -> Result<Option<BlockId>, SourceError> {
        if let Some(link) = self.link(slot).await? {
            return Ok(Some(link.id()));
        }
        if self.named("head").await?.number < slot {
            return Ok(None);
        }
        let Some(range) = BlockRange::new(slot, slot) else { return Ok(None) };
        let hash = self.before_skipped(range, None).await?;
        Ok(Some(BlockId { number: slot, hash }))
    }

    /// How the block of a slot links; `None` where there is none.
    async fn link(&self, slot: BlockNum) -> Result<Option<BlockLink>, SourceError> {
        let header = self.header(&slot.to_string(), slot).await?;
        header
            .map(|header| {
                let link = verify::link(&header);
                if link.number == slot {
                    return Ok(link);
                }
                let why = format!("its header is of the slot {}", link.number);
                Err(verify::Problem::Malformed(why).of_block(self.provider(), slot))
            })
            .transpose()
    }

    /// The header of a block by its slot or root; `slot` is for messages.
    async fn header(&self, id: &str, slot: BlockNum) -> Result<Option<HeaderAnswer>, SourceError> {
        let _turn = self.turn().await;
        self.chain().await.map_err(|error| error.of_block(slot))?;
        let answer = self.client.get(&format!("eth/v1/beacon/headers/{id}")).await;
        let Some(answer) = answer.map_err(|error| error.of_block(slot))? else { return Ok(None) };
        let header = verify::header(&answer, self.verify);
        header.map(Some).map_err(|problem| problem.of_block(self.provider(), slot))
    }

    /// The root of the block before slots that the node does not have, where they were skipped and are
    /// not only missing. `next` is the block right behind them, where it is known.
    ///
    /// A later block shows it, whose parent lies before them: a node that has not got them yet, or that
    /// never had blocks so old, has no such block.
    pub async fn before_skipped(
        &self,
        skipped: BlockRange,
        next: Option<&BlockLink>,
    ) -> Result<BlockHash, SourceError> {
        let mut next = match next {
            Some(next) => *next,
            None => self.block_above(skipped.end()).await?,
        };
        loop {
            let Some(parent) = self.header(&next.parent_hash.to_string(), skipped.start()).await? else {
                return Err(self.without_parent(next.number, skipped).await);
            };
            let parent = verify::link(&parent);
            check_link(&parent, &next)?;
            // The first slot's block is the genesis, which some nodes know by its root only.
            let is_genesis = parent.number == 0 && skipped.start() == 0;
            if parent.number < skipped.start() || is_genesis {
                return Ok(next.parent_hash);
            }
            if parent.number <= skipped.end() || parent.number >= next.number {
                return Err(self.unproven(skipped));
            }
            next = parent;
        }
    }

    fn unproven(&self, skipped: BlockRange) -> SourceError {
        self.missing(skipped.start(), "the block, nor one that shows that its slot was skipped,")
    }

    /// Why a block does not follow the one before slots that the node does not have: it has lost the block of
    /// one of them. `None` where its parent lies before them too, so that the chain was reorganised.
    pub async fn lost_before(
        &self,
        block: BlockNum,
        parent: BlockHash,
        empty: BlockRange,
    ) -> Option<SourceError> {
        match self.header(&parent.to_string(), empty.start()).await {
            Ok(Some(parent)) => {
                let parent = verify::link(&parent).number;
                // It had none at this slot when it was asked.
                empty.contains(parent).then(|| self.missing(parent, "the block"))
            }
            Ok(None) => Some(self.without_parent(block, empty).await),
            Err(error) => Some(error),
        }
    }

    /// Why slots before a block whose parent the node does not have cannot be had: it may be on its way, but
    /// not where the block is final.
    async fn without_parent(&self, block: BlockNum, wanted: BlockRange) -> SourceError {
        match self.is_lost_for_good(block, wanted.start()).await {
            Ok(None) => self.unproven(wanted),
            Ok(Some(why)) => self.client.refused(why).of_block(wanted.start()),
            Err(error) => error,
        }
    }

    /// Why waiting for the parent of a block does not help; `None` where it may. `first` is the first of the
    /// slots without a block before it.
    async fn is_lost_for_good(
        &self,
        block: BlockNum,
        first: BlockNum,
    ) -> Result<Option<String>, SourceError> {
        if block == 0 || self.named("finalized").await?.number < block {
            return Ok(None);
        }
        let before = first.checked_sub(1);
        let has_before = match before {
            Some(before) => self.link(before).await?.is_some(),
            None => false,
        };
        Ok(Some(match before.filter(|_| has_before) {
            Some(before) => format!(
                "it has lost a block between the slots {before} and {block}: the parent of the later one is not \
                 there; use a node that has all blocks"
            ),
            None => format!(
                "its blocks begin with slot {block}, as those of a node that was begun at a checkpoint or drops \
                 old ones; use a node that has them all, or set `start_block` of the dataset to that slot"
            ),
        }))
    }

    /// A block above a slot: the first one, unless many slots behind it have none.
    async fn block_above(&self, slot: BlockNum) -> Result<BlockLink, SourceError> {
        let head = self.named("head").await?.number;
        let mut empty = slot.saturating_add(NEAR_SLOTS);
        if let Some(link) = self.first_block(slot.saturating_add(1), empty.min(head)).await? {
            return Ok(link);
        }
        // Where a node has lost its old blocks there may be millions of slots before the next one.
        let (mut found, mut step) = (None, NEAR_SLOTS);
        while found.is_none() && empty < head {
            let at = empty.saturating_add(step).min(head);
            let last = at.saturating_add(LOOKED_FOR_AT_A_TIME - 1).min(head);
            found = self.first_block(at, last).await?;
            if found.is_none() {
                (empty, step) = (last, step.saturating_mul(2));
            }
        }
        let mut found = found.ok_or_else(|| self.missing(slot, "the block"))?;
        while found.number - empty > NEAR_SLOTS {
            let middle = empty + (found.number - empty) / 2;
            let last = middle + LOOKED_FOR_AT_A_TIME - 1;
            match self.first_block(middle, last).await? {
                Some(link) => found = link,
                None => empty = last,
            }
        }
        Ok(self.first_block(empty + 1, found.number - 1).await?.unwrap_or(found))
    }

    /// The first block of some slots.
    async fn first_block(&self, first: BlockNum, last: BlockNum) -> Result<Option<BlockLink>, SourceError> {
        let links =
            stream::iter(first..=last).map(|slot| self.link(slot)).buffered(LOOKED_FOR_AT_A_TIME as usize);
        links.try_filter_map(|link| ready(Ok(link))).boxed().try_next().await
    }
}
