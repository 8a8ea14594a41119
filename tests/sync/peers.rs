//! Malformed, cut, endless and hostile replies over real sockets: every run ends soon with a diagnosis, stores nothing wrong,
//! and sends secret and token nowhere else.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use incident_sync::http_client::Deadlines;
use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use incident_sync::sync::tenant_run::SyncMode as AskedFor;
use simulator::{
    Behaviour, Clock, Encoding, Endpoint, Options, Order, ScriptedReply, Simulator, TenantSpec,
};

use crate::support::cases::{Case, api, entra, run, thief};
use crate::support::peer::{Asked, Peer, Step, TOKEN, answer, head, ok, page};
use crate::support::secrets::SECRET;
use crate::support::world::{World, id, spec};

/// Only what hangs waits for it.
const SHORT: Deadlines =
    Deadlines { connect: Duration::from_secs(2), total: Duration::from_secs(2) };

#[tokio::test]
async fn redirects_are_refused_and_receive_no_secret() {
    let elsewhere = thief().await;
    let mut cases = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        for target in ["/steal", elsewhere.url.as_str()] {
            let location = target.to_owned();
            let redirect = move |_: &Asked| {
                vec![Step::Say(answer(status, &[("Location", &location)], "moved"))]
            };
            cases.push(entra(format!("token {status} to {target}"), redirect.clone()));
            cases.push(api(format!("API {status} to {target}"), redirect));
        }
    }
    let ended = run(cases, Deadlines::default()).await;
    ended.all_failed(Outcome::Parked, "security").await;
    let strays: Vec<_> =
        ended.peer.seen().into_iter().filter(|asked| asked.path.contains("steal")).collect();
    assert!(strays.is_empty() && elsewhere.seen().is_empty(), "{strays:?} {:?}", elsewhere.seen());
    for (name, number, _) in ended.each() {
        assert_eq!(
            ended.peer.pages(number),
            usize::from(name.starts_with("API")),
            "{name} was asked for once"
        );
    }
}

#[tokio::test]
async fn next_links_to_other_origins_are_refused() {
    let elsewhere = thief().await;
    let other = elsewhere.url.port().unwrap();
    // OWN stands for the peer's own port.
    let links = [
        format!("http://127.0.0.1:{other}/api/incidents"),
        format!("//127.0.0.1:{other}/api/incidents"),
        format!(r"\\127.0.0.1:{other}\api"),
        format!(r"http:\\127.0.0.1:{other}\api"),
        format!("HTTP://127.0.0.1:{other}/"),
        format!("ht\ntp://127.0.0.1:{other}/"),
        format!(" http://127.0.0.1:{other}/"),
        format!("http://127.0.0.1:OWN@127.0.0.1:{other}/"),
        format!("http://127.0.0.1:{other}#@127.0.0.1:OWN/"),
        format!("http://127.0.0.1:{other}/?u=http://127.0.0.1:OWN/"),
        "http://user@127.0.0.1:OWN/api".to_owned(),
        "http://:pass@127.0.0.1:OWN/api".to_owned(),
        "https://127.0.0.1:OWN/api/incidents".to_owned(),
        "http://127.0.0.1/api/incidents".to_owned(),
        "http://localhost:OWN/api/incidents".to_owned(),
        "http://127.0.0.1.evil.example:OWN/".to_owned(),
        "http://[::1]:OWN/api".to_owned(),
        "ftp://127.0.0.1:OWN/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "data:application/json,{}".to_owned(),
        "http://".to_owned(),
    ];
    let cases = links.map(|link| {
        api(link.clone(), move |asked| ok(page([], Some(&link.replace("OWN", &asked.port)))))
    });
    let ended = run(cases.into(), Deadlines::default()).await;
    ended.all_failed(Outcome::Parked, "security").await;
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
    for (name, number, _) in ended.each() {
        assert_eq!(ended.peer.pages(number), 1, "{name} was asked for once");
    }
}

