//! How the Graph API of one tenant behaves.

/// What is special about a tenant's Graph API; the default is what the documents and the payloads seen in public say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GraphBehaviour {
    /// What a full page says of the next one.
    pub next_link: NextLink,
    /// Where `$skip` ends.
    pub skip_ceiling: Option<SkipCeiling>,
    /// `$orderby` changes nothing: the list comes in the order of the tenant.
    pub ignores_order: bool,
    /// Lists answer 206 with a `Warning`, and rows are missing.
    pub partial: bool,
    /// New enum members are served as `unknownFutureValue` even where the request asks for their names.
    pub ignores_prefer: bool,
    /// `$expand=alerts` embeds so many alerts and links to the rest.
    pub embedded_alerts_max: Option<usize>,
    /// Alert ids are in upper case, in Graph only.
    pub uppercase_alert_ids: bool,
    /// Incidents were created so many seconds later, in Graph only.
    pub created_later_s: i64,
    /// Values that both APIs have differ as they can differ in reality: portal links, determinations of the other
    /// vocabulary, display names for comments, values where Defender has none.
    pub differs: bool,
    /// So many of a hundred incidents have evidence of types that Defender does not know.
    pub new_evidence_percent: u8,
}

/// What a full page says of the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NextLink {
    /// `@odata.nextLink` with `$skip`, whether there is more or not.
    #[default]
    Skip,
    /// The same with `$skiptoken`.
    SkipToken,
    /// Nothing.
    Absent,
}

/// The end of what `$skip` reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkipCeiling {
    /// So many rows of a filter can be reached.
    pub rows: usize,
    /// What comes there.
    pub answer: CeilingAnswer,
}

/// How a list ends at the ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CeilingAnswer {
    /// 400 for a `$skip` above it.
    BadRequest,
    /// An empty page without a link for a `$skip` that reaches it.
    EmptyPage,
    /// The page is cut there, without a link.
    ShortPage,
}
