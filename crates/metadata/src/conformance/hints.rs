//! Rules of the channel that tells of commits.

use std::time::Duration;

use tokio::{sync::watch::Receiver, time::timeout};

use super::{Database, world::*};
use crate::*;

const SOON: Duration = Duration::from_secs(1);

async fn is_told(receiver: &mut Receiver<CommitSeq>, sequence: CommitSeq) {
    let told = timeout(SOON, receiver.wait_for(|told| *told >= sequence)).await;
    told.expect("told within a second").unwrap();
}

pub(super) async fn own_commits_are_told_at_once(database: Database) {
    let world = World::new(database).await;
    let mut commits = world.commits();
    let lease = world.claim_one(range(0, 99)).await;
    let first = world.add(lease.id, &[span(0, 9)]).await.unwrap();
    assert_eq!(*commits.borrow_and_update(), first);
    let building = new_revision(world.dataset, RevisionState::Building);
    world.create_revision(&building).await.unwrap();
    let switched = world.activate_revision(building.id).await.unwrap();
    assert_eq!(*commits.borrow_and_update(), switched);
}

pub(super) async fn commits_of_others_are_told_soon(database: Database) {
    let world = World::new(database).await;
    let other = world.database.open().await;
    let mut commits = other.commits();
    let lease = world.claim_one(range(0, 99)).await;
    for n in 0..3 {
        let sequence = world.add(lease.id, &[span(n, n)]).await.unwrap();
        is_told(&mut commits, sequence).await;
    }
}

pub(super) async fn receivers_may_come_and_go(database: Database) {
    let world = World::new(database).await;
    let other = world.database.open().await;
    let lease = world.claim_one(range(0, 99)).await;
    for n in 0..4 {
        let mut commits = [other.commits(), other.commits()];
        let sequence = world.add(lease.id, &[span(n, n)]).await.unwrap();
        is_told(&mut commits[0], sequence).await;
        is_told(&mut commits[1], sequence).await;
    }
}

pub(super) async fn receivers_end_with_the_store(database: Database) {
    let store = database.open().await;
    let mut commits = store.commits();
    drop(store);
    let ended = timeout(SOON, async { while commits.changed().await.is_ok() {} }).await;
    ended.expect("ended within a second");
}