#[tokio::test]
async fn endless_list_fails_the_run() {
    let link = |name: &str, asked: &Asked| Some(format!("/api/incidents?{name}={}", asked.before));
    let cases = vec![
        api("the same link always", |_| ok(page(1..=3, Some("/api/incidents?x=1")))),
        api("two links in a loop", |asked| {
            let other = if asked.path.ends_with("x=1") {
                "/api/incidents?x=2"
            } else {
                "/api/incidents?x=1"
            };
            ok(page(1..=3, Some(other)))
        }),
        api("ever new links to nothing", move |asked| ok(page([], link("x", asked).as_deref()))),
        api("ever new links to the same", move |asked| {
            ok(page(1..=100, link("x", asked).as_deref()))
        }),
        api("ever new links to something new", move |asked| {
            ok(page([asked.before as i64], link("x", asked).as_deref()))
        }),
        api("the same full page wherever one looks", |_| ok(page(1..=100, None))),
    ];
    let ended = run(cases, Deadlines::default()).await;
    for (name, number, result) in ended.each() {
        let class = result.diagnosis.as_ref().map(|diagnosis| diagnosis.class.as_str());
        assert_eq!((result.outcome, class), (Outcome::Failed, Some("unstable_listing")), "{name}");
        assert_eq!(ended.world.state(id(number), "watermark").await, None, "{name}");
        let (pages, most) =
            (ended.peer.pages(number), if name.ends_with("something new") { 2_002 } else { 300 });
        assert!(pages <= most, "{name}: {pages} pages");
    }
}

#[tokio::test]
async fn service_that_ignores_skip_is_read_whole() {
    let specs = [Order::NewestFirst, Order::ById, Order::Hashed].into_iter().zip(1..);
    let behaviour = Behaviour { ignores_skip: true, ..Behaviour::default() };
    let specs =
        specs.map(|(order, number)| TenantSpec { order, behaviour, ..spec(number, 350) }).collect();
    let world = World::with(specs).await;
    world.successful_run().await;
    world.assert_settled().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
}

#[tokio::test]
async fn raw_deflate_is_never_asked_for() {
    let world = World::of(0).await;
    let options = Options {
        clock: Clock::Manual("2026-11-23T12:00:00Z".parse().unwrap()),
        client_secret: SECRET.to_owned(),
        // Compresses for clients that accept deflate, in the form that a zlib decoder refuses.
        encoding: Encoding::Deflate,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    simulator.world().add_tenant(spec(1, 41));
    let engine = world.facing(&simulator.url(), Deadlines::default()).await;
    let result = engine.run_once(&[id(1)], AskedFor::Incremental).await.unwrap().remove(0);
    assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 41);
    simulator.stop().await;
}

fn encoded(encoding: &str, body: &[u8]) -> Vec<Step> {
    vec![Step::Say(answer(200, &[("Content-Encoding", encoding)], body))]
}

#[tokio::test]
async fn decompressed_body_is_limited_in_size() {
    let huge = vec![b' '; 70 * 1024 * 1024];
    let (gzip_bomb, small_bomb) = (gzip(&huge), gzip(&huge[..1024 * 1024]));
    drop(huge);
    assert!(gzip_bomb.len() < 100_000);
    let endless = [head(200, &[("Transfer-Encoding", "chunked")]), Vec::new()].concat();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let cases = vec![
        api("gzip", move |_| encoded("gzip", &gzip_bomb)),
        api("endless", move |_| {
            vec![Step::Say(endless.clone()), Step::Forever(chunk.clone(), Duration::ZERO)]
        }),
        entra("token", move |_| encoded("gzip", &small_bomb)),
    ];
    let ended = run(cases, Deadlines::default()).await;
    ended.all_failed(Outcome::Failed, "too_large").await;
    for (name, number, _) in ended.each() {
        let pages = ended.peer.pages(number);
        // A page, two smaller ones, and one that should be empty, each once more if there was no room for it.
        let expected = if name == "token" { 0..=0 } else { 4..=8 };
        assert!(expected.contains(&pages), "{name}: {pages} pages");
    }
}

