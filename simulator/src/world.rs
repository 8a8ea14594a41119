//! The state that tests, the demo and the HTTP handlers share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::Clock;
use super::assertion::{self, Issuer, Jwt, Registered, RejectReason};
use super::json::Object;
use super::source::{Roles, Source};
use super::store::{Form, Incident};
use super::tenant::{Behaviour, Poison, Tenant, TenantSpec};
use super::time;

/// The state of the simulated service. Clones are handles to the same world.
///
/// Methods with a tenant panic if it was not added: a wrong id in a test must not look like an empty tenant.
#[derive(Debug, Clone)]
pub struct World(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Mutex<Time>,
    client_secret: Mutex<String>,
    /// Expired secrets.
    expired_secrets: Mutex<HashSet<String>>,
    certificates: Mutex<Vec<Registered>>,
    issuers: Mutex<Vec<Arc<Issuer>>>,
    /// Managed identities by client id.
    identities: Mutex<HashMap<String, Arc<Issuer>>>,
    identity_requests: AtomicUsize,
    /// The `jti` of each assertion, which is valid once.
    assertions: Mutex<HashSet<String>>,
    /// Each tenant has its own lock, because tenants of the service do not wait for each other.
    tenants: RwLock<HashMap<Uuid, Arc<Mutex<Tenant>>>>,
    tokens: Mutex<HashMap<String, Issued>>,
    /// The permissions in the app registration, which a consent grants.
    registered: Mutex<Roles>,
    /// The resources that tokens are issued for; all if `None`.
    resources: Mutex<Option<Vec<String>>>,
    /// The status of a retired API's responses.
    retired: Mutex<HashMap<Source, u16>>,
}

#[derive(Debug)]
enum Time {
    /// The machine's clock and its offset.
    Real(TimeDelta),
    Manual(DateTime<Utc>),
}

/// An issued token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issued {
    pub(super) tenant: Uuid,
    pub(super) expires: DateTime<Utc>,
    pub(super) revoked: bool,
    pub(super) roles: Roles,
}

/// How long an expired token is kept, so that calls with it appear in their tenant's log.
const TOKEN_REMEMBERED: TimeDelta = TimeDelta::days(1);

impl World {
    pub(super) fn new(clock: Clock, client_secret: String) -> Self {
        Self(Arc::new(Inner {
            clock: Mutex::new(match clock {
                Clock::Real => Time::Real(TimeDelta::zero()),
                Clock::Manual(now) => Time::Manual(time::to_ticks(now)),
            }),
            client_secret: Mutex::new(client_secret),
            expired_secrets: Mutex::default(),
            certificates: Mutex::default(),
            issuers: Mutex::default(),
            identities: Mutex::default(),
            identity_requests: AtomicUsize::new(0),
            assertions: Mutex::default(),
            tenants: RwLock::default(),
            tokens: Mutex::default(),
            registered: Mutex::new(Roles::BOTH),
            resources: Mutex::default(),
            retired: Mutex::default(),
        }))
    }

