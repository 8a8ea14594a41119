//! Findings on the network path: proxy, names, connections, certificates and clocks.

use chrono::{DateTime, TimeDelta, Utc};

use super::FindingBuilder;
use super::unreachable::unreachable_host;
use crate::doctor::network::{Egress, Host, HostFacts};
use crate::doctor::{ErrorText, Finding, Group};

/// Entra rejects assertions whose validity begins more than five minutes after its own time.
const CLOCK_FAILS: i64 = 300;
const CLOCK_WARNS: i64 = 60;
/// A certificate that expires within this time is a warning.
const CERTIFICATE_WARNS: TimeDelta = TimeDelta::days(7);

pub(super) fn proxy(egress: &Egress) -> Option<Finding> {
    match egress {
        Egress::Direct => None,
        Egress::Environment => {
            Some(FindingBuilder { group: Group::Network, about: "environment" }.ok(
                "proxy",
                "HTTPS_PROXY and NO_PROXY apply, because http_client.proxy is \"environment\"",
            ))
        }
        Egress::Proxy { address, failure } => {
            let rows = FindingBuilder { group: Group::Network, about: address };
            Some(match failure {
                None => rows.ok("proxy", "connection accepted"),
                Some(why) => Finding {
                    error: Some(why.clone().into()),
                    ..rows.failure(
                        "proxy",
                        "Cannot connect to the proxy. Check http_client.proxy, or ask the operator of the proxy",
                    )
                },
            })
        }
    }
}

pub(super) fn host(host: &Host, egress: &Egress, now: DateTime<Utc>) -> Vec<Finding> {
    let rows = FindingBuilder { group: Group::Network, about: &host.origin };
    let dns = match (&host.looked_up, &host.reached) {
        (None, _) => rows.ok("dns", "resolved by the proxy"),
        (Some(Ok(count)), _) => rows.ok("dns", addresses(*count)),
        (Some(Err(_)), Some(Ok(_))) => rows.ok("dns", "resolved by the proxy, not by this machine"),
        (Some(Err(why)), _) => no_name(&rows, why),
    };
    let mut all = vec![dns];
    let reached = match &host.reached {
        None => {
            let because = if matches!(egress, Egress::Proxy { .. }) {
                "the proxy failed"
            } else {
                "the name does not resolve"
            };
            all.extend(["connection", "tls", "clock"].map(|check| rows.not_tried(check, because)));
            return all;
        }
        Some(Err(error)) => {
            all.extend(unreachable_host(&rows, error));
            return all;
        }
        Some(Ok(reached)) => reached,
    };
    all.push(rows.ok("connection", "the host answers"));
    all.push(tls(&rows, host, reached, now));
    all.push(clock(&rows, reached.ahead));
    all
}

pub(super) fn addresses(count: usize) -> String {
    if count == 1 {
        "resolves to 1 address".to_owned()
    } else {
        format!("resolves to {count} addresses")
    }
}

pub(super) fn no_name(rows: &FindingBuilder, why: &str) -> Finding {
    let advice = "The name does not resolve. Check the address in the configuration and this machine's DNS (resolvectl query)";
    Finding { error: Some(why.to_owned().into()), ..rows.failure("dns", advice) }
}

fn tls(rows: &FindingBuilder, host: &Host, reached: &HostFacts, now: DateTime<Utc>) -> Finding {
    let Some(certificate) = &reached.certificate else {
        return if host.is_tls {
            // The HTTP library does not expose the certificate behind a proxy.
            rows.ok(
                "tls",
                "trusted certificate; issuer and expiry are not available behind a proxy",
            )
        } else {
            rows.ok("tls", "plain http, accepted for loopback addresses only")
        };
    };
    let until = certificate.ends.format("%Y-%m-%d");
    let description = format!("trusted certificate of {}, valid until {until}", certificate.issuer);
    if certificate.ends.signed_duration_since(now) < CERTIFICATE_WARNS {
        return rows.warning(
            "tls",
            format!("{description}; ask the operator of the host or proxy to renew it"),
        );
    }
    rows.ok("tls", description)
}

fn clock(rows: &FindingBuilder, ahead: Option<i64>) -> Finding {
    let Some(ahead) = ahead else {
        return rows.not_tried("clock", "the host sends no Date header");
    };
    let seconds = ahead.abs();
    let side = if ahead > 0 { "behind" } else { "ahead of" };
    let advice = "Set it (timedatectl set-ntp true)";
    let row = if seconds > CLOCK_FAILS {
        let problem =
            "This machine's clock is wrong, so tokens and assertions are refused or used too long";
        rows.failure("clock", format!("{problem}. {advice}"))
    } else if seconds > CLOCK_WARNS {
        rows.warning("clock", format!("This machine's clock is wrong. {advice}"))
    } else {
        return rows.ok("clock", "this machine's clock is accurate within a minute");
    };
    let error =
        ErrorText { text: format!("{seconds} s {side} the host's"), cause: side.to_owned() };
    Finding { error: Some(error), ..row }
}
