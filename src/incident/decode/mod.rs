//! Microsoft's words letter by letter: a page split into raw incidents, and each incident decoded alone.
//!
//! Decoding is lenient. A field that is missing, null or of another type becomes `None`; the latter is also named in
//! `mistyped`. Unknown fields are skipped, those of an entity are kept. Only text that is no JSON object at all fails.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Datelike, NaiveDateTime, SubsecRound, TimeZone, Timelike, Utc};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A page of incidents, each still as text.
#[derive(Debug)]
pub struct Page<'a> {
    /// The incidents in the order served.
    pub incidents: Vec<&'a RawValue>,
    /// The server's continuation, if it sent one.
    pub next_link: Option<Cow<'a, str>>,
}

/// Splits a page without decoding its incidents. Fails with what is wrong when the text is no page.
pub fn split(text: &str) -> Result<Page<'_>, String> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        value: Option<Listed<'a>>,
        #[serde(borrow, rename = "@odata.nextLink")]
        next_link: Option<Cow<'a, str>>,
    }
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if !text.starts_with('{') {
        return Err("it is not a JSON object".to_owned());
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|error| without_content(&error))?;
    let Listed(incidents) = envelope.value.ok_or("it has no list named value")?;
    Ok(Page { incidents, next_link: envelope.next_link })
}

/// A hundred times what the API lists on a page. Of more, the places alone would take many times the memory of the text.
const LISTED_MAX: usize = 10_000;

/// The list of a page.
struct Listed<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Listed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Listed<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {LISTED_MAX} incidents")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut incidents = Vec::new();
                while let Some(incident) = list.next_element()? {
                    if incidents.len() == LISTED_MAX {
                        return Err(A::Error::invalid_length(incidents.len() + 1, &self));
                    }
                    incidents.push(incident);
                }
                Ok(Listed(incidents))
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

/// Numbers of one incident may take so many digits more than their text: Postgres keeps `1e308` as 309 digits, and can show no
/// row that is larger than a gigabyte.
const DIGITS_ADDED_MAX: u64 = 1_000_000;
/// An object of three bytes becomes a row of a kilobyte.
const OBJECTS_MAX: usize = 100_000;
/// A value of two bytes becomes a field of forty.
const VALUES_MAX: usize = 2_000_000;

/// Why an incident would outgrow its text; an exported row must be readable, by us too.
pub fn check_growth(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    let (mut at, mut digits, mut objects, mut values) = (0, 0, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let rest = bytes[at..].iter();
                let length = rest
                    .take_while(|byte| {
                        matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
                    })
                    .count();
                digits += digits_added(&text[at..at + length])?;
                at += length - 1;
            }
            b'{' => objects += 1,
            b',' => values += 1,
            _ => {}
        }
        at += 1;
    }
    match (digits, objects, values) {
        (DIGITS_ADDED_MAX.., ..) => {
            Err(format!("its numbers have more than {DIGITS_ADDED_MAX} digits when written out"))
        }
        (_, OBJECTS_MAX.., _) => Err(format!("it holds more than {OBJECTS_MAX} objects")),
        (.., VALUES_MAX..) => Err(format!("it holds more than {VALUES_MAX} values")),
        _ => Ok(()),
    }
}

/// The place of the quote that ends a string.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at;
        }
        at += 2;
    }
    bytes.len()
}

/// How many digits a number has more when it is written out.
fn digits_added(number: &str) -> Result<u64, String> {
    /// A longer one is no `f64` unless most of it is a fraction.
    const SHORT: usize = 300;
    let exponent = number.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    if (exponent.is_some() || number.len() > SHORT) && !number.parse().is_ok_and(f64::is_finite) {
        return Err("it holds a number that is too large".to_owned());
    }
    let exponent = exponent.map_or(Ok(0), str::parse::<i64>);
    exponent
        .map(i64::unsigned_abs)
        .map_err(|_| "it holds a number with an exponent that is too large".to_owned())
}

