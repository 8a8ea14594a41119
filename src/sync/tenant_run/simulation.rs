//! Several instances share one tenant while everything goes wrong: the real plan, scopes, rule of the watermark, verdicts
//! and waits, over a model of the API, of the tables and of the lease, in an order that a seed determines.
//!
//! A failing seed is printed; `FUZZ_SEED=<seed> cargo test --lib no_fault_schedule` runs it again. More of them:
//! `PROPTEST_CASES=100000 cargo test --lib no_fault_schedule`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::TimeDelta;
use fastrand::Rng;

use super::*;
use crate::error::{Peer, Retry};
use crate::incident::paging::simulation::{
    Alone, Ceiling, Links, Order, SOURCES, STABLE, Server, time,
};
use crate::incident::paging::{Listing, PageSummary};
use crate::incident::raw::ListedVersion;
use crate::mutate::each_seed;
use crate::store::Lease;
use crate::store::runs::Outcome;
use crate::sync::engine::next_wait;
use crate::sync::retry::is_retried_within_run;
use crate::tenant::{Source, TenantId};

const MINUTE: i64 = 60_000;
const LEASE_TERM: i64 = MINUTE;
const RENEWAL: i64 = LEASE_TERM / 3;
const TRUST: i64 = LEASE_TERM / 6 * 5;
const OVERLAP: i64 = 10 * MINUTE;
const RETRIES: usize = 3;
const INSTANCES: usize = 3;

/// The tenant's rows. Every statement that writes begins with the check of the fence.
#[derive(Default)]
struct Database {
    stored: BTreeMap<i64, DateTime<Utc>>,
    watermark: Option<DateTime<Utc>>,
    gaps: Vec<Gap>,
    owner: Option<u64>,
    fence: i64,
    expires: i64,
    is_backfilled: bool,
    failures: u32,
    next_attempt: i64,
    /// The run that claimed last; nothing decides by it, the test alone looks at it.
    holder: u64,
}

impl Database {
    fn holds(&self, run: &Run, now: i64) -> bool {
        let holds = self.owner == Some(run.owner)
            && self.fence == run.claim.lease.fence
            && now < self.expires;
        assert!(!holds || self.holder == run.number, "two runs may write");
        holds
    }

    /// Answers the run's failure if the lease is another's by now.
    fn write(&mut self, run: &Run, write: &Write, now: i64) -> Result<(), SyncError> {
        if !self.holds(run, now) {
            return Err(SyncError::LeaseLost);
        }
        for row in &write.rows {
            let version = row.updated.expect("rows have times");
            let stored = self.stored.entry(row.id).or_insert(version);
            *stored = version.max(*stored);
        }
        self.watermark = self.watermark.max(write.watermark);
        Ok(())
    }
}

/// A process of the service.
struct Instance {
    name: u64,
    /// Stopped, or without its machine's time, until then.
    sleeps_until: i64,
    run: Option<Run>,
}

/// A run between two steps. What the real one awaits, this one does when its turn comes.
struct Run {
    source: Source,
    number: u64,
    owner: u64,
    claim: Claim,
    options: RunOptions,
    renewed: i64,
    trusted_until: i64,
    jobs: VecDeque<Job>,
    job: Job,
    plan: Plan,
    /// What the page that was fetched lists.
    listing: Listing,
    pages: usize,
    reached: Option<DateTime<Utc>>,
    gaps: Vec<Gap>,
    /// Gaps known when the job began.
    known_gaps: usize,
    write: Option<Write>,
    fetched: Option<Fetched>,
    tries: usize,
    write_tries: usize,
    has_new_token: bool,
    is_drained: bool,
}

#[derive(Clone)]
struct Job {
    scope: ReadScope,
    gap: Option<Gap>,
}

struct Write {
    rows: Vec<ListedVersion>,
    watermark: Option<DateTime<Utc>>,
}

enum Fetched {
    Page(PageSummary),
    Drained,
    SliceDone,
    Failed(SyncError),
}

impl Job {
    fn plan(&self, gaps: &[Gap], source: Source) -> Plan {
        self.gap
            .as_ref()
            .map_or_else(|| Plan::new(self.scope, gaps, source), |gap| Plan::of_gap(gap, source))
    }
}

