//! The two APIs and their permissions.

/// An API with the tenants' incidents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// `/api/incidents`, of Microsoft 365 Defender.
    Defender,
    /// `/v1.0/security`, of Microsoft Graph.
    Graph,
}

/// The application permissions of a tenant, of a token, or of the app registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) defender: bool,
    pub(super) graph: bool,
}

impl Roles {
    pub(super) const BOTH: Self = Self { defender: true, graph: true };
    pub(super) const NONE: Self = Self { defender: false, graph: false };

    pub(super) fn of(sources: &[Source]) -> Self {
        let mut roles = Self::NONE;
        sources.iter().for_each(|source| *roles.slot(*source) = true);
        roles
    }

    pub(super) fn slot(&mut self, source: Source) -> &mut bool {
        match source {
            Source::Defender => &mut self.defender,
            Source::Graph => &mut self.graph,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { defender: self.defender && other.defender, graph: self.graph && other.graph }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { defender: self.defender || other.defender, graph: self.graph || other.graph }
    }

    /// The values for the claim `roles`.
    pub(super) fn names(self) -> Vec<&'static str> {
        let names =
            [(self.defender, "Incident.Read.All"), (self.graph, "SecurityIncident.Read.All")];
        names.into_iter().filter(|(held, _)| *held).map(|(_, name)| name).collect()
    }

    /// The roles that a token for this resource may contain: both if the resource is neither API, because this simulator
    /// serves both under one host.
    pub(super) fn of_resource(resource: &str) -> Self {
        let host = resource.split("://").last().unwrap_or(resource);
        let host = host.split('/').next().unwrap_or(host);
        if host.contains("graph") || host == "00000003-0000-0000-c000-000000000000" {
            Self::of(&[Source::Graph])
        } else if host.contains("security.microsoft") {
            Self::of(&[Source::Defender])
        } else {
            Self::BOTH
        }
    }
}