/// serde's messages may quote the value; the position is enough to find it in the quarantined text.
fn without_content(error: &serde_json::Error) -> String {
    format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())
}

/// The text of an incident with what Postgres cannot store replaced by U+FFFD: `\u0000` and lone surrogates.
pub fn storable(raw: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memmem::find(raw.as_bytes(), b"\\u") else {
        return Cow::Borrowed(raw);
    };
    let mut clean = String::new();
    let mut copied = 0;
    let mut at = first.saturating_sub(preceding_backslashes(raw, first));
    while let Some(found) = memchr::memchr(b'\\', &raw.as_bytes()[at..]) {
        at += found;
        let width = match escape_at(raw, at) {
            Escape::Fine { width } => width,
            Escape::Unstorable { width } => {
                clean.push_str(&raw[copied..at]);
                clean.push_str("\\ufffd");
                copied = at + width;
                width
            }
        };
        at = (at + width).min(raw.len());
    }
    if copied == 0 {
        return Cow::Borrowed(raw);
    }
    clean.push_str(&raw[copied..]);
    Cow::Owned(clean)
}

fn preceding_backslashes(raw: &str, at: usize) -> usize {
    raw.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count()
}

enum Escape {
    Fine { width: usize },
    Unstorable { width: usize },
}

fn escape_at(raw: &str, at: usize) -> Escape {
    let unit = |at: usize| {
        let digits = raw.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    match unit(at) {
        Some(0 | 0xdc00..=0xdfff) => Escape::Unstorable { width: 6 },
        Some(0xd800..=0xdbff) => match unit(at + 6) {
            Some(0xdc00..=0xdfff) => Escape::Fine { width: 12 },
            _ => Escape::Unstorable { width: 6 },
        },
        Some(_) => Escape::Fine { width: 6 },
        None => Escape::Fine { width: 2 },
    }
}

/// Decodes one incident from its storable text.
pub fn decode(text: &str) -> Result<Incident<'_>, String> {
    let incident: Lenient<Incident<'_>> =
        serde_json::from_str(text).map_err(|error| without_content(&error))?;
    match incident {
        Lenient::Value(incident) => Ok(incident),
        Lenient::Null | Lenient::Mistyped => Err("it is not a JSON object".to_owned()),
    }
}

/// A value of the wanted type, or word that it was not there or something else.
enum Lenient<T> {
    Value(T),
    Null,
    Mistyped,
}

/// What a type makes of each kind of JSON value; the defaults refuse it.
trait FromJson<'de>: Sized {
    fn from_text(_: Cow<'de, str>) -> Option<Self> {
        None
    }
    fn from_integer(_: i64) -> Option<Self> {
        None
    }
    fn from_float(_: f64) -> Option<Self> {
        None
    }
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<'de, T: FromJson<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(PhantomData))
    }
}

struct LenientVisitor<T>(PhantomData<T>);

fn lenient<T>(value: Option<T>) -> Lenient<T> {
    value.map_or(Lenient::Mistyped, Lenient::Value)
}

impl<'de, T: FromJson<'de>> Visitor<'de> for LenientVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Null)
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(lenient(T::from_text(Cow::Borrowed(text))))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(lenient(T::from_text(Cow::Owned(text.to_owned()))))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(lenient(T::from_integer(number)))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(lenient(i64::try_from(number).ok().and_then(T::from_integer)))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(lenient(T::from_float(number)))
    }
    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(lenient(T::from_bool(truth)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::from_list(list).map(lenient)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::from_object(object).map(lenient)
    }
}

/// Text; numbers and booleans are taken as they are written.
impl<'de> FromJson<'de> for Cow<'de, str> {
    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
    fn from_integer(number: i64) -> Option<Self> {
        Some(Cow::Owned(number.to_string()))
    }
    fn from_float(number: f64) -> Option<Self> {
        Some(Cow::Owned(number.to_string()))
    }
    fn from_bool(truth: bool) -> Option<Self> {
        Some(Cow::Owned(truth.to_string()))
    }
}

