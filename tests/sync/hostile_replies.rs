//! Replies that are well-formed and absurd: clocks that are wrong by years, tokens unfit for a header, growing numbers. None
//! moves a watermark, none is stored, and none prevents later reading, export or erasure of its tenant.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use incident_sync::http_client::Deadlines;
use incident_sync::incident::rows::PageRows;
use incident_sync::store::runs::Outcome;
use incident_sync::store::write_page::PagePosition;
use incident_sync::sync::engine::TenantResult;
use incident_sync::sync::tenant_run::SyncMode as AskedFor;
use incident_sync::sync::tenant_state::{State, must_act};
use reqwest::Url;

use crate::support::peer::{Asked, Peer, Step, ok, page, token};
use crate::support::world::{World, id};

const DAY: Duration = Duration::from_secs(86_400);

/// 200 with this body and this `Date`.
fn dated(date: SystemTime, body: &str) -> Vec<Step> {
    let date = httpdate::fmt_http_date(date);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    vec![Step::Say((head + body).into_bytes())]
}

type Clock = fn() -> SystemTime;

fn year_9999() -> SystemTime {
    httpdate::parse_http_date("Fri, 31 Dec 9999 23:59:59 GMT").unwrap()
}

/// An API with so many incidents, one a minute, the newest 20 days old: filter, `$top` and `$skip` as documented.
struct History(Vec<(usize, DateTime<Utc>)>);

impl History {
    fn of(incidents: usize) -> Self {
        let newest = DateTime::<Utc>::from(SystemTime::now() - 20 * DAY);
        let updated = |back: usize| newest - TimeDelta::minutes(back as i64);
        Self((0..incidents).map(|at| (at + 1, updated(incidents - at))).collect())
    }

