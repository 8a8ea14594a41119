//! The network path to Microsoft: proxy and certificate authorities.

use reqwest::{Certificate, Proxy};

/// The network path of a client.
#[derive(Clone, Default)]
pub struct Route {
    pub proxy: ProxyChoice,
    /// Trusted authorities, in addition to the system's.
    pub authorities: Vec<Certificate>,
}

#[derive(Clone, Default)]
pub enum ProxyChoice {
    /// No proxy, even if the environment names one.
    #[default]
    None,
    /// The proxy of `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    Environment,
    At {
        /// Its URL may contain the password.
        proxy: Box<Proxy>,
        /// Host and port, free of secrets.
        address: (String, u16),
    },
}

/// Leaves out the proxy, whose URL may contain a password.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let proxy = match self.proxy {
            ProxyChoice::None => "none",
            ProxyChoice::Environment => "environment",
            ProxyChoice::At { .. } => "configured",
        };
        write!(f, "Route {{ proxy: {proxy}, authorities: {} }}", self.authorities.len())
    }
}