/// Whole numbers, also as text or with a fraction of zero.
impl FromJson<'_> for i64 {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        text.trim().parse().ok()
    }
    fn from_integer(number: i64) -> Option<Self> {
        Some(number)
    }
    #[expect(clippy::cast_possible_truncation, reason = "guarded by the round trip")]
    fn from_float(number: f64) -> Option<Self> {
        let whole = number as Self;
        // 2^53 bounds what a double holds exactly.
        (number.abs() < 9_007_199_254_740_992.0 && whole as f64 == number).then_some(whole)
    }
}

/// A time of the API, truncated down to what Postgres keeps. .NET's year 0001 means "none", as do impossible dates.
impl FromJson<'_> for DateTime<Utc> {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        time(&text)
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let parsed = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.with_timezone(&Utc),
        // No zone was never seen; UTC is the only zone that the API speaks.
        Err(_) => Utc
            .from_utc_datetime(&NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?),
    };
    // A leap second would become the next second in Postgres, later than it was served, and then look changed for ever.
    let parsed = parsed.with_nanosecond(parsed.nanosecond().min(999_999_999))?;
    (2..=9999).contains(&parsed.year()).then(|| parsed.trunc_subsecs(6))
}

/// A list; elements of another type are left out.
impl<'de, T: FromJson<'de>> FromJson<'de> for Vec<T> {
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Self::new();
        while let Some(element) = list.next_element::<Lenient<T>>()? {
            if let Lenient::Value(element) = element {
                elements.push(element);
            }
        }
        Ok(Some(elements))
    }
}

/// Defines an object of the API: its fields by their JSON names, each optional, the last of a repeated key winning.
macro_rules! wire_object {
    ($(#[$about:meta])* $name:ident { $($field:ident: $kind:ty = $key:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $name<'a> {
            $(#[doc = concat!("`", $key, "`")] pub $field: Option<$kind>,)*
            /// Keys that are not known here, with their JSON text.
            pub unknown: Vec<(Cow<'a, str>, &'a RawValue)>,
            /// Known keys whose value had another type.
            pub mistyped: Vec<&'static str>,
        }

        impl<'de> FromJson<'de> for $name<'de> {
            fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
                let mut decoded = Self::default();
                while let Some(key) = object.next_key::<Key<'de>>()? {
                    match key.0.as_ref() {
                        $($key => decoded.$field = match object.next_value::<Lenient<_>>()? {
                            Lenient::Value(value) => Some(value),
                            Lenient::Null => None,
                            Lenient::Mistyped => {
                                decoded.mistyped.push($key);
                                None
                            }
                        },)*
                        _ => decoded.unknown.push((key.0, object.next_value()?)),
                    }
                }
                Ok(Some(decoded))
            }
        }
    };
}

/// A key, borrowed from the text where it holds no escape.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

wire_object! {
    /// An incident. Source: `MicrosoftDocs/defender-docs`, `api-list-incidents.md` and `api-incident.md`.
    Incident {
        incident_id: i64 = "incidentId",
        incident_uri: Cow<'a, str> = "incidentUri",
        redirect_incident_id: i64 = "redirectIncidentId",
        incident_name: Cow<'a, str> = "incidentName",
        created_time: DateTime<Utc> = "createdTime",
        last_update_time: DateTime<Utc> = "lastUpdateTime",
        assigned_to: Cow<'a, str> = "assignedTo",
        classification: Cow<'a, str> = "classification",
        determination: Cow<'a, str> = "determination",
        status: Cow<'a, str> = "status",
        severity: Cow<'a, str> = "severity",
        detection_source: Cow<'a, str> = "detectionSource",
        tags: Vec<Cow<'a, str>> = "tags",
        comments: Vec<Comment<'a>> = "comments",
        alerts: Vec<Alert<'a>> = "alerts",
    }
}

