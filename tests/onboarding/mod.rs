//! `consent-url`, from the link to the new tenant.

mod consent_url;