impl Run {
    fn new(
        number: u64,
        owner: u64,
        claim: Claim,
        options: RunOptions,
        mut gaps: Vec<Gap>,
        source: Source,
        now: i64,
    ) -> Self {
        let mut jobs = VecDeque::new();
        if !matches!(claim.kind, RunKind::Poll | RunKind::Backfill) {
            for gap in std::mem::take(&mut gaps) {
                let scope = ReadScope {
                    from: Some(gap.from),
                    to: Some(gap.to),
                    lookback: Duration::ZERO,
                    status: None,
                };
                jobs.push_back(Job { scope, gap: Some(gap) });
            }
        }
        jobs.extend(
            options.scopes(&claim, source).into_iter().map(|scope| Job { scope, gap: None }),
        );
        let job = jobs.pop_front().expect("every run reads something");
        let (plan, known_gaps, reached) = (job.plan(&gaps, source), gaps.len(), claim.watermark);
        let (write, fetched, renewed, trusted_until) = (None, None, now, now + TRUST);
        let (pages, tries, write_tries, has_new_token, is_drained) = (0, 0, 0, false, true);
        Self {
            source,
            number,
            owner,
            claim,
            options,
            renewed,
            trusted_until,
            jobs,
            job,
            plan,
            listing: Listing::Incidents,
            pages,
            reached,
            gaps,
            known_gaps,
            write,
            fetched,
            tries,
            write_tries,
            has_new_token,
            is_drained,
        }
    }

    /// Whether the failed request is made again as it is: the model of `PageFetcher::page` and `with_retries`.
    fn tries_again(&mut self, error: &SyncError) -> bool {
        if error.diagnosis().retry == Retry::WithNewToken && !self.has_new_token {
            self.has_new_token = true;
            return true;
        }
        self.tries += 1;
        let is_searched = self.plan.is_searching() && error.smaller_page_may_help();
        self.tries <= RETRIES && is_retried_within_run(error) && !is_searched
    }

    /// Takes what was fetched; answers how the run ended if it did.
    fn take(&mut self, database: &mut Database, now: i64) -> Option<Result<(), SyncError>> {
        match self.fetched.take()? {
            Fetched::Failed(error) if self.job.gap.is_some() && error.smaller_page_may_help() => {
                self.gaps.extend(self.job.gap.take());
                // An outage: the other gaps stay as they are.
                self.gaps.extend(self.jobs.iter().filter_map(|job| job.gap.clone()));
                self.jobs.retain(|job| job.gap.is_none());
                self.next_job()
            }
            Fetched::Failed(error) => Some(Err(error)),
            Fetched::SliceDone => {
                self.is_drained = false;
                self.next_job()
            }
            Fetched::Drained => {
                if let Some(gap) = self.job.gap.take_if(|gap| {
                    self.gaps[self.known_gaps..].iter().all(|left| left.from != gap.from)
                }) {
                    if !database.holds(self, now) {
                        return Some(Err(SyncError::LeaseLost));
                    }
                    database.gaps.retain(|known| known.from != gap.from);
                }
                self.next_job()
            }
            Fetched::Page(page) => self.accept(&page, database, now).err().map(Err),
        }
    }

    fn accept(
        &mut self,
        page: &PageSummary,
        database: &mut Database,
        now: i64,
    ) -> Result<(), SyncError> {
        self.pages += 1;
        let edge = self.plan.accept(page)?;
        if let Some(gap) = self.plan.take_gap() {
            if !database.holds(self, now) {
                return Err(SyncError::LeaseLost);
            }
            database.gaps.retain(|known| known.from != gap.from);
            database.gaps.push(gap.clone());
            self.gaps.push(gap);
        }
        let scope = self.job.scope;
        let watermark = edge.filter(|edge| {
            self.options.moves_watermark(&self.claim, scope) && Some(*edge) > self.reached
        });
        // An incident without its alerts is stored, but not whole.
        let is_stored = self.listing != Listing::Versions && page.alerts_failure.is_none();
        let rows = page.rows.iter().copied().filter(|_| is_stored).collect();
        self.write = Some(Write { rows, watermark });
        if watermark.is_some()
            && self.pages >= self.options.pages_max
            && self.plan.request().is_some()
        {
            self.fetched = Some(Fetched::SliceDone);
        }
        Ok(())
    }