wire_object! {
    /// A comment of an incident.
    Comment {
        comment: Cow<'a, str> = "comment",
        created_by: Cow<'a, str> = "createdBy",
        created_time: DateTime<Utc> = "createdTime",
    }
}

wire_object! {
    /// An alert of an incident.
    Alert {
        alert_id: Cow<'a, str> = "alertId",
        provider_alert_id: Cow<'a, str> = "providerAlertId",
        incident_id: i64 = "incidentId",
        service_source: Cow<'a, str> = "serviceSource",
        detection_source: Cow<'a, str> = "detectionSource",
        detector_id: Cow<'a, str> = "detectorId",
        creation_time: DateTime<Utc> = "creationTime",
        last_updated_time: DateTime<Utc> = "lastUpdatedTime",
        resolved_time: DateTime<Utc> = "resolvedTime",
        first_activity: DateTime<Utc> = "firstActivity",
        last_activity: DateTime<Utc> = "lastActivity",
        title: Cow<'a, str> = "title",
        description: Cow<'a, str> = "description",
        category: Cow<'a, str> = "category",
        status: Cow<'a, str> = "status",
        severity: Cow<'a, str> = "severity",
        investigation_id: i64 = "investigationId",
        investigation_state: Cow<'a, str> = "investigationState",
        classification: Cow<'a, str> = "classification",
        determination: Cow<'a, str> = "determination",
        assigned_to: Cow<'a, str> = "assignedTo",
        actor_name: Cow<'a, str> = "actorName",
        threat_family_name: Cow<'a, str> = "threatFamilyName",
        mitre_techniques: Vec<Cow<'a, str>> = "mitreTechniques",
        devices: Vec<Device<'a>> = "devices",
        entities: Vec<Entity<'a>> = "entities",
    }
}

wire_object! {
    /// A device that an alert names.
    Device {
        device_id: Cow<'a, str> = "mdatpDeviceId",
        aad_device_id: Cow<'a, str> = "aadDeviceId",
        device_dns_name: Cow<'a, str> = "deviceDnsName",
        os_platform: Cow<'a, str> = "osPlatform",
        version: Cow<'a, str> = "version",
        os_processor: Cow<'a, str> = "osProcessor",
        os_build: i64 = "osBuild",
        health_status: Cow<'a, str> = "healthStatus",
        risk_score: Cow<'a, str> = "riskScore",
        rbac_group_id: i64 = "rbacGroupId",
        rbac_group_name: Cow<'a, str> = "rbacGroupName",
        first_seen: DateTime<Utc> = "firstSeen",
        tags: Vec<Cow<'a, str>> = "tags",
        defender_av_status: Cow<'a, str> = "defenderAvStatus",
        onboarding_status: Cow<'a, str> = "onboardingStatus",
    }
}

