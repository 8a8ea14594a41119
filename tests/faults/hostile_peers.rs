//! Hostile peers and local users: error bodies of 60 MB, growing numbers, half-open connections to the listener, files of
//! other users in `tenants_dir`.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::support::installation::{Installation, Running, Settings, id, spec, stored, until};

const MEGABYTE: usize = 1 << 20;

/// What a peer was asked: the first line with what stands behind it, such as the form of a token request.
type Script = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// A peer in threads of its own, that says exactly what a test wants.
struct Peer {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    /// Bytes that went out, for each request.
    written: Arc<Mutex<Vec<usize>>>,
}

impl Peer {
    fn start(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let written: Arc<Mutex<Vec<usize>>> = Arc::default();
        let (requests, bytes, script): (_, _, Arc<Script>) =
            (Arc::clone(&asked), Arc::clone(&written), Arc::new(script));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (requests, bytes, script) =
                    (Arc::clone(&requests), Arc::clone(&bytes), Arc::clone(&script));
                std::thread::spawn(move || {
                    let Ok((request, mut socket)) = read_request(socket) else { return };
                    requests.lock().unwrap().push(request.clone());
                    let sent = send(&mut socket, &script(&request));
                    bytes.lock().unwrap().push(sent);
                });
            }
        });
        Self { url, asked, written }
    }

    /// All that was asked, as one text.
    fn requests(&self) -> String {
        self.asked.lock().unwrap().join("\n")
    }
}

fn read_request(mut socket: TcpStream) -> std::io::Result<(String, TcpStream)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let length = head.lines().filter_map(|line| line.split_once(": "));
        let mut length = length.filter(|(key, _)| key.eq_ignore_ascii_case("content-length"));
        if read == 0
            || body.len() >= length.next_back().map_or(0, |(_, length)| length.parse().unwrap())
        {
            return Ok((text, socket));
        }
    }
}

/// Answers how much the other side took.
fn send(socket: &mut TcpStream, answer: &[u8]) -> usize {
    let mut sent = 0;
    while sent < answer.len() {
        match socket.write(&answer[sent..]) {
            Ok(0) | Err(_) => break,
            Ok(written) => sent += written,
        }
    }
    sent
}

fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let (date, length) = (httpdate::fmt_http_date(SystemTime::now()), body.len());
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nDate: {date}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The tenant, from the path of a token request or from the token, which cannot be read.
fn tenant_of(request: &str) -> u128 {
    let of_path = request.split(['/', ' ']).find_map(|word| word.parse::<uuid::Uuid>().ok());
    let of_token = || request.split("opaque-").nth(1)?.split_whitespace().next()?.parse().ok();
    of_path.map(|tenant| tenant.as_u128() - id(0).as_u128()).or_else(of_token).unwrap_or_default()
}