    fn next_job(&mut self) -> Option<Result<(), SyncError>> {
        let Some(job) = self.jobs.pop_front() else { return Some(Ok(())) };
        self.plan = job.plan(&self.gaps, self.source);
        self.job = job;
        (self.pages, self.known_gaps) = (0, self.gaps.len());
        None
    }
}

/// What goes wrong, in percent of the steps.
#[derive(Debug)]
struct Weather {
    failing_requests: usize,
    failing_commits: usize,
    lost_answers: usize,
    kills: usize,
    pauses: usize,
    changes: usize,
    refuses_upper_edge: bool,
    refuses_deep_skip: bool,
    pages_max: usize,
}

impl Weather {
    fn calm(&self) -> Self {
        Self {
            failing_requests: 0,
            failing_commits: 0,
            lost_answers: 0,
            kills: 0,
            pauses: 0,
            changes: 0,
            ..*self
        }
    }

    fn of(random: &mut Rng) -> Self {
        let mut rate = |rates: &[usize]| rates[random.usize(..rates.len())];
        Self {
            failing_requests: rate(&[0, 3, 20, 50]),
            failing_commits: rate(&[0, 5, 30]),
            lost_answers: rate(&[0, 5, 30]),
            kills: rate(&[0, 1, 5, 20]),
            pauses: rate(&[0, 1, 10]),
            changes: rate(&[0, 5, 40]),
            refuses_upper_edge: rate(&[0, 0, 0, 0, 1]) == 1,
            refuses_deep_skip: rate(&[0, 0, 0, 1]) == 1,
            pages_max: rate(&[1, 3, 50]),
        }
    }
}

struct World {
    source: Source,
    server: Server,
    database: Database,
    instances: Vec<Instance>,
    weather: Weather,
    random: Rng,
    runs: u64,
    last_failure: Option<SyncError>,
}