wire_object! {
    /// An entity of an alert.
    Entity {
        entity_type: Cow<'a, str> = "entityType",
        evidence_creation_time: DateTime<Utc> = "evidenceCreationTime",
        verdict: Cow<'a, str> = "verdict",
        remediation_status: Cow<'a, str> = "remediationStatus",
        sha1: Cow<'a, str> = "sha1",
        sha256: Cow<'a, str> = "sha256",
        file_name: Cow<'a, str> = "fileName",
        file_path: Cow<'a, str> = "filePath",
        process_id: i64 = "processId",
        process_command_line: Cow<'a, str> = "processCommandLine",
        process_creation_time: DateTime<Utc> = "processCreationTime",
        parent_process_id: i64 = "parentProcessId",
        parent_process_creation_time: DateTime<Utc> = "parentProcessCreationTime",
        ip_address: Cow<'a, str> = "ipAddress",
        url: Cow<'a, str> = "url",
        account_name: Cow<'a, str> = "accountName",
        domain_name: Cow<'a, str> = "domainName",
        user_sid: Cow<'a, str> = "userSid",
        aad_user_id: Cow<'a, str> = "aadUserId",
        user_principal_name: Cow<'a, str> = "userPrincipalName",
        mailbox_display_name: Cow<'a, str> = "mailboxDisplayName",
        mailbox_address: Cow<'a, str> = "mailboxAddress",
        cluster_by: Cow<'a, str> = "clusterBy",
        cluster_by_value: Cow<'a, str> = "clusterByValue",
        email_count: i64 = "emailCount",
        sender: Cow<'a, str> = "sender",
        recipient: Cow<'a, str> = "recipient",
        subject: Cow<'a, str> = "subject",
        internet_message_id: Cow<'a, str> = "internetMessageId",
        delivery_action: Cow<'a, str> = "deliveryAction",
        security_group_id: Cow<'a, str> = "securityGroupId",
        security_group_name: Cow<'a, str> = "securityGroupName",
        registry_hive: Cow<'a, str> = "registryHive",
        registry_key: Cow<'a, str> = "registryKey",
        registry_value_type: Cow<'a, str> = "registryValueType",
        registry_value: Cow<'a, str> = "registryValue",
        device_id: Cow<'a, str> = "deviceId",
    }
}

impl<'a> Device<'a> {
    /// `vmMetadata`, whose shape is not documented, as its JSON text.
    pub fn vm_metadata(&self) -> Option<&'a str> {
        let (_, raw) = self.unknown.iter().rev().find(|(key, _)| key == "vmMetadata")?;
        (raw.get() != "null").then(|| raw.get())
    }
}

/// The two fields that the reading plan needs, from an incident that is not decoded further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncidentKey {
    /// `incidentId`.
    pub incident_id: Option<i64>,
    /// `lastUpdateTime`.
    pub last_update_time: Option<DateTime<Utc>>,
}

/// Reads the head of an incident from its storable text; both fields are `None` where the text is no object. Stops at
/// the second field, which stands near the front of every text that was seen: nine tenths of the text are not read.
pub fn head(text: &str) -> IncidentKey {
    struct HeadVisitor<'h>(&'h mut IncidentKey);
    impl<'de> Visitor<'de> for HeadVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                match key.0.as_ref() {
                    "incidentId" => self.0.incident_id = value(object.next_value()?),
                    "lastUpdateTime" => self.0.last_update_time = value(object.next_value()?),
                    _ => drop(object.next_value::<IgnoredAny>()?),
                }
                if self.0.incident_id.is_some() && self.0.last_update_time.is_some() {
                    break;
                }
            }
            Ok(())
        }
    }
    let mut head = IncidentKey { incident_id: None, last_update_time: None };
    // Stopping early leaves text behind, which the parser calls an error; what was read is read.
    drop(serde_json::Deserializer::from_str(text).deserialize_map(HeadVisitor(&mut head)));
    head
}

/// Every `incidentUri` of an incident that could not be decoded; none where the text is no object.
pub fn incident_uris(text: &str) -> Vec<String> {
    struct UriVisitor<'u>(&'u mut Vec<String>);
    impl<'de> Visitor<'de> for UriVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                match key.0.as_ref() {
                    "incidentUri" => self
                        .0
                        .extend(value::<Cow<'_, str>>(object.next_value()?).map(Cow::into_owned)),
                    _ => drop(object.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }
    }
    let mut uris = Vec::new();
    // What was read before the text turned out to be broken is read.
    drop(serde_json::Deserializer::from_str(text).deserialize_map(UriVisitor(&mut uris)));
    uris
}

fn value<T>(lenient: Lenient<T>) -> Option<T> {
    match lenient {
        Lenient::Value(value) => Some(value),
        Lenient::Null | Lenient::Mistyped => None,
    }
}

#[cfg(test)]
mod tests;
