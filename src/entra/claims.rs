//! A look into the token, without checking its signature: it came from Entra over TLS, and only the API must trust it.
//! What it says decides whether we may store anything under the tenant's name.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{SyncError, shown};
use crate::tenant::TenantId;

/// The permission as the tables of the documentation spell it; its prose has an `s` more, so both are accepted.
const READING_ROLES: [&str; 4] =
    ["Incident.Read.All", "Incident.ReadWrite.All", "Incidents.Read.All", "Incidents.ReadWrite.All"];

/// What the token told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is for our tenant and may read incidents.
    Fine,
    /// It is for our tenant but has none of the roles that read incidents.
    RoleMissing,
    /// It cannot be read, as Microsoft reserves; the API will judge.
    Opaque,
}

/// The part of a token, if it can be read.
fn claims<T: DeserializeOwned>(token: &str) -> Option<T> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

/// For whom the token is, as it says.
pub fn audience(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        aud: String,
    }
    claims(token).map(|Claims { aud }| shown(&aud))
}

/// Looks into `token`, which must be for `tenant`. Fails when it says that it is for another one.
pub fn look(token: &str, tenant: TenantId) -> Result<Look, SyncError> {
    #[derive(Deserialize)]
    struct Claims {
        tid: Option<String>,
        #[serde(default)]
        roles: Vec<String>,
    }
    let Some(Claims { tid: Some(tid), roles }) = claims(token) else {
        return Ok(Look::Opaque);
    };
    if !tid.eq_ignore_ascii_case(&tenant.to_string()) {
        return Err(SyncError::WrongTenant { token_tid: shown(&tid) });
    }
    let reads = roles.iter().any(|role| READING_ROLES.contains(&role.as_str()));
    Ok(if reads { Look::Fine } else { Look::RoleMissing })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(7));

    fn token(claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_judged_by_tenant_and_role() {
        let ours = "00000000-0000-0000-0000-000000000007";
        let fine = token(&format!(r#"{{"tid":"{ours}","roles":["x","Incident.Read.All"]}}"#));
        assert_eq!(look(&fine, TENANT).unwrap(), Look::Fine);
        assert_eq!(look(&token(&format!(r#"{{"tid":"{ours}"}}"#)), TENANT).unwrap(), Look::RoleMissing);
        let foreign = token(r#"{"tid":"00000000-0000-0000-0000-000000000008","roles":["Incident.Read.All"]}"#);
        assert!(matches!(look(&foreign, TENANT), Err(SyncError::WrongTenant { .. })));
        for opaque in ["", "abc", "a.b.c", "a.!!.c", &token("{}"), &token("[]")] {
            assert_eq!(look(opaque, TENANT).unwrap(), Look::Opaque, "{opaque}");
        }
    }
}
