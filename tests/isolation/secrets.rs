//! The search for secrets, with which every test ends, finds them.

use crate::support::canary::{self, PLANTED};
use crate::support::secrets::SECRET;
use crate::support::world::World;

#[tokio::test]
async fn planted_secret_is_found_in_log_and_tables() {
    let world = World::of(1).await;
    assert_eq!(canary::tables(&world.database).await.unwrap(), Vec::<String>::new());
    let plant = |what: &str| format!("UPDATE defender.sync_state SET error_message = '{what}'");
    sqlx::query(sqlx::AssertSqlSafe(plant(SECRET))).execute(world.pool()).await.unwrap();
    assert_eq!(canary::tables(&world.database).await.unwrap(), ["defender.sync_state"]);
    sqlx::query(sqlx::AssertSqlSafe(plant(""))).execute(world.pool()).await.unwrap();

    let count = || canary::logged().iter().filter(|event| event.contains(PLANTED)).count();
    assert_eq!(count(), 0);
    tracing::trace!(secret = SECRET, "{PLANTED}");
    let _span = tracing::trace_span!("run", token = "eyJhbGciOiJSUzI1NiJ9").entered();
    tracing::error!("{PLANTED}");
    assert_eq!(count(), 2, "{:?}", canary::logged());
}