fn token(request: &str) -> Vec<u8> {
    let token = format!(r#"{{"access_token":"opaque-{}","expires_in":3599}}"#, tenant_of(request));
    answer(200, "", token.as_bytes())
}

/// A site whose tenants are all at this peer.
async fn site_at(peer: &Peer, tenants: impl Iterator<Item = u128>) -> Installation {
    let site = Installation::with(vec![]).await;
    let url = &peer.url;
    let tenant = |number: u128| {
        format!(
            "[[tenants]]\nid = \"{}\"\nname = \"tenant-{number}\"\nauthority = \"{url}\"\nbase_url = \"{url}\"\n",
            id(number)
        )
    };
    site.configure(&Settings { more: tenants.map(tenant).collect(), ..site.settings() });
    site
}

/// The most memory that a process has had, in bytes; what it had just before its end may be missed by a moment.
fn peak_memory(running: &mut Running) -> usize {
    let mut peak = 0;
    while running.is_alive() {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = line.map_or(peak, |kilobytes| kilobytes.parse::<usize>().unwrap() * 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    peak
}

/// Each with its header.
fn hostile_bodies() -> Vec<(&'static str, Vec<u8>)> {
    const SIZE: usize = 60 * MEGABYTE;
    let mut zeros = "[0".as_bytes().to_vec();
    zeros.extend(b",0".iter().cycle().take(SIZE));
    zeros.push(b']');
    let nested = [br#"{"error":{"code":"#.as_slice(), &zeros, b"}}"].concat();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&zeros).unwrap();
    let bomb = encoder.finish().unwrap();
    vec![("", zeros), ("", nested), ("", vec![0xff; SIZE]), ("Content-Encoding: gzip\r\n", bomb)]
}

#[tokio::test(flavor = "multi_thread")]
async fn error_bodies_of_sixty_megabytes_cost_no_memory() {
    let statuses = [400, 403, 429, 500];
    let bodies = hostile_bodies();
    let kinds = bodies.len() as u128;
    let tenants = statuses.len() as u128 * kinds;
    let peer = Peer::start(move |request| {
        let at = tenant_of(request) - 1;
        let is_token = request.starts_with("POST");
        let (headers, body) = &bodies[(at % kinds) as usize];
        // The second half of the tenants meets the same at the token endpoint; a 429 there would hold all of them.
        match (at < tenants, is_token) {
            (true, true) => token(request),
            (true, false) => {
                let headers = format!("{headers}Retry-After: 900\r\n");
                answer(statuses[(at / kinds) as usize], &headers, body)
            }
            (false, _) => answer([400, 500][((at - tenants) / kinds) as usize], headers, body),
        }
    });
    let site = site_at(&peer, 1..=tenants + 2 * kinds).await;
    site.run(&["migrate"]).success();
    let mut sync = Running::start(site.command(&["sync", "--json"]), site.folder.path());
    let peak = peak_memory(&mut sync);
    let done = sync.ends();
    assert_eq!(done.code(), Some(1), "{}", done.stderr);
    for result in done.json()["tenants"].as_array().unwrap() {
        assert_ne!(result["error_class"], "too_large", "{result}");
        assert_ne!(result["outcome"], "ok", "{result}");
    }
    assert!(peak > 10 * MEGABYTE, "the memory was not measured: {peak}");
    assert!(peak < 150 * MEGABYTE, "{} MB", peak / MEGABYTE);
    // The sockets of both sides buffer some megabytes.
    let written = peer.written.lock().unwrap();
    assert!(written.len() as u128 >= tenants + 2 * kinds);
    assert!(written.iter().all(|bytes| *bytes < 20 * MEGABYTE), "{written:?}");
}

/// An incident for each of these, which stands beside its fields.
fn page_with(fields: &[String]) -> String {
    let incident = |(at, more): (usize, &String)| {
        let id = at + 1;
        format!(
            r#"{{"incidentId":{id},"incidentName":"by ann@example.com","createdTime":"2026-11-20T10:00:00Z","lastUpdateTime":"2026-11-20T10:00:0{id}Z","status":"Active"{more}}}"#
        )
    };
    format!(
        r#"{{"value":[{}]}}"#,
        fields.iter().enumerate().map(incident).collect::<Vec<_>>().join(",")
    )
}

/// A site with one tenant that has read this page.
async fn site_with(page: String) -> (Peer, Installation) {
    let read = AtomicUsize::new(0);
    let peer = Peer::start(move |request| {
        if request.starts_with("POST") {
            return token(request);
        }
        let is_first = read.fetch_add(1, Ordering::Relaxed) == 0;
        answer(200, "", if is_first { page.as_bytes() } else { br#"{"value":[]}"# })
    });
    let site = site_at(&peer, 1..=1).await;
    site.run(&["migrate"]).success();
    site.run(&["sync"]).success();
    (peer, site)
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_numbers_are_quarantined_before_export() {
    let grown =
        [vec!["1e131071"; 12_000], vec!["1e308"; 12_000], vec!["-1E-300"; 12_000], vec!["9"; 1]];
    let mut fields: Vec<String> =
        grown.iter().map(|numbers| format!(r#","new":[{}]"#, numbers.join(","))).collect();
    fields[3] = format!(r#","new":{}"#, "9".repeat(400));
    let doubles = "1.7976931348623157E+308,-2.2250738585072014e-308,0.1,0e0,12345678901234567890";
    fields.push(format!(r#","new":[{doubles},"1e131071\"1e131071"]"#));
    let (_peer, site) = site_with(page_with(&fields)).await;
    let (server, pool) = site.open_database().await;
    let set_aside = "SELECT incident_id FROM defender.rejected_payloads WHERE reason LIKE '%number%' ORDER BY 1";
    let set_aside: Vec<i64> = sqlx::query_scalar(set_aside).fetch_all(&pool).await.unwrap();
    assert_eq!((stored(&pool, 1).await, set_aside), (1, vec![1, 2, 3, 4]));
    pool.close().await;
    server.stop().await;
    let export = |name: &str| {
        let folder = site.path(name).display().to_string();
        site.run(&["tenant", "export", "tenant-1", "--to", &folder]).success();
    };
    export("before");
    let erased =
        site.run(&["tenant", "erase-person", "tenant-1", "--upn", "ann@example.com"]).success();
    assert!(erased.contains("rejected_payloads") && erased.contains("incidents"), "{erased}");
    export("after");
}

/// What an older version has stored.
#[tokio::test(flavor = "multi_thread")]
async fn export_and_erasure_name_an_unreadable_row() {
    let (_peer, site) = site_with(page_with(&[String::new(), String::new()])).await;
    let store = async |update: &'static str| {
        let (server, pool) = site.open_database().await;
        sqlx::query(update).execute(&pool).await.unwrap();
        pool.close().await;
        server.stop().await;
    };
    store(
        r#"UPDATE defender.incident_payloads SET payload = '{"new": 1e400}' WHERE incident_id = 2"#,
    )
    .await;
    let refused = site.run(&["tenant", "erase-person", "tenant-1", "--upn", "ann@example.com"]);
    let named = ["incident_payloads", "incident_id 2", "Nothing was erased"];
    assert!(
        refused.code() != Some(0) && named.iter().all(|word| refused.stderr.contains(word)),
        "{}",
        refused.stderr
    );

    store(
        "INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, extra)
        SELECT tenant_id, 'da1', 'hash', (SELECT jsonb_agg('1e131071'::numeric) FROM generate_series(1, 9000))
        FROM defender.incidents WHERE incident_id = 2",
    )
    .await;
    let folder = site.path("export").display().to_string();
    for arguments in [
        ["tenant", "export", "tenant-1", "--to", &folder],
        ["tenant", "erase-person", "tenant-1", "--upn", "ann@example.com"],
    ] {
        let refused = site.run(&arguments);
        let named = refused.stderr.contains("defender.evidence")
            && !refused.stderr.contains("away or slow");
        assert!(refused.code() == Some(3) && named, "{arguments:?}: {}", refused.stderr);
    }
}

/// Whether the peer has closed this connection.
fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    match socket.read(&mut [0; 1024]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_beside_300_half_open_connections() {
    const HALF_OPEN: usize = 300;
    let site = Installation::with(vec![spec(1, 1)]).await;
    let daemon = site.start_daemon();
    let address = daemon.logs("Started").await["listen"].as_str().unwrap().to_owned();
    let sockets = || {
        let descriptors =
            std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
        let targets =
            descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    };
    let before = sockets();
    let mut half_open = Vec::new();
    for at in 0..HALF_OPEN {
        let mut socket = TcpStream::connect(&address).unwrap();
        // Some are silent, some have begun.
        if at % 2 == 0 {
            socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n").unwrap();
        }
        half_open.push(socket);
    }
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(daemon.get("/healthz").await, (200, "ok\n".to_owned()));
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    // Some more for the database and the API.
    assert!(sockets() <= before + 64 + 16, "{} sockets", sockets());
    let closed = half_open.iter().filter(|socket| is_closed(socket)).count();
    assert!(closed >= HALF_OPEN - 64, "{closed} of them are closed to let others in");
    until("a head that does not come is given up", async || half_open.iter().all(is_closed)).await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_rendered_at_most_once_a_second() {
    const FRESHNESS: &str = "incident_sync_tenant_freshness_seconds{";
    let site = Installation::with(vec![spec(1, 1)]).await;
    let daemon = site.start_daemon();
    until("the tenant has metrics", async || daemon.get("/metrics").await.1.contains(FRESHNESS))
        .await;
    let url =
        format!("http://{}/metrics", daemon.logs("Started").await["listen"].as_str().unwrap());
    let (client, began) = (incident_sync::http_client::client(), Instant::now());
    // It is another one in each rendering.
    let mut freshness = BTreeSet::new();
    for _ in 0..100 {
        let text = client.get(&url).send().await.unwrap().text().await.unwrap();
        freshness.insert(text.lines().find(|line| line.starts_with(FRESHNESS)).unwrap().to_owned());
    }
    let seconds = began.elapsed().as_secs();
    assert!(freshness.len() as u64 <= seconds + 2, "{} renderings in {seconds} s", freshness.len());
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A site with a `tenants_dir` that holds tenant 1.
async fn site_with_files() -> Installation {
    let site = Installation::with(vec![spec(1, 3), spec(2, 3)]).await;
    site.configure(&site.settings());
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    std::fs::create_dir(site.path("tenants.d")).unwrap();
    set_mode(&site.path("tenants.d"), 0o755);
    write_tenant(&site, 1, "");
    site
}

fn write_tenant(site: &Installation, number: u128, more: &str) -> std::path::PathBuf {
    let path = site.path(&format!("tenants.d/tenant-{number}.toml"));
    std::fs::write(&path, format!("id = \"{}\"\nname = \"tenant-{number}\"\n{more}", id(number)))
        .unwrap();
    set_mode(&path, 0o644);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_refuses_writable_tenants_dir() {
    let site = site_with_files().await;
    let dir = site.path("tenants.d");
    site.run(&["migrate"]).success();
    let refused = |cure: &str| {
        for command in ["run", "sync", "config check"] {
            let arguments: Vec<&str> = command.split(' ').collect();
            let done = site.run(&arguments);
            assert!(
                done.code() == Some(2) && done.stderr.contains(cure),
                "{command}: {}",
                done.stderr
            );
        }
    };
    set_mode(&dir, 0o777);
    refused(&format!("chmod go-w {}", dir.display()));
    set_mode(&dir, 0o755);
    if geteuid().is_root() {
        chown(&dir, Some(65_534), None).unwrap();
        refused(&format!("chown 0 {}", dir.display()));
        chown(&dir, Some(0), None).unwrap();
    }
    assert!(site.world().calls(id(1)).is_empty(), "nothing was read");
    site.run(&["sync"]).success();
}

#[tokio::test(flavor = "multi_thread")]
async fn writable_tenant_file_is_refused_alone() {
    let site = site_with_files().await;
    let file = write_tenant(&site, 2, "");
    set_mode(&file, 0o666);
    let daemon = site.start_daemon();
    let event = daemon
        .logs("Ignoring an invalid file in tenants_dir; its tenant is not synced until the file is valid")
        .await;
    let cure = format!("chmod go-w {}", file.display());
    assert!(event["error"].as_str().unwrap().contains(&cure), "{event}");
    let pool = site.connect().await;
    until("the other tenant is read", async || stored(&pool, 1).await == 3).await;
    assert!(site.world().calls(id(2)).is_empty());

    set_mode(&file, 0o644);
    until("the tenant comes once its file is closed", async || stored(&pool, 2).await == 3).await;
    if geteuid().is_root() {
        chown(&file, Some(65_534), None).unwrap();
        write_tenant(&site, 2, "labels = { tier = \"gold\" }\n");
        let message =
            "Ignoring an invalid file in tenants_dir; its tenant keeps its previous settings";
        let event = daemon.logs(message).await;
        assert!(event["error"].as_str().unwrap().contains("is owned by user 65534"), "{event}");
        site.world().create(id(2));
        until("a tenant that ran is still read", async || stored(&pool, 2).await == 4).await;
    }
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_file_cannot_redirect_the_shared_secret() {
    let thief = Peer::start(token);
    let site = site_with_files().await;
    let file = write_tenant(&site, 2, &format!("authority = \"{}\"\n", thief.url));
    site.run(&["migrate"]).success();
    let checked = site.run(&["config", "check"]);
    let refusal = "the credential of [app] is not sent to";
    let names_file = checked.stderr.contains(&format!("{}: authority: {refusal}", file.display()));
    assert!(checked.code() == Some(2) && names_file, "{}", checked.stderr);
    let synced = site.run(&["sync"]);
    assert!(
        synced.stdout.contains("tenant-1") && !synced.stdout.contains("tenant-2"),
        "{}",
        synced.stdout
    );
    assert_eq!(thief.requests(), "");

    // With a credential of its own the tenant may use its own authority.
    crate::support::installation::write_secret(&site.path("tenants.d/secret-2"), b"of-tenant-2\n");
    write_tenant(
        &site,
        2,
        &format!(
            "authority = \"{}\"\nclient_secret_file = \"{}\"\n",
            thief.url,
            site.path("tenants.d/secret-2").display()
        ),
    );
    site.run(&["sync"]);
    assert!(thief.requests().contains("client_secret=of-tenant-2"), "{}", thief.requests());
}
