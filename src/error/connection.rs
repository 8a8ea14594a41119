//! The fault of a connection, from the types of the libraries' errors, because their messages change between versions.
#![expect(clippy::wildcard_enum_match_arm, reason = "rustls adds variants to its enums")]

use std::error::Error;
use std::io;
use std::iter;

use rustls::CertificateError;

/// Why no usable connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFault {
    /// No trusted authority has signed the certificate.
    UnknownIssuer,
    /// The server presents a certificate of an authority, for example a self-signed one.
    AuthorityAsServer,
    /// By this machine's clock.
    CertificateNotYetValid,
    /// By this machine's clock.
    CertificateExpired,
    /// The certificate is for another host name.
    CertificateForOtherName,
    /// The certificate is not accepted for another reason.
    Certificate,
    /// The peer does not speak TLS.
    NotTls,
    /// The TLS handshake failed for another reason.
    TlsRefused,
    /// The database server does not offer TLS.
    TlsNotOffered,
    /// The peer does not speak the protocol of Postgres.
    NotPostgres,
    /// The peer accepted the connection but sent nothing in time.
    NoAnswer,
}

impl ConnectionFault {
    /// The fault of the TLS layer among the causes of this error.
    pub fn of_tls(error: &(dyn Error + 'static)) -> Option<Self> {
        causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()).map(Self::from)
    }

    /// Whether the peer responded and TLS failed.
    pub const fn is_tls(self) -> bool {
        match self {
            Self::UnknownIssuer
            | Self::AuthorityAsServer
            | Self::CertificateNotYetValid
            | Self::CertificateExpired
            | Self::CertificateForOtherName
            | Self::Certificate
            | Self::NotTls
            | Self::TlsRefused
            | Self::TlsNotOffered => true,
            Self::NotPostgres | Self::NoAnswer => false,
        }
    }
}

impl From<&rustls::Error> for ConnectionFault {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::from(error),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            // Incompatible versions or ciphers, alerts, and the rest: the handshake ended without a connection.
            _ => Self::TlsRefused,
        }
    }
}

impl From<&CertificateError> for ConnectionFault {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::CertificateExpired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::CertificateNotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::CertificateForOtherName
            }
            // rustls has no variant for it and passes the error of its verifier.
            CertificateError::Other(other)
                if matches!(
                    other.0.downcast_ref::<webpki::Error>(),
                    Some(webpki::Error::CaUsedAsEndEntity)
                ) =>
            {
                Self::AuthorityAsServer
            }
            _ => Self::Certificate,
        }
    }
}

/// The error and its causes, outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| cause(*error))
}

/// `io::Error::source` skips the error that it wraps and returns the source of that one.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{AlertDescription, InvalidMessage, OtherError};

    use super::*;

    #[test]
    fn wrapped_tls_errors_are_recognised_by_type() {
        let certificate = rustls::Error::InvalidCertificate;
        let authority = OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity));
        let revoked = OtherError(Arc::new(webpki::Error::UnknownRevocationStatus));
        for (error, fault) in [
            (certificate(CertificateError::UnknownIssuer), ConnectionFault::UnknownIssuer),
            (certificate(CertificateError::Expired), ConnectionFault::CertificateExpired),
            (certificate(CertificateError::NotValidYet), ConnectionFault::CertificateNotYetValid),
            (
                certificate(CertificateError::NotValidForName),
                ConnectionFault::CertificateForOtherName,
            ),
            (certificate(CertificateError::Other(authority)), ConnectionFault::AuthorityAsServer),
            (certificate(CertificateError::Other(revoked)), ConnectionFault::Certificate),
            (
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
                ConnectionFault::NotTls,
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
                ConnectionFault::TlsRefused,
            ),
        ] {
            let twice = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            assert_eq!(ConnectionFault::of_tls(&twice), Some(fault));
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(ConnectionFault::of_tls(&refused), None);
        let words = io::Error::other("invalid peer certificate: UnknownIssuer");
        assert_eq!(ConnectionFault::of_tls(&words), None, "a message is not a type");
    }
}