#[tokio::test]
async fn invalid_page_is_never_taken_as_empty() {
    let bodies = [
        "",
        " ",
        "<html><body>Sign in to the guest network</body></html>",
        "{}",
        "[]",
        "null",
        "0",
        "\"value\"",
        r#"{"value":null}"#,
        r#"{"value":{}}"#,
        r#"{"value":"x"}"#,
        r#"{"value":["#,
        r#"{"value":[]"#,
        r#"{"value":[]}}"#,
        r#"{"Value":[]}"#,
        r#"{"values":[]}"#,
        r#"{"error":{"code":"x"}}"#,
        r#"[{"value":[]}]"#,
    ];
    let mut cases: Vec<Case> = bodies.map(|body| api(body, move |_| ok(body))).into();
    let good = page([1], None);
    let (once, twice) = (gzip(good.as_bytes()), gzip(&gzip(good.as_bytes())));
    cases.push(api("br, which was not requested", |_| {
        encoded("br", b"\x0b\x02\x80{\"value\":[]}\x03")
    }));
    let deflated = deflate(good.as_bytes());
    cases.push(api("deflate, which was not requested", move |_| encoded("deflate", &deflated)));
    let nested = twice.clone();
    cases.push(api("gzip in gzip", move |_| encoded("gzip", &twice)));
    cases.push(api("gzip in gzip, both declared", move |_| encoded("gzip, gzip", &nested)));
    cases.push(api("undeclared gzip", move |_| ok(&once)));
    let no_date =
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"value\":[]}";
    cases.push(api("no date", move |_| vec![Step::Say(no_date.into())]));
    let ended = run(cases, Deadlines::default()).await;
    ended.all_failed(Outcome::Failed, "bad_reply").await;
    for (name, number, _) in ended.each() {
        assert_eq!(ended.peer.pages(number), 4, "{name}: tried again, then given up");
    }
}

#[tokio::test]
async fn page_is_accepted_with_any_content_type() {
    let typed = |content_type: &'static str| {
        api(content_type, move |_| {
            vec![Step::Say(answer(200, &[("Content-Type", content_type)], page([1], None)))]
        })
    };
    let mut cases: Vec<Case> =
        ["text/plain", "text/html; charset=utf-8", "application/octet-stream", "x"]
            .map(typed)
            .into();
    cases.push(api("none", |_| vec![Step::Say(answer(200, &[], page([1], None)))]));
    cases.push(api("a byte order mark", |_| ok(format!("\u{feff} {}", page([1], None)))));
    run(cases, Deadlines::default()).await.all_stored(1).await;
}

/// Ways to send a body, each cut after so many bytes of it.
fn cuts(body: &str) -> Vec<(String, Vec<Step>)> {
    let whole = body.len().to_string();
    let chunked: Vec<u8> = body
        .as_bytes()
        .chunks(64)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .collect();
    let packed = gzip(body.as_bytes());
    let mut cuts = Vec::new();
    let places = |length: usize| (0..length).step_by(length / 11).chain([length - 1]);
    for at in places(body.len()) {
        let sent = &body.as_bytes()[..at];
        let announced =
            Step::Say([head(200, &[("Content-Length", &whole)]), sent.to_vec()].concat());
        cuts.push((format!("closed at {at} of {whole}"), vec![announced.clone()]));
        cuts.push((format!("reset at {at} of {whole}"), vec![announced, Step::Reset]));
        cuts.push((
            format!("unannounced, closed at {at}"),
            vec![Step::Say([head(200, &[]), sent.to_vec()].concat())],
        ));
    }
    for at in places(chunked.len()) {
        let head = head(200, &[("Transfer-Encoding", "chunked")]);
        cuts.push((
            format!("chunked, closed at {at}"),
            vec![Step::Say([head, chunked[..at].to_vec()].concat())],
        ));
    }
    for at in places(packed.len()) {
        cuts.push((format!("gzip, cut at {at}"), encoded("gzip", &packed[..at])));
    }
    let head = head(200, &[("Content-Length", &whole)]);
    for at in places(head.len()) {
        cuts.push((format!("head, closed at {at}"), vec![Step::Say(head[..at].to_vec())]));
        cuts.push((
            format!("head, reset at {at}"),
            vec![Step::Say(head[..at].to_vec()), Step::Reset],
        ));
    }
    cuts
}

#[tokio::test]
async fn reply_cut_at_any_byte_is_read_again() {
    let good = page(1..=3, None);
    let cases = cuts(&good).into_iter().map(|(name, steps)| {
        let good = good.clone();
        api(name, move |asked| if asked.before == 0 { steps.clone() } else { ok(&good) })
    });
    let ended = run(cases.collect(), Deadlines::default()).await;
    ended.all_stored(3).await;
    for (name, number, _) in ended.each() {
        assert_eq!(ended.peer.pages(number), 2, "{name}");
    }
}