/// What goes wrong with Graph alone.
fn graph_faults(server: &mut Server, weather: &mut Weather, random: &mut Rng) {
    server.links = [Links::None, Links::FullPages, Links::ShortPages][random.usize(..3)];
    server.ceiling =
        [Ceiling::None, Ceiling::Refused, Ceiling::Empty, Ceiling::ShortPage][random.usize(..4)];
    server.ignores_order = random.usize(..6) == 0;
    weather.refuses_upper_edge &= !server.ignores_order;
    // A window that cannot be bounded has no place for a gap.
    for _ in 0..[0, 0, 1, 3][random.usize(..4)] {
        let alone = match weather.refuses_upper_edge {
            true => Alone::Served,
            false => [Alone::Served, Alone::WithoutAlerts, Alone::Fails][random.usize(..3)],
        };
        let id = 1 + random.usize(..server.updated.len()) as i64;
        server.unexpandable.insert(id, alone);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut weather = Weather::of(&mut random);
        let order = if random.usize(..12) == 0 {
            Order::Random
        } else {
            STABLE[random.usize(..STABLE.len())]
        };
        let incidents = [3, 60, 130, 330][random.usize(..4)] + random.usize(..20) as i64;
        let span = [1_000, 60 * MINUTE, 20 * 1_440 * MINUTE][random.usize(..3)];
        let lag = [0, 2_000, OVERLAP / 2][random.usize(..3)];
        let mut server = Server::new(order, random.u64(..), incidents, span, lag);
        server.is_lag_uneven = random.usize(..2) == 0;
        // An open-ended window cannot be read in no order or without deep skips, nor can a gap be left out of one.
        weather.refuses_upper_edge &= order != Order::Random && !weather.refuses_deep_skip;
        if random.usize(..4) == 0 && !weather.refuses_upper_edge {
            server.unservable = (0..1 + random.usize(..2))
                .map(|_| 1 + random.usize(..incidents as usize) as i64)
                .collect();
        }
        let source = SOURCES[random.usize(..SOURCES.len())];
        if source == Source::Graph {
            graph_faults(&mut server, &mut weather, &mut random);
        }
        let instances = (0..INSTANCES)
            .map(|at| Instance { name: at as u64, sleeps_until: 0, run: None })
            .collect();
        Self {
            source,
            server,
            database: Database::default(),
            instances,
            weather,
            random,
            runs: 0,
            last_failure: None,
        }
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.usize(..100) < percent
    }

    fn now(&self) -> i64 {
        self.server.now
    }

    /// One step of one instance.
    fn step(&mut self) {
        let elapsed = [0, 1, 50, 1_000, 1_000, 5_000, 25_000][self.random.usize(..7)];
        self.server.now += elapsed;
        if self.chance(self.weather.changes) {
            let changes = 1 + self.random.usize(..3);
            self.server.churn(changes);
        }
        let at = self.random.usize(..INSTANCES);
        if self.chance(self.weather.kills) {
            let name = self.random.u64(..);
            self.instances[at] = Instance { name, sleeps_until: 0, run: None };
        }
        if self.instances[at].sleeps_until > self.now() {
            return;
        }
        if self.chance(self.weather.pauses) {
            self.instances[at].sleeps_until =
                self.now() + [10, 50, 61, 300][self.random.usize(..4)] * 1_000;
        }
        self.go_on(at);
    }

    fn go_on(&mut self, at: usize) {
        let Some(mut run) = self.instances[at].run.take() else { return self.claim(at) };
        self.renew(&mut run);
        // Who wakes up takes one step before he looks at his clock.
        let was_trusted = self.now() < run.trusted_until;
        let ended = match (&run.write, &run.fetched) {
            (Some(_), Some(_)) => self.store(&mut run),
            (Some(_), None) if self.chance(50) => self.store(&mut run),
            (_, None) => self.fetch(&mut run),
            (None, Some(_)) => run.take(&mut self.database, self.server.now),
        };
        let ended = ended.or_else(|| (!was_trusted).then_some(Err(SyncError::LeaseLost)));
        match ended {
            None => self.instances[at].run = Some(run),
            Some(ended) => self.finish(&run, ended.err().as_ref()),
        }
    }

    fn renew(&mut self, run: &mut Run) {
        let now = self.now();
        if now - run.renewed >= RENEWAL
            && self.database.owner == Some(run.owner)
            && self.database.expires >= now
        {
            self.database.expires = now + LEASE_TERM;
            (run.renewed, run.trusted_until) = (now, now + TRUST);
        }
    }

    fn claim(&mut self, at: usize) {
        let kinds = [(RunKind::Poll, SyncMode::Incremental); 4];
        let others = [
            (RunKind::Open, SyncMode::Incremental),
            (RunKind::Reconcile, SyncMode::Incremental),
            (RunKind::Manual, SyncMode::Incremental),
            (RunKind::Manual, SyncMode::Full),
            (
                RunKind::Manual,
                SyncMode::Since(time(self.random.usize(..self.server.now as usize) as i64)),
            ),
        ];
        let choices = [&kinds[..], &others[..]].concat();
        let (kind, mode) = choices[self.random.usize(..choices.len())];
        // Of Graph only gaps are read then.
        let kind = match kind {
            RunKind::Open if self.source == Source::Graph => RunKind::Reconcile,
            kind => kind,
        };
        self.claim_for(at, kind, mode);
    }

    fn claim_for(&mut self, at: usize, kind: RunKind, mode: SyncMode) {
        let (now, database) = (self.server.now, &mut self.database);
        if database.owner.is_some() && now <= database.expires || now < database.next_attempt {
            return;
        }
        self.runs += 1;
        let owner = self.instances[at].name;
        (database.owner, database.expires, database.holder) =
            (Some(owner), now + LEASE_TERM, self.runs);
        database.fence += 1;
        // A person's run may come before the first sync, a scheduled one may not.
        let kind = if database.is_backfilled || kind == RunKind::Manual {
            kind
        } else {
            RunKind::Backfill
        };
        let claim = Claim {
            lease: Lease { tenant: TenantId(uuid::Uuid::from_u128(1)), fence: database.fence },
            watermark: database.watermark,
            is_backfilled: database.is_backfilled,
            source: Source::Defender,
            source_since: None,
            consecutive_failures: database.failures,
            lateness: Duration::ZERO,
            claimed_at: time(now),
            kind,
        };
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let options = RunOptions {
            overlap: Duration::from_millis(OVERLAP as u64),
            overlap_min: Duration::from_millis(OVERLAP as u64),
            recheck: Duration::from_secs(6 * 3600),
            lookback: days(180),
            reconcile: days(7),
            mode,
            pages_max: if kind == RunKind::Manual { usize::MAX } else { self.weather.pages_max },
        };
        let run =
            Run::new(self.runs, owner, claim, options, database.gaps.clone(), self.source, now);
        self.instances[at].run = Some(run);
    }

    /// The model of `PageFetcher::next`.
    fn fetch(&mut self, run: &mut Run) -> Option<Result<(), SyncError>> {
        let Some(request) = run.plan.request() else {
            run.fetched = Some(Fetched::Drained);
            return None;
        };
        let is_refused = self.weather.refuses_upper_edge && request.window.to.is_some()
            || self.server.refuses(&request)
            || self.weather.refuses_deep_skip && request.skip > 150;
        let answer = if self.chance(self.weather.failing_requests) {
            Err(self.failure())
        } else if is_refused {
            Err(api(400, None))
        } else {
            self.server.page(&request).ok_or_else(|| api(500, None))
        };
        let error = match answer {
            Ok(page) => {
                run.listing = request.listing;
                run.tries = 0;
                run.fetched = Some(Fetched::Page(page));
                return None;
            }
            Err(error) => error,
        };
        if run.tries_again(&error) {
            return None;
        }
        run.tries = 0;
        let is_asked_otherwise = match &error {
            SyncError::Api { status: 400, .. } => run.plan.refused(),
            error => error.smaller_page_may_help() && run.plan.failed(error),
        };
        if !is_asked_otherwise {
            run.fetched = Some(Fetched::Failed(error));
        }
        None
    }

    fn failure(&mut self) -> SyncError {
        let peer = [Peer::Entra, Peer::Defender][self.random.usize(..2)];
        let seconds = [0, 1, 29, 31, 3_600][self.random.usize(..5)];
        match self.random.usize(..10) {
            0 => api(429, Some(seconds)),
            1 => api(503, Some(seconds)),
            2 => api(401, None),
            3 => api(403, None),
            4 => SyncError::Timeout { peer },
            5 => SyncError::Transport { peer, what: String::new(), fault: None },
            6 => SyncError::ApiReply { api: Source::Defender, what: String::new() },
            7 => SyncError::BodyTooLarge { peer: Peer::Defender, bytes_max: 0 },
            _ => api([408, 500, 502, 503][self.random.usize(..4)], None),
        }
    }

    fn store(&mut self, run: &mut Run) -> Option<Result<(), SyncError>> {
        let write = run.write.take()?;
        let fails = self.chance(self.weather.failing_commits);
        let before = self.database.watermark;
        if !fails && let Err(error) = self.database.write(run, &write, self.server.now) {
            return Some(Err(error));
        }
        if self.database.watermark != before {
            self.check_watermark(before);
        }
        if !fails && !self.chance(self.weather.lost_answers) {
            run.reached = write.watermark.or(run.reached);
            run.write_tries = 0;
            return None;
        }
        let error = SyncError::Database {
            step: "writing a page",
            sqlstate: None,
            what: String::new(),
            fault: None,
        };
        run.write_tries += 1;
        run.write = Some(write);
        (run.write_tries > RETRIES || !is_retried_within_run(&error)).then_some(Err(error))
    }

    /// The model of `Engine::record` and `finish_run.sql`.
    fn finish(&mut self, run: &Run, failure: Option<&SyncError>) {
        if !self.database.holds(run, self.server.now) || self.chance(self.weather.lost_answers / 3)
        {
            return;
        }
        self.last_failure = failure.cloned();
        let diagnosis = failure.map(SyncError::diagnosis);
        let outcome = diagnosis.as_ref().map_or(Outcome::Ok, Outcome::of);
        let wait = diagnosis
            .as_ref()
            .and_then(|diagnosis| next_wait(diagnosis, outcome, &run.claim))
            .unwrap_or_default();
        let is_news = matches!(run.claim.kind, RunKind::Poll | RunKind::Backfill | RunKind::Manual)
            && matches!(run.options.mode, SyncMode::Incremental | SyncMode::Full);
        let database = &mut self.database;
        database.next_attempt = self.server.now + i64::try_from(wait.as_millis()).unwrap();
        database.failures = if failure.is_some() { database.failures + 1 } else { 0 };
        database.is_backfilled |= failure.is_none() && run.is_drained && is_news;
        database.owner = None;
    }

    /// The watermark goes forward only, and every version that is current and older than it is stored or lies in a known
    /// gap. What the API may list late is looked for in the overlap.
    fn check_watermark(&self, before: Option<DateTime<Utc>>) {
        let database = &self.database;
        assert!(database.watermark > before, "the watermark went back");
        let listed = database
            .watermark
            .map(|watermark| watermark - TimeDelta::milliseconds(self.server.lag));
        for (id, updated) in &self.server.updated {
            let updated = time(*updated);
            let is_in_a_gap =
                database.gaps.iter().any(|gap| gap.from <= updated && updated < gap.to);
            if Some(updated) < listed && !is_in_a_gap {
                assert_eq!(
                    database.stored.get(id),
                    Some(&updated),
                    "incident {id} is missing below the watermark"
                );
            }
        }
    }

    /// Nothing goes wrong any more: how many runs does it take until the tables hold what the API has?
    fn settle(&mut self) -> usize {
        self.weather = self.weather.calm();
        self.server.unservable.clear();
        self.server.unexpandable.clear();
        self.server.now += OVERLAP;
        for runs in 0..60 {
            let truth = self.server.updated.iter().map(|(id, updated)| (*id, time(*updated)));
            if self.database.is_backfilled
                && self.database.gaps.is_empty()
                && truth.eq(self.database.stored.clone())
            {
                return runs;
            }
            self.server.now = (self.server.now + 2 * LEASE_TERM).max(self.database.next_attempt);
            self.instances =
                vec![Instance { name: self.random.u64(..), sleeps_until: 0, run: None }];
            let kind =
                if self.database.gaps.is_empty() { RunKind::Poll } else { RunKind::Reconcile };
            self.claim_for(0, kind, SyncMode::Incremental);
            assert!(self.instances[0].run.is_some(), "the tenant cannot be claimed");
            while self.instances[0].run.is_some() {
                self.go_on(0);
            }
        }
        let (server, database) = (&self.server, &self.database);
        let missing: Vec<_> = server
            .updated
            .iter()
            .filter(|(id, at)| database.stored.get(id) != Some(&time(**at)))
            .take(5)
            .collect();
        panic!(
            "the tables never come to hold what the API has: {:?} {:?}, {missing:?} of {}, watermark {:?}, {:?}, last {:?}",
            server.order,
            self.weather,
            server.updated.len(),
            database.watermark,
            database.gaps,
            self.last_failure,
        );
    }
}