    fn answer(&self, asked: &Asked) -> String {
        let url: Url = format!("http://api{}", asked.path).parse().unwrap();
        let parameter = |name: &str| {
            url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let filter = parameter("$filter").unwrap_or_default();
        let edge = |operator: &str| {
            let literal = filter.split(operator).nth(1)?.split_whitespace().next()?;
            Some(literal.parse::<DateTime<Utc>>().unwrap())
        };
        let (from, to) = (edge("lastUpdateTime ge "), edge("lastUpdateTime lt "));
        let number =
            |name: &str, default| parameter(name).map_or(default, |value| value.parse().unwrap());
        let listed = self.0.iter().filter(|(_, updated)| {
            from.is_none_or(|from| *updated >= from) && to.is_none_or(|to| *updated < to)
        });
        let incident = |(id, updated): &(usize, DateTime<Utc>)| {
            let updated = updated.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!(r#"{{"incidentId":{id},"lastUpdateTime":"{updated}","status":"Resolved"}}"#)
        };
        let listed = listed.skip(number("$skip", 0)).take(number("$top", 100));
        format!(r#"{{"value":[{}]}}"#, listed.map(incident).collect::<Vec<_>>().join(","))
    }
}

async fn run(world: &World, peer: &Peer) -> TenantResult {
    let engine = world.facing_on_time(&peer.url).await;
    engine.run_once(&[id(1)], AskedFor::Incremental).await.unwrap().remove(0)
}

async fn incidents(world: &World) -> i64 {
    world.number("SELECT count(*) FROM defender.incidents").await
}

/// Watermarks that lie beyond the database's clock.
async fn watermarks_ahead(world: &World) -> i64 {
    world.number("SELECT count(*) FROM defender.sync_state WHERE watermark > now()").await
}

#[tokio::test]
async fn first_reply_from_next_year_loses_no_history() {
    let world = World::of(0).await;
    let history = History::of(150);
    let peer = Peer::start(move |asked| {
        if asked.is_token() {
            return token(asked.tenant);
        }
        let ahead = if asked.before == 0 { 365 * DAY } else { Duration::ZERO };
        dated(SystemTime::now() + ahead, &history.answer(asked))
    })
    .await;
    let result = run(&world, &peer).await;
    assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    assert_eq!((incidents(&world).await, watermarks_ahead(&world).await), (150, 0));
}

#[tokio::test]
async fn absurd_date_is_bad_reply_and_stores_nothing() {
    let (empty, full) = (r#"{"value":[]}"#.to_owned(), page([1], None));
    let dates: [(&str, Clock, String); 4] = [
        ("9999", year_9999, empty.clone()),
        ("1970", || SystemTime::UNIX_EPOCH, empty),
        ("two days ahead", || SystemTime::now() + 2 * DAY, full.clone()),
        ("two days behind", || SystemTime::now() - 2 * DAY, full),
    ];
    for (name, date, body) in dates {
        let world = World::of(0).await;
        let peer =
            Peer::start(
                move |asked| {
                    if asked.is_token() { token(asked.tenant) } else { dated(date(), &body) }
                },
            )
            .await;
        let result = run(&world, &peer).await;
        let class = result.diagnosis.as_ref().map(|diagnosis| diagnosis.class.as_str());
        assert_eq!((result.outcome, class), (Outcome::Failed, Some("bad_reply")), "{name}");
        assert_eq!(
            (incidents(&world).await, world.state(id(1), "watermark").await),
            (0, None),
            "{name}"
        );

        // Once the clock is right, all of it is read.
        let history = History::of(3);
        let right = Peer::start(move |asked| {
            if asked.is_token() {
                token(asked.tenant)
            } else {
                dated(SystemTime::now(), &history.answer(asked))
            }
        })
        .await;
        assert_eq!(run(&world, &right).await.outcome, Outcome::Ok, "{name}");
        assert_eq!((incidents(&world).await, watermarks_ahead(&world).await), (3, 0), "{name}");
    }
}

#[tokio::test]
async fn clock_hours_off_never_moves_watermark_ahead() {
    for hours in [-20, 20] {
        let world = World::of(0).await;
        let history = History::of(150);
        let date = move || {
            SystemTime::from(DateTime::<Utc>::from(SystemTime::now()) + TimeDelta::hours(hours))
        };
        let peer = Peer::start(move |asked| {
            if asked.is_token() {
                token(asked.tenant)
            } else {
                dated(date(), &history.answer(asked))
            }
        })
        .await;
        let result = run(&world, &peer).await;
        assert_eq!(result.outcome, Outcome::Ok, "{hours} h: {:?}", result.report.failure);
        assert_eq!(
            (incidents(&world).await, watermarks_ahead(&world).await),
            (150, 0),
            "{hours} h"
        );
    }
}

#[tokio::test]
async fn watermark_beyond_the_database_clock_is_not_stored() {
    let world = World::of(0).await;
    let lease = world.store.claim_named(&[id(1)], 1).await.unwrap().remove(0).lease;
    let future = DateTime::<Utc>::from(SystemTime::now() + 365 * DAY);
    world
        .store
        .write_page(&lease, &PageRows::default(), PagePosition::WindowEnd(Some(future)), None)
        .await
        .unwrap();
    let stored = world.state(id(1), "watermark").await;
    assert!(stored.is_some(), "the watermark moves");
    assert_eq!(watermarks_ahead(&world).await, 0, "{stored:?}");
}

#[tokio::test]
async fn future_watermark_is_shown_and_read_again() {
    let world = World::of(7).await;
    sqlx::query("UPDATE defender.sync_state SET watermark = now() + interval '1 year', backfilled_at = now(), poll_due_at = now()")
        .execute(world.pool())
        .await
        .unwrap();
    let status = world.store.tenant_status().await.unwrap().remove(0).standing;
    let fleet = world.store.fleet().await.unwrap().1.remove(0).standing;
    for standing in [&status, &fleet] {
        assert_eq!(State::of(standing), State::Stale);
        let (who, what) = must_act(standing).expect("an action");
        assert!(
            who == "operator" && what.contains("future") && what.contains("sync --full"),
            "{who}: {what}"
        );
    }
    world.successful_run().await;
    assert_eq!((incidents(&world).await, watermarks_ahead(&world).await), (7, 0));
    let status = world.store.tenant_status().await.unwrap().remove(0).standing;
    assert_eq!(State::of(&status), State::Ok);
    world.assert_settled().await;
}

#[tokio::test]
async fn token_unfit_for_header_is_bad_reply() {
    let world = World::of(0).await;
    for text in [
        r"a\r\nX-Injected: 1",
        r"a\nb",
        r"a\u0000b",
        r"a\tb",
        r"a\u00e9b",
        r"a\u2028b",
        r"a\u007fb",
    ] {
        let body = format!(r#"{{"access_token":"{text}","expires_in":3599}}"#);
        let peer = Peer::start(
            move |asked| if asked.is_token() { ok(&body) } else { ok(page([1], None)) },
        )
        .await;
        let engine = world.facing(&peer.url, Deadlines::default()).await;
        let result = engine.run_once(&[id(1)], AskedFor::Incremental).await.unwrap().remove(0);
        let error = result.report.failure.as_ref().expect("the token is refused").to_string();
        let class = result.diagnosis.as_ref().map(|diagnosis| diagnosis.class.as_str());
        assert_eq!(
            (result.outcome, class),
            (Outcome::Failed, Some("bad_reply")),
            "{text}: {error}"
        );
        assert!(error.contains("Entra"), "{text}: {error}");
        assert!(peer.seen().iter().all(Asked::is_token), "{text}: the API is not called");
    }
    assert_eq!(incidents(&world).await, 0);
}

#[tokio::test]
async fn token_of_other_tenant_is_always_refused() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let world = World::of(0).await;
    for roles in [r#""Incident.Read.All""#, "null", "{}", "[7]", "1e999"] {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"roles":{roles},"tid":"{}"}}"#, id(2)));
        let body = format!(r#"{{"access_token":"e30.{claims}.c2ln","expires_in":3599}}"#);
        let peer = Peer::start(
            move |asked| if asked.is_token() { ok(&body) } else { ok(page([1], None)) },
        )
        .await;
        let engine = world.facing(&peer.url, Deadlines::default()).await;
        let result = engine.run_once(&[id(1)], AskedFor::Incremental).await.unwrap().remove(0);
        let class = result.diagnosis.as_ref().map(|diagnosis| diagnosis.class.as_str());
        assert_eq!((result.outcome, class), (Outcome::Parked, Some("security")), "{roles}");
        assert!(peer.seen().iter().all(Asked::is_token), "{roles}: the API is not called");
        world.clear_parking().await;
    }
    assert_eq!(incidents(&world).await, 0);
}
