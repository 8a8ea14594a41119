//! Configured deviations of one tenant's Graph API.

/// Deviations of a tenant's Graph API. The default follows the documents and published payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GraphBehaviour {
    /// The link to the next page in a full page.
    pub next_link: NextLink,
    /// The limit of `$skip`; `None` for no limit.
    pub skip_ceiling: Option<SkipCeiling>,
    /// Ignores `$orderby`: lists have the order of the tenant.
    pub ignores_order: bool,
    /// Lists have status 206, a `Warning`, and only every other row.
    pub partial: bool,
    /// New enum members are served as `unknownFutureValue` even if the request asks for their names.
    pub ignores_prefer: bool,
    /// The limit of alerts embedded by `$expand=alerts`, followed by a link to the others.
    pub embedded_alerts_max: Option<usize>,
    /// Graph's alert ids are in upper case, Defender's are not.
    pub uppercase_alert_ids: bool,
    /// Graph's time of creation is later than Defender's by this.
    pub created_later_s: i64,
    /// Values differ from Defender's as they can in the real APIs: portal links, determinations of the other vocabulary,
    /// display names for comments, values that Defender lacks.
    pub differs: bool,
    /// The share of incidents with evidence of types that Defender lacks.
    pub new_evidence_percent: u8,
}

/// The link to the next page in a full page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NextLink {
    /// `@odata.nextLink` with `$skip`, even on the last page if it is full.
    #[default]
    Skip,
    /// The same with `$skiptoken`.
    SkipToken,
    /// No link.
    Absent,
}

/// The limit of `$skip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkipCeiling {
    /// The number of rows of a filter that can be read.
    pub rows: usize,
    /// The response at the limit.
    pub answer: CeilingAnswer,
}

/// The response to a request that reaches the ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CeilingAnswer {
    /// 400 if `$skip` exceeds it.
    BadRequest,
    /// An empty page without a link if `$skip` reaches it.
    EmptyPage,
    /// A page cut at the ceiling, without a link.
    ShortPage,
}
