//! Plans that were made to tell the columns of an answer, kept for whoever then asks for its rows: with Flight that is
//! two calls for each query.
//!
//! A plan is used once, and only while nothing at all has changed since it was made: the answer is that of a plan made
//! now. Nothing is lost where it is not there: the rows may be asked of another server.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use arrow::datatypes::SchemaRef;
use nozzle_query::{Engine, LogicalPlan, QueryError, Session};
use tokio::time::Instant;

use super::query::Statement;

/// How many are kept.
const MOST: usize = 32;

/// The longest text of which one is kept, in bytes: a plan has the size of its text.
const MOST_TEXT: usize = 64 << 10;

/// How long one is kept: rows are asked for at once.
const AGE: Duration = Duration::from_secs(5);

/// A query that may be run.
pub struct Planned {
    /// What it was planned in.
    pub session: Session,
    /// How.
    pub plan: LogicalPlan,
    /// The columns of its answer.
    pub schema: SchemaRef,
}

impl Planned {
    /// As of now.
    pub async fn of(engine: &Engine, statement: &Statement) -> Result<Self, QueryError> {
        let session = engine.session().await?;
        let plan = statement.plan(&session).await?;
        let schema = session.answer_schema(&plan).await?;
        Ok(Self { session, plan, schema })
    }
}

/// The plans, the oldest first.
#[derive(Default)]
pub struct Ahead(Mutex<Plans>);

type Plans = VecDeque<(Instant, Statement, Planned)>;

fn drop_old(plans: &mut Plans) {
    let too_old = plans.iter().take_while(|(at, ..)| at.elapsed() > AGE).count();
    plans.drain(..too_old);
}

impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ahead").finish_non_exhaustive()
    }
}

impl Ahead {
    /// Keeps a plan for a while.
    pub fn keep(&self, statement: Statement, planned: Planned) {
        if statement.sql.len() > MOST_TEXT {
            return;
        }
        let Ok(mut plans) = self.0.lock() else { return };
        drop_old(&mut plans);
        plans.push_back((Instant::now(), statement, planned));
        let too_many = plans.len().saturating_sub(MOST);
        plans.drain(..too_many);
    }

    /// The plan of a statement, where it was kept and is that of this moment.
    pub async fn take(&self, statement: &Statement) -> Result<Option<Planned>, QueryError> {
        let planned = self.find(statement);
        Ok(match planned {
            Some(planned) if planned.session.is_of_now().await? => Some(planned),
            _ => None,
        })
    }

    fn find(&self, statement: &Statement) -> Option<Planned> {
        let mut plans = self.0.lock().ok()?;
        drop_old(&mut plans);
        let place = plans.iter().position(|(_, kept, _)| kept == statement)?;
        plans.remove(place).map(|(.., planned)| planned)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nozzle_metadata::{CommitSeq, MetadataConfig, MetadataStore};
    use nozzle_query::EngineConfig;

    use super::*;
    use crate::stores;

    async fn engine(folder: &std::path::Path) -> (Arc<dyn MetadataStore>, Engine) {
        let url = format!("sqlite://{}", folder.join("metadata.db").display());
        let config = MetadataConfig { url, listen_url: None, pool_size: 2, auto_migrate: true };
        let metadata = nozzle_metadata::open(&config).await.expect("a database");
        let stores = stores::stores(None, Duration::ZERO);
        let engine = Engine::new(Arc::clone(&metadata), stores, &EngineConfig::default()).expect("an engine");
        (metadata, engine)
    }

    #[tokio::test]
    async fn a_plan_is_used_once_and_while_nothing_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (metadata, engine) = engine(folder.path()).await;
        let (ahead, asked) = (Ahead::default(), Statement::from("SELECT 1".to_owned()));
        let keep = async || ahead.keep(asked.clone(), Planned::of(&engine, &asked).await.expect("a plan"));
        let is_there =
            async |statement: &Statement| ahead.take(statement).await.expect("a database").is_some();
        keep().await;
        assert!(!is_there(&"SELECT 2".to_owned().into()).await);
        assert!(is_there(&asked).await && !is_there(&asked).await);
        keep().await;
        metadata.skip_sequence(CommitSeq(7)).await.expect("a commit");
        assert!(!is_there(&asked).await);
        keep().await;
        if let Some((at, ..)) = ahead.0.lock().expect("the plans").front_mut() {
            *at -= 2 * AGE;
        }
        assert!(!is_there(&asked).await);
        for _ in 0..MOST + 5 {
            keep().await;
        }
        assert_eq!(ahead.0.lock().expect("the plans").len(), MOST);
        let long = Statement::from(format!("SELECT '{}'", "x".repeat(MOST_TEXT)));
        ahead.keep(long.clone(), Planned::of(&engine, &long).await.expect("a plan"));
        assert!(!is_there(&long).await);
    }
}