fn api(status: u16, seconds: Option<u64>) -> SyncError {
    SyncError::of_status(status, seconds.map(Duration::from_secs))
}

#[test]
fn any_fault_schedule_keeps_rows_and_watermark() {
    let (mut schedules, mut runs, mut most) = (0, 0, 0);
    each_seed(2_000, |seed| {
        let mut world = World::new(seed);
        for _ in 0..120 {
            world.step();
        }
        most = most.max(world.settle());
        runs += world.runs;
        schedules += 1;
    });
    println!("{schedules} schedules with {runs} runs; calm weather needed at most {most} runs");
}

#[test]
fn run_after_overlap_start_keeps_the_watermark() {
    let mut world = World::new(1);
    world.database.watermark = Some(time(90 * MINUTE));
    let moves = |world: &mut World, mode| {
        (world.database.owner, world.server.now) = (None, world.server.now + MINUTE);
        world.claim_for(0, RunKind::Manual, mode);
        let run = world.instances[0].run.take().expect("no other instance has the tenant");
        run.options.moves_watermark(&run.claim, run.job.scope)
    };
    for mode in [
        SyncMode::Incremental,
        SyncMode::Full,
        SyncMode::Since(time(80 * MINUTE)),
        SyncMode::Since(time(0)),
    ] {
        assert!(moves(&mut world, mode), "{mode:?}");
    }
    for mode in [
        SyncMode::Since(time(80 * MINUTE + 1)),
        SyncMode::Since(time(90 * MINUTE)),
        SyncMode::Since(time(100 * MINUTE)),
    ] {
        assert!(!moves(&mut world, mode), "{mode:?}");
    }
}