#[tokio::test]
async fn reply_that_is_always_cut_fails_the_run() {
    let good = page(1..=3, None);
    let whole = good.len().to_string();
    let cut = |head: Vec<u8>| vec![Step::Say(head), Step::Say(b"{\"value\":[{".to_vec())];
    let lying = cut(head(200, &[("Content-Length", "99999999999")]));
    let reset = [cut(head(200, &[("Content-Length", &whole)])), vec![Step::Reset]].concat();
    let lines = |count: usize, length: usize| {
        let line = format!("X-Bomb: {}\r\n", "x".repeat(length));
        Step::Say(format!("HTTP/1.1 200 OK\r\n{}\r\n", line.repeat(count)).into_bytes())
    };
    let cases = vec![
        api("an announced length beyond all memory", move |_| lying.clone()),
        api("a reset each time", move |_| reset.clone()),
        api("ten thousand headers", move |_| vec![lines(10_000, 10)]),
        api("a header of two megabytes", move |_| vec![lines(1, 2 * 1024 * 1024)]),
        api("no HTTP", |_| vec![Step::Say(b"220 smtp.example ESMTP\r\n".to_vec())]),
        api("nothing", |_| vec![]),
        entra("a token cut", |_| vec![Step::Say(head(200, &[("Content-Length", "99")]))]),
    ];
    run(cases, Deadlines::default()).await.all_failed(Outcome::Failed, "transport").await;
}

#[tokio::test]
async fn hanging_or_slow_reply_ends_at_the_deadline() {
    let good = page(1..=3, None);
    let whole = answer(200, &[], &good);
    let head_only = head(200, &[("Content-Length", "999")]);
    let half = [head_only.as_slice(), &good.as_bytes()[..99]].concat();
    let (slow, slow_token) = (Duration::from_millis(50), Duration::from_millis(100));
    let status = b"HTTP/1.1 200 OK\r\n".to_vec();
    let cases = vec![
        api("silence", |_| vec![Step::Silence]),
        api("half a head", |_| vec![Step::Say(b"HTTP/1.1 200 OK\r\nDa".to_vec()), Step::Silence]),
        api("a head", move |_| vec![Step::Say(head_only.clone()), Step::Silence]),
        api("half a body", move |_| vec![Step::Say(half.clone()), Step::Silence]),
        api("a drip", move |_| vec![Step::Drip(whole.clone(), 1, slow)]),
        api("endless headers", move |_| {
            vec![Step::Say(status.clone()), Step::Forever(b"X: y\r\n".to_vec(), slow)]
        }),
        entra("silence of the token endpoint", |_| vec![Step::Silence]),
        entra("a drip of the token endpoint", move |_| {
            vec![Step::Drip(
                answer(200, &[], format!("{{\"access_token\":\"{TOKEN}\"}}")),
                1,
                slow_token,
            )]
        }),
    ];
    let ended = run(cases, SHORT).await;
    ended.all_failed(Outcome::Failed, "transport").await;
    for (name, number, result) in ended.each() {
        let error = result.report.failure.as_ref().unwrap().to_string();
        assert!(error.ends_with("did not answer within the deadline"), "{name}: {error}");
        assert!(ended.peer.pages(number) <= 1, "{name} is not asked again by this run");
    }
}

#[tokio::test]
async fn refused_connection_fails_the_run() {
    let world = World::of(0).await;
    let url = Peer::start(|_| vec![]).await.url.clone();
    let engine = world.facing(&url, Deadlines::default()).await;
    let result = engine.run_once(&[id(1)], AskedFor::Incremental).await.unwrap().remove(0);
    assert_eq!(
        (result.outcome, result.diagnosis.unwrap().class.as_str()),
        (Outcome::Failed, "transport")
    );
}

#[tokio::test]
async fn reply_without_a_token_is_not_used() {
    let cases = [
        "",
        "<html>",
        "{}",
        "[]",
        "null",
        r#"{"error":"x"}"#,
        r#"{"access_token":7}"#,
        r#"{"access_token":""}"#,
    ]
    .map(|body| entra(body, move |_| ok(body)));
    let mut cases: Vec<Case> = cases.into();
    cases.push(entra("a proxy's 407", |_| vec![Step::Say(answer(407, &[], "<html>"))]));
    let ended = run(cases, Deadlines::default()).await;
    ended.all_failed(Outcome::Failed, "bad_reply").await;
    assert!(ended.peer.seen().iter().all(Asked::is_token), "no call of the API without a token");

    let failing = [500, 502, 503].map(|status| {
        entra(format!("{status}"), move |_| vec![Step::Say(answer(status, &[], "<html>"))])
    });
    let ended = run(failing.into(), Deadlines::default()).await;
    ended.all_failed(Outcome::Failed, "upstream").await;
    assert!(ended.peer.seen().iter().all(Asked::is_token));
}

