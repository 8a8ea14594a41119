//! The token cache, and token replies of any content.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use secrecy::ExposeSecret;

use super::claims::{self, TokenCheck};
use super::credential::Credential;
use super::token_cache::CacheEntry;
use super::token_reply::{LIFETIME, read_error, read_reply};
use super::{Tenant, Token, TokenCache};
use crate::error::SyncError;
use crate::http_client;
use crate::mutate::{Json, each_seed, garbled};
use crate::tenant::{Source, TenantId, TokenVersion};

const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(7));
const CANARY: &str = "canary-token-77c1";

#[tokio::test]
async fn token_is_used_until_expiry_if_renewal_fails() {
    use crate::entra::credential::App;
    use crate::tenant::Endpoints;
    use simulator::{Endpoint, Options, ScriptedReply, Simulator, TenantSpec};

    let simulator = Simulator::start(Options::default()).await.unwrap();
    simulator.world().add_tenant(TenantSpec::new(TENANT.0, "Contoso"));
    let options = Options::default();
    let url = simulator.url();
    let credential = Arc::new(Credential::secret(options.client_secret.into()));
    let endpoints = Endpoints {
        source: Source::Defender,
        authority: url.clone(),
        scope: format!("{url}.default"),
        base_url: url,
        other_scope: None,
        token_version: TokenVersion::V2,
    };
    let app = Arc::new(App { client_id: options.client_id, credential, next: None });
    let tenant = Tenant::with_defaults(TENANT, "Contoso", endpoints, app);
    let tokens = TokenCache::new(http_client::client());
    let first = tokens.get(&tenant).await.unwrap();
    // A token that is due for renewal and ends after `left`.
    let aged = async |left: Duration| {
        let now = Instant::now();
        let value = first.value.clone();
        let token =
            Token { value, renew_at: now, ends: now + left, check: first.check, refused: None };
        let entry = tokens.entry(&tenant);
        *entry.lock().await = CacheEntry { token: Some(Arc::new(token)), ..CacheEntry::default() };
    };
    let script = |replies| simulator.world().script(TENANT.0, Endpoint::Token, replies);
    let minute = Duration::from_secs(60);

    aged(minute).await;
    script(vec![ScriptedReply::entra(503, "temporarily_unavailable", 90_033)]);
    assert_eq!(tokens.get(&tenant).await.unwrap().bearer(), first.bearer());
    // No second request yet: its answer would be another token.
    assert_eq!(tokens.get(&tenant).await.unwrap().bearer(), first.bearer());
    tokens.forget(&tenant).await;
    assert_ne!(tokens.get(&tenant).await.unwrap().bearer(), first.bearer());

    aged(Duration::ZERO).await;
    script(vec![ScriptedReply::entra(503, "temporarily_unavailable", 90_033)]);
    assert!(tokens.get(&tenant).await.is_err(), "the token has ended");
    aged(minute).await;
    script(vec![ScriptedReply::entra(401, "invalid_client", 7_000_222)]);
    assert!(tokens.get(&tenant).await.is_err(), "the credential is refused");
    aged(minute).await;
    script(vec![ScriptedReply::throttled(60)]);
    assert!(tokens.get(&tenant).await.is_ok());
    aged(minute).await;
    assert!(tokens.get(&tenant).await.is_ok(), "Entra's pause does not end a token");
}

