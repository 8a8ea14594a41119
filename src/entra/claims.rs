//! The claims of a token, without a check of its signature: it came from Entra over TLS, and the API verifies it. The claim
//! `tid` decides whether anything may be stored for the tenant.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;

pub use crate::error::TokenCheck;
use crate::error::{SyncError, shown};
use crate::http_client;
use crate::tenant::{Source, TenantId};

/// The claims of a token as JSON, if it can be read.
fn claims(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The claim `aud`.
pub fn audience(token: &str) -> Option<String> {
    Some(http_client::word(&claims(token)?, "aud")).filter(|audience| !audience.is_empty())
}

/// Checks the claims of `token`. Fails if it is for another tenant than `tenant`.
pub fn check(token: &str, tenant: TenantId, source: Source) -> Result<TokenCheck, SyncError> {
    let Some(claims) = claims(token) else { return Ok(TokenCheck::Unreadable) };
    // Each occurrence, independent of the other claims: no malformed claim may hide a foreign tenant.
    let tids = http_client::fields(&claims, "tid");
    let text = |raw: &RawValue| {
        serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
    };
    if let Some(foreign) =
        tids.iter().map(|raw| text(raw)).find(|tid| !tid.eq_ignore_ascii_case(&tenant.to_string()))
    {
        return Err(SyncError::WrongTenant { token_tid: shown(&foreign) });
    }
    if tids.is_empty() {
        return Ok(TokenCheck::Unreadable);
    }
    let roles = http_client::field(&claims, "roles").map_or("[]", RawValue::get);
    let roles: Vec<&RawValue> = serde_json::from_str(roles).unwrap_or_default();
    let reads = |role: &&RawValue| {
        serde_json::from_str::<&str>(role.get())
            .is_ok_and(|role| source.reading_roles().contains(&role))
    };
    Ok(if roles.iter().any(reads) { TokenCheck::Valid } else { TokenCheck::RoleMissing })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(7));

    fn token(claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn token_is_checked_by_tenant_and_role() {
        let ours = "00000000-0000-0000-0000-000000000007";
        let fine = token(&format!(r#"{{"tid":"{ours}","roles":["x","Incident.Read.All"]}}"#));
        assert_eq!(check(&fine, TENANT, Source::Defender).unwrap(), TokenCheck::Valid);
        assert_eq!(
            check(&token(&format!(r#"{{"tid":"{ours}"}}"#)), TENANT, Source::Defender).unwrap(),
            TokenCheck::RoleMissing
        );
        let foreign = token(
            r#"{"tid":"00000000-0000-0000-0000-000000000008","roles":["Incident.Read.All"]}"#,
        );
        assert!(matches!(
            check(&foreign, TENANT, Source::Defender),
            Err(SyncError::WrongTenant { .. })
        ));
        // No malformed claim before or after it hides a foreign tenant.
        let foreign = "00000000-0000-0000-0000-000000000008";
        for claims in [
            format!(r#"{{"tid":"{foreign}","roles":"Incident.Read.All"}}"#),
            format!(r#"{{"roles":{{}},"tid":"{foreign}"}}"#),
            format!(r#"{{"roles":[7,null],"tid":"{foreign}","x":1e999}}"#),
            format!(r#"{{"tid":"{ours}","tid":"{foreign}"}}"#),
            format!(r#"{{"tid":"{foreign}","tid":"{ours}"}}"#),
            format!(r#"{{"tid":["{foreign}"]}}"#),
            format!(r#"{{"tid":"{foreign}""#),
        ] {
            assert!(
                matches!(
                    check(&token(&claims), TENANT, Source::Defender),
                    Err(SyncError::WrongTenant { .. })
                ),
                "{claims}"
            );
        }
        for roles in [r#""Incident.Read.All""#, "null", "[7]", "{}"] {
            let claims = format!(r#"{{"roles":{roles},"tid":"{ours}"}}"#);
            assert_eq!(
                check(&token(&claims), TENANT, Source::Defender).unwrap(),
                TokenCheck::RoleMissing,
                "{claims}"
            );
        }
        for opaque in ["", "abc", "a.b.c", "a.!!.c", &token("{}"), &token("[]")] {
            assert_eq!(
                check(opaque, TENANT, Source::Defender).unwrap(),
                TokenCheck::Unreadable,
                "{opaque}"
            );
        }
    }
}