#[tokio::test]
async fn token_lifetime_of_any_form_is_bounded() {
    let forms =
        ["3599", "\"3599\"", "0", "-1", "\"\"", "null", "{}", "1e12", "3599.5", "true", "\"soon\""];
    let cases = forms.map(|form| {
        entra(form, move |asked| {
            ok(format!(r#"{{"access_token":"{TOKEN}{}","expires_in":{form}}}"#, asked.tenant))
        })
    });
    let mut cases: Vec<Case> = cases.into();
    cases.push(entra("none", |asked| {
        ok(format!(r#"{{"access_token":"{TOKEN}{}"}}"#, asked.tenant))
    }));
    let ended = run(cases, Deadlines::default()).await;
    ended.all_stored(1).await;
    for (name, number, _) in ended.each() {
        let tokens = ended
            .peer
            .seen()
            .iter()
            .filter(|asked| asked.tenant == number && asked.is_token())
            .count();
        assert_eq!(tokens, 1, "{name}");
    }
}

#[tokio::test]
async fn token_of_another_tenant_is_never_used() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let with_claims = |claims: String| {
        entra(claims.clone(), move |_| {
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(&claims));
            ok(format!(r#"{{"access_token":"{token}","expires_in":3599}}"#))
        })
    };
    let foreign = id(999);
    let cases = vec![
        with_claims(format!(r#"{{"tid":"{foreign}","roles":["Incident.Read.All"]}}"#)),
        with_claims(format!(r#"{{"tid":"{}"}}"#, foreign.to_string().to_uppercase())),
        with_claims(r#"{"tid":"common"}"#.to_owned()),
        with_claims(r#"{"tid":""}"#.to_owned()),
    ];
    let ended = run(cases, Deadlines::default()).await;
    ended.all_failed(Outcome::Parked, "security").await;
    assert!(ended.peer.seen().iter().all(Asked::is_token), "no call of the API");
}

#[tokio::test]
async fn pause_of_entra_applies_to_the_whole_app() {
    let world = World::with((1..=12).map(|at| spec(at, 5)).collect()).await;
    let (_, engine) = world.other_instance("one-by-one", 1).await;
    let ids = |numbers: std::ops::RangeInclusive<u128>| numbers.map(id).collect::<Vec<_>>();
    let asked = |world: &World| -> Vec<usize> {
        let tokens = |at: u128| {
            world
                .service()
                .calls(id(at))
                .iter()
                .filter(|call| call.endpoint == Endpoint::Token)
                .count()
        };
        (1..=12).map(tokens).collect()
    };
    let succeeded = |results: &[TenantResult]| {
        results.iter().filter(|result| result.outcome == Outcome::Ok).count()
    };
    assert_eq!(succeeded(&engine.run_once(&ids(1..=3), AskedFor::Incremental).await.unwrap()), 3);

    // A short pause is waited out within the run.
    world.service().script(id(4), Endpoint::Token, vec![ScriptedReply::throttled(1)]);
    assert_eq!(succeeded(&engine.run_once(&ids(4..=5), AskedFor::Incremental).await.unwrap()), 2);
    assert_eq!(asked(&world)[3..5], [2, 1]);

    world.service().script(id(6), Endpoint::Token, vec![ScriptedReply::throttled(900)]);
    let results = engine.run_once(&ids(1..=12), AskedFor::Incremental).await.unwrap();
    assert_eq!(succeeded(&results), 5, "tenants with a token are read");
    assert_eq!(
        asked(&world),
        [1, 1, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0],
        "silence at the token endpoint"
    );
    for result in results.iter().filter(|result| result.outcome != Outcome::Ok) {
        assert_eq!(
            (result.outcome, result.diagnosis.as_ref().unwrap().class.as_str()),
            (Outcome::Throttled, "throttled")
        );
        let left = "SELECT min(extract(epoch FROM next_attempt_at - now()))::bigint FROM defender.sync_state
            WHERE error_class = 'throttled' HAVING count(*) = 7";
        assert!((800..=1_000).contains(&world.number(left).await), "the others wait as long");
    }
}