#[test]
fn token_replies_of_both_versions_are_read() {
    let v1 = include_str!("../../tests/data/entra_token_success_v1.json");
    let v2 = include_str!("../../tests/data/entra_token_success_v2.json");
    let seed = include_str!("../../tests/data/seed_token_success.json");
    for reply in [v1, v2, seed] {
        assert_eq!(read_reply(reply).unwrap().1, Duration::from_secs(3599));
    }
    let lifetimes =
        [("\"0\"", 60), ("-1", 60), ("1e12", 86_400), ("null", 300), ("\"x\"", 300), ("{}", 300)];
    for (expires_in, seconds) in lifetimes {
        let reply = format!(r#"{{"access_token":"t","expires_in":{expires_in}}}"#);
        assert_eq!(read_reply(&reply).unwrap().1, Duration::from_secs(seconds), "{expires_in}");
    }
    for reply in ["", "<html>", "{}", r#"{"access_token":""}"#, r#"{"access_token":null}"#] {
        assert!(read_reply(reply).is_err(), "{reply}");
    }
}

#[test]
fn error_reply_becomes_facts() {
    let documented = include_str!("../../tests/data/entra_token_error.json");
    let SyncError::Entra { status, error, codes, details, .. } = read_error(400, documented, None)
    else {
        panic!("wrong kind")
    };
    assert_eq!((status, error.as_str(), codes.as_slice()), (400, "invalid_scope", &[70_011][..]));
    assert_eq!(details.trace_id, "0000aaaa-11bb-cccc-dd33-eeeeee333333");
    assert!(matches!(read_error(502, "<html>", None), SyncError::Entra { status: 502, .. }));
    assert!(matches!(read_error(407, "<html>", None), SyncError::TokenReply { .. }));
}

#[test]
fn any_token_reply_is_bounded_and_hides_token() {
    let reply = Json::of(&format!(
        r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{CANARY}"}}"#
    ));
    let mut read = 0;
    each_seed(1_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let body = reply.mutated(&mut random).to_string();
        for body in [&body, &garbled(&body, &mut random)] {
            match read_reply(body) {
                Ok((token, lifetime)) => {
                    assert!(!token.expose_secret().is_empty());
                    assert!(LIFETIME.contains(&lifetime.as_secs()), "{lifetime:?}");
                    read += 1;
                }
                Err(error) => assert!(!format!("{error:?} {error}").contains(CANARY)),
            }
        }
    });
    assert!(read > 0, "no token was read");
}

#[test]
fn any_token_without_our_tid_is_refused() {
    let claims =
        Json::of(&format!(r#"{{"tid":"{TENANT}","roles":["Incident.Read.All"],"aud":"x"}}"#));
    let encode = |text: &str| {
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text)
    };
    let mut fine = 0;
    each_seed(1_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let body = claims.mutated(&mut random).to_string();
        for body in [&body, &garbled(&body, &mut random)] {
            let token = format!("{}.{}.c2ln", encode("{}"), encode(body));
            for token in [&token, &garbled(&token, &mut random)] {
                match claims::check(token, TENANT, Source::Defender) {
                    Ok(check) => fine += usize::from(check == TokenCheck::Valid),
                    Err(error) => {
                        assert!(!error.to_string().contains(char::is_control), "{error:?}");
                    }
                }
            }
        }
    });
    assert!(fine > 0, "no token was ours");
}

#[test]
fn any_refusal_is_short_and_printable() {
    let documented = Json::of(include_str!("../../tests/data/entra_token_error.json"));
    let mut read = 0;
    each_seed(1_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let status = 300 + u16::try_from(random.usize(..300)).unwrap();
        let body = documented.mutated(&mut random).to_string();
        for body in [&body, &garbled(&body, &mut random)] {
            let error = read_error(status, body, None);
            let text = error.to_string();
            assert!(text.chars().count() < 300 && !text.contains(char::is_control), "{text:?}");
            error.diagnosis();
            read += usize::from(text.contains("AADSTS70011 "));
        }
    });
    assert!(read > 0, "no code was read");
}

#[test]
fn malformed_field_of_refusal_hides_no_other() {
    let body = r#"{"error":null,"error_codes":[7000222,"x",-1,1e99],"trace_id":"a\u0000\nb"}"#;
    let SyncError::Entra { error, codes, details, .. } = read_error(401, body, None) else {
        panic!("wrong kind")
    };
    assert_eq!(
        (error.as_str(), codes.as_slice(), details.trace_id.as_str()),
        ("", &[7_000_222][..], "ab")
    );
}