    /// The service's time.
    #[expect(
        clippy::disallowed_methods,
        reason = "this server owns its clock; its clients read the Date header"
    )]
    pub fn now(&self) -> DateTime<Utc> {
        match *lock(&self.0.clock) {
            Time::Real(advanced) => time::to_ticks(Utc::now() + advanced),
            Time::Manual(now) => now,
        }
    }

    /// Advances the clock; the only way to change a manual one.
    pub fn advance(&self, by: Duration) {
        match &mut *lock(&self.0.clock) {
            Time::Real(advanced) => *advanced += time::delta(by),
            Time::Manual(now) => *now = time::to_ticks(*now + time::delta(by)),
        }
        let now = self.now();
        for tenant in self.tenants() {
            self.with(tenant, |tenant| tenant.listed_from.retain(|_, from| *from > now));
        }
    }

    /// Hides an incident until the clock was advanced so far: the index of the service lags behind its data.
    pub fn list_late(&self, tenant: Uuid, id: i64, by: Duration) {
        let from = self.now() + time::delta(by);
        self.with(tenant, |tenant| tenant.listed_from.insert(id, from));
    }

    /// Adds a tenant with its seeded incidents, or replaces the one with this id.
    pub fn add_tenant(&self, spec: TenantSpec) {
        let id = spec.id;
        let tenant = Arc::new(Mutex::new(Tenant::new(spec, self.now())));
        let mut tenants = self.0.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.insert(id, tenant);
    }

    /// All tenants, by id.
    pub fn tenants(&self) -> Vec<Uuid> {
        let tenants = self.0.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<Uuid> = tenants.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Sets the faults of a tenant.
    pub fn set_behaviour(&self, tenant: Uuid, behaviour: Behaviour) {
        self.with(tenant, |tenant| tenant.spec.behaviour = behaviour);
    }

    /// Makes every response that would contain this incident a 500.
    pub fn poison(&self, tenant: Uuid, id: i64) {
        self.with(tenant, |tenant| tenant.poison.insert(id, Poison::Everything));
    }

    /// Removes the faults of all incidents of the tenant.
    pub fn heal(&self, tenant: Uuid) {
        self.with(tenant, |tenant| tenant.poison.clear());
    }

    /// Replaces the secret of the application; issued tokens remain valid.
    pub fn set_client_secret(&self, secret: &str) {
        secret.clone_into(&mut lock(&self.0.client_secret));
    }

    /// Replaces the secret of the application, whose previous one has expired; issued tokens remain valid.
    pub fn expire_client_secret(&self, replacement: &str) {
        let expired = std::mem::replace(&mut *lock(&self.0.client_secret), replacement.to_owned());
        lock(&self.0.expired_secrets).insert(expired);
    }

    /// Uploads a certificate, in DER, to the app registration.
    pub fn register_certificate(&self, der: &[u8]) {
        lock(&self.0.certificates).push(Registered::new(der));
    }

    /// Refuses a registered certificate with this code, such as 7000214 for a revoked one.
    pub fn refuse_certificate(&self, der: &[u8], code: u32) {
        for certificate in &mut *lock(&self.0.certificates) {
            if certificate.is(der) {
                certificate.refuse(code);
            }
        }
    }

    /// Limits the resources that tokens are issued for; Entra answers AADSTS500011 for every other one.
    pub fn set_resources(&self, resources: &[&str]) {
        let resources = resources.iter().map(|resource| (*resource).to_owned()).collect();
        *lock(&self.0.resources) = Some(resources);
    }

    pub(super) fn knows_resource(&self, resource: &str) -> bool {
        let resources = lock(&self.0.resources);
        resources.as_ref().is_none_or(|resources| resources.iter().any(|known| known == resource))
    }

    /// Removes all certificates from the app registration.
    pub fn remove_certificates(&self) {
        lock(&self.0.certificates).clear();
    }

    /// Adds a federated credential to the app registration and returns its issuer.
    pub fn trust_issuer(&self, issuer: &str, subject: &str) -> Arc<Issuer> {
        let issuer = Arc::new(Issuer::new(issuer, subject));
        lock(&self.0.issuers).push(Arc::clone(&issuer));
        issuer
    }

    /// Assigns a managed identity to this machine, which the app registration trusts.
    pub fn assign_identity(&self, client_id: &str) {
        let home = Uuid::new_v4();
        let issuer =
            self.trust_issuer(&format!("https://login.microsoftonline.com/{home}/v2.0"), client_id);
        lock(&self.0.identities).insert(client_id.to_owned(), issuer);
    }

    /// The number of requests for an assertion of a managed identity.
    pub fn identity_requests(&self) -> usize {
        self.0.identity_requests.load(Ordering::Relaxed)
    }

    /// Adds or replaces an incident with this text, valid or not.
    pub fn add_raw(&self, tenant: Uuid, id: i64, last_update_time: DateTime<Utc>, raw: &str) {
        let incident = Incident::new(last_update_time, raw);
        self.with(tenant, |tenant| tenant.store.put(id, incident));
    }

    /// Adds the incidents of a documented list response, with unchanged texts.
    pub fn add_documented_sample(&self, tenant: Uuid, json: &str) {
        let list = Object::parse(json.as_bytes()).expect("a list answer is an object");
        for incident in list.objects("value") {
            let id = incident.get("incidentId").expect("a documented incident has an id");
            let updated: String =
                incident.get("lastUpdateTime").expect("a documented incident has a time");
            let updated = time::parse(&updated).expect("a documented time ends in Z");
            self.add_raw(tenant, id, updated, &incident.to_text());
        }
    }

    /// Adds an incident, created now; returns its id.
    pub fn create(&self, tenant: Uuid) -> i64 {
        self.change(tenant, Tenant::create)
    }

    /// Changes something visible of an incident and sets `lastUpdateTime` to now, or slightly later if it changed at this instant
    /// before. `false` if the incident is unknown or unreadable.
    pub fn update(&self, tenant: Uuid, id: i64) -> bool {
        self.change(tenant, |tenant, now| tenant.update(id, now))
    }

    /// Updates an incident that is not merged; returns its id, or `None` if there is none.
    pub fn update_random(&self, tenant: Uuid) -> Option<i64> {
        self.change(tenant, Tenant::update_random)
    }

    /// Closes an incident and its alerts.
    pub fn resolve(&self, tenant: Uuid, id: i64) -> bool {
        self.change(tenant, |tenant, now| tenant.resolve(id, now))
    }

    /// Merges an incident into another one.
    pub fn merge(&self, tenant: Uuid, source: i64, target: i64) -> bool {
        self.change(tenant, |tenant, now| tenant.merge(source, target, now))
    }

    /// Moves one alert to another incident.
    pub fn move_alert(&self, tenant: Uuid, alert_id: &str, from: i64, to: i64) -> bool {
        self.change(tenant, |tenant, now| tenant.move_alert(alert_id, from, to, now))
    }

    /// Changes an alert but not the `lastUpdateTime` of its incident. `false` if there is no alert.
    pub fn touch_alert_only(&self, tenant: Uuid, id: i64) -> bool {
        self.change(tenant, |tenant, now| tenant.touch_alert_only(id, now))
    }

    /// Makes random changes of all kinds, determined by the seed.
    pub fn live(&self, tenant: Uuid, steps: usize) {
        self.change(tenant, |tenant, now| {
            (0..steps).for_each(|_| tenant.live(now));
        });
    }

    /// The current version of every incident that is JSON, by id.
    pub fn truth(&self, tenant: Uuid) -> Vec<Value> {
        let texts = self.truth_raw(tenant);
        texts.values().filter_map(|text| serde_json::from_str(text).ok()).collect()
    }

    /// The current text of every incident in Defender's schema.
    pub fn truth_raw(&self, tenant: Uuid) -> BTreeMap<i64, String> {
        let texts: Vec<_> = self.with(tenant, |tenant| {
            let kept = tenant.store.iter().filter(|(_, incident)| incident.form == Form::Defender);
            kept.map(|(id, incident)| (id, incident.text.clone())).collect()
        });
        texts
            .into_iter()
            .map(|(id, text)| (id, String::from_utf8_lossy(&text).into_owned()))
            .collect()
    }

    /// The `lastUpdateTime` of every incident's current version.
    pub fn versions(&self, tenant: Uuid) -> BTreeMap<i64, DateTime<Utc>> {
        self.with(tenant, |tenant| {
            tenant.store.iter().map(|(id, incident)| (id, incident.updated)).collect()
        })
    }

    /// Sets the permissions in the app registration, which every later consent grants.
    pub fn set_registered(&self, sources: &[Source]) {
        *lock(&self.0.registered) = Roles::of(sources);
    }

    pub(super) fn registered(&self) -> Roles {
        *lock(&self.0.registered)
    }

    /// Makes the API respond to every tenant with this status; `None` makes it work again.
    pub fn retire(&self, source: Source, status: Option<u16>) {
        let mut retired = lock(&self.0.retired);
        match status {
            Some(status) => retired.insert(source, status),
            None => retired.remove(&source),
        };
    }

    pub(super) fn retired(&self, source: Source) -> Option<u16> {
        lock(&self.0.retired).get(&source).copied()
    }

    /// Makes the random updates after a page.
    pub(super) fn stir(&self, tenant: Uuid) {
        self.change(tenant, |tenant, now| {
            for _ in 0..tenant.churn {
                tenant.update_random(now);
            }
        });
    }

    pub(super) fn has_tenant(&self, tenant: Uuid) -> bool {
        let tenants = self.0.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.contains_key(&tenant)
    }

    pub(super) fn is_client_secret(&self, secret: &str) -> bool {
        *lock(&self.0.client_secret) == secret
    }

    pub(super) fn is_expired_secret(&self, secret: &str) -> bool {
        lock(&self.0.expired_secrets).contains(secret)
    }

    pub(super) fn identity(&self, client_id: &str) -> Option<Arc<Issuer>> {
        self.0.identity_requests.fetch_add(1, Ordering::Relaxed);
        lock(&self.0.identities).get(client_id).map(Arc::clone)
    }

    /// Verifies an assertion of the application for this token endpoint.
    pub(super) fn check_assertion(
        &self,
        text: &str,
        client_id: &str,
        endpoint: &str,
    ) -> Result<(), RejectReason> {
        let jwt = Jwt::parse(text).ok_or((50_027, "JWT token is invalid or malformed."))?;
        let now = self.now().timestamp();
        if !jwt.is_own() {
            return assertion::by_issuer(&jwt, &lock(&self.0.issuers), now);
        }
        let jti =
            assertion::by_certificate(&jwt, &lock(&self.0.certificates), client_id, endpoint, now)?;
        let is_new = lock(&self.0.assertions).insert(jti);
        if is_new { Ok(()) } else { Err((50_027, "The assertion was used before.")) }
    }

    pub(super) fn remember(&self, token: String, issued: Issued) {
        let now = self.now();
        let mut tokens = lock(&self.0.tokens);
        tokens.retain(|_, issued| issued.expires + TOKEN_REMEMBERED > now);
        tokens.insert(token, issued);
    }

    pub(super) fn issued(&self, token: &str) -> Option<Issued> {
        lock(&self.0.tokens).get(token).copied()
    }

    pub(super) fn revoke_tokens(&self, tenant: Uuid) {
        let mut tokens = lock(&self.0.tokens);
        tokens
            .values_mut()
            .filter(|issued| issued.tenant == tenant)
            .for_each(|issued| issued.revoked = true);
    }

    fn change<T>(&self, tenant: Uuid, change: impl FnOnce(&mut Tenant, DateTime<Utc>) -> T) -> T {
        let now = self.now();
        self.with(tenant, |tenant| change(tenant, now))
    }

    pub(super) fn with<T>(&self, tenant: Uuid, work: impl FnOnce(&mut Tenant) -> T) -> T {
        let state = {
            let tenants = self.0.tenants.read().unwrap_or_else(PoisonError::into_inner);
            tenants.get(&tenant).map(Arc::clone)
        };
        let state = state.unwrap_or_else(|| panic!("the simulator has no tenant {tenant}"));
        work(&mut lock(&state))
    }
}

/// Ignores poisoning: the panic of a test must not be hidden by errors about its lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
