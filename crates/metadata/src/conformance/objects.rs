//! Rules of recorded objects.

use super::{Database, world::*};
use crate::*;

pub(super) async fn a_recorded_object_is_listed_until_a_commit_takes_it_up(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let commit = world.commit_of(lease.id, &[span(0, 9)]);
    for new in &commit.added {
        let name = &new.file.as_ref().unwrap().file.name;
        world.record_object(lease.id, new.location, name).await.unwrap();
        // Once more, as after an answer that was lost.
        world.record_object(lease.id, new.location, name).await.unwrap();
    }
    world.record_object(lease.id, world.table(1), "orphan.parquet").await.unwrap();
    assert_eq!(world.recorded_objects().await.unwrap().len(), 3);

    world.store.commit(&commit).await.unwrap();
    let orphan = RecordedObject {
        lease: lease.id,
        location: world.revision.locations[1].clone(),
        name: "orphan.parquet".into(),
        upload: None,
        ended_for: None,
    };
    assert_eq!(world.recorded_objects().await.unwrap(), [orphan]);
    // The same name in another folder is another object.
    world.forget_object(world.table(0), "orphan.parquet").await.unwrap();
    assert_eq!(world.recorded_objects().await.unwrap().len(), 1);
    world.forget_object(world.table(1), "orphan.parquet").await.unwrap();
    assert_eq!(world.recorded_objects().await.unwrap(), []);
}

pub(super) async fn an_upload_is_recorded_with_its_object(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let table = world.table(0);
    assert_refused(world.record_upload(table, "a.parquet", "u1").await, "not recorded");
    world.record_object(lease.id, table, "a.parquet").await.unwrap();
    world.record_upload(table, "a.parquet", "u1").await.unwrap();
    let recorded = world.recorded_objects().await.unwrap();
    assert_eq!(recorded.iter().map(|object| object.upload.as_deref()).collect::<Vec<_>>(), [Some("u1")]);
}

pub(super) async fn a_recorded_object_tells_when_its_lease_ended(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.record_object(lease.id, world.table(0), "a.parquet").await.unwrap();
    let ended = async || world.recorded_objects().await.unwrap()[0].ended_for.map(|time| time.as_secs());
    assert_eq!(ended().await, None);
    // A holder that died does not end its lease: it ended when it had been silent too long.
    world.database.silence(lease.id).await;
    let silent = ended().await.unwrap();
    assert!((1..=3).contains(&silent), "{silent}");
    world.renew(&[lease.id]).await.unwrap();
    assert_eq!(ended().await, None);
    world.release(&[lease.id]).await.unwrap();
    let age = ended().await.unwrap();
    assert!(age <= 2, "{age}");
}

pub(super) async fn objects_are_recorded_under_live_leases_only(database: Database) {
    let world = World::new(database).await;
    let (lease, other) = (world.claim_one(range(0, 9)).await, world.claim_one(range(10, 19)).await);
    let table = world.table(0);
    world.record_object(lease.id, table, "a.parquet").await.unwrap();
    assert_refused(world.record_object(other.id, table, "a.parquet").await, "already recorded");
    assert_refused(world.record_object(lease.id, LocationId(9999), "b.parquet").await, "not one of");
    assert_refused(world.record_object(lease.id, table, "b/c.parquet").await, "not the name");
    assert_refused(world.record_object(LeaseId(9999), table, "b.parquet").await, "has ended");
    world.release(&[lease.id]).await.unwrap();
    assert_refused(world.record_object(lease.id, table, "b.parquet").await, "has ended");
    assert_eq!(world.recorded_objects().await.unwrap().len(), 1);
}
