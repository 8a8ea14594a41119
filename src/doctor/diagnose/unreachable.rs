//! Hosts and databases without a usable connection: which step failed, and what to do.

use super::super::{ErrorText, Finding};
use super::FindingBuilder;
use crate::error::{ConnectionFault, SyncError};

const CLOCK_IS_BEHIND: &str = "The certificate is not valid yet: this machine's clock is behind. See timedatectl, and set it (timedatectl set-ntp true)";

/// A host without a usable connection: the connection or TLS failed.
pub(super) fn unreachable_host(rows: &FindingBuilder, error: &SyncError) -> [Finding; 3] {
    let clock = rows.not_tried("clock", "the host was not reached");
    let with_error = |row| Finding { error: Some(error.into()), ..row };
    if let SyncError::Transport { fault: Some(fault), .. } = error
        && fault.is_tls()
    {
        let tls = with_error(rows.failure("tls", tls_advice(*fault)));
        return [rows.ok("connection", "connection accepted"), tls, clock];
    }
    let connection = match error {
        SyncError::Transport { .. } | SyncError::Timeout { .. } => rows.failure(
            "connection",
            "The host does not answer. A firewall may block the connection, or a proxy is required (http_client.proxy)",
        ),
        other => rows.error("connection", other),
    };
    [with_error(connection), rows.not_tried("tls", "there is no connection"), clock]
}

fn tls_advice(fault: ConnectionFault) -> &'static str {
    match fault {
        ConnectionFault::UnknownIssuer => {
            "The certificate is not signed by a trusted CA. Behind a TLS-inspecting proxy set http_client.ca_file; otherwise the connection may be intercepted"
        }
        ConnectionFault::AuthorityAsServer => {
            "The certificate is that of a CA, which includes self-signed ones. If the server or proxy is yours, install a certificate signed by a CA and set http_client.ca_file to that CA; otherwise the connection may be intercepted"
        }
        ConnectionFault::CertificateNotYetValid => CLOCK_IS_BEHIND,
        ConnectionFault::CertificateExpired => {
            "The certificate has expired, unless this machine's clock is ahead (see timedatectl). Ask the administrator of the host or the proxy to renew it"
        }
        ConnectionFault::CertificateForOtherName => {
            "The certificate is for another name. Check the address in the configuration and the network path"
        }
        ConnectionFault::NotTls => {
            "The host does not use TLS. Check the address in the configuration and the network path"
        }
        ConnectionFault::Certificate => "The certificate is not accepted. Check the network path",
        ConnectionFault::TlsRefused
        | ConnectionFault::TlsNotOffered
        | ConnectionFault::NotPostgres
        | ConnectionFault::NoAnswer => "The TLS handshake failed. Check the network path",
    }
}

/// Advice for a database that cannot be used, and the error.
pub fn unreachable_database(error: &SyncError) -> (String, Option<ErrorText>) {
    let advice = match error {
        SyncError::Database { sqlstate: None, fault, .. } => database_advice(*fault).to_owned(),
        other => other.diagnosis().advice.into_owned(),
    };
    (advice, Some(error.into()))
}

fn database_advice(fault: Option<ConnectionFault>) -> &'static str {
    match fault {
        Some(ConnectionFault::UnknownIssuer) => {
            "The server's certificate is not signed by a trusted CA. Set database.sslrootcert to the CA that signed it"
        }
        Some(ConnectionFault::AuthorityAsServer) => {
            "The server's certificate is that of a CA, which includes self-signed ones. Install a certificate signed by a CA, and set database.sslrootcert to that CA"
        }
        Some(ConnectionFault::CertificateNotYetValid) => CLOCK_IS_BEHIND,
        Some(
            ConnectionFault::CertificateExpired
            | ConnectionFault::CertificateForOtherName
            | ConnectionFault::Certificate,
        ) => "The server's certificate is not accepted. Renew it for the host name in database.url",
        Some(ConnectionFault::TlsNotOffered) => {
            "The server does not offer TLS, but sslmode requires it. Set ssl = on in postgresql.conf"
        }
        Some(ConnectionFault::NotTls | ConnectionFault::TlsRefused) => {
            "The TLS handshake with the server failed. Check host and port in database.url, and sslmode"
        }
        Some(ConnectionFault::NotPostgres) => {
            "The server on this port is not Postgres. Check host and port in database.url"
        }
        Some(ConnectionFault::NoAnswer) => {
            "The server on this port does not respond like Postgres. Check host and port in database.url"
        }
        None => {
            "Postgres does not answer. Check that it runs, and that database.url and sslmode are correct"
        }
    }
}
