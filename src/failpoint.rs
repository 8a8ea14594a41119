//! Places in the flow where a test can kill, panic or pause the process. Packages contain none: without the feature
//! `failpoints`, reaching one does nothing.
//!
//! `INCIDENT_SYNC_FAILPOINTS=page.fetched=kill@3;run.ended=panic%5;seed=7` kills the process when a page has been fetched
//! for the third time, and makes five of a hundred runs panic at their end, the same ones for the same seed. Not used: the
//! crate `fail` blocks the thread that it pauses, has no seed and cannot kill.

#[cfg(not(feature = "failpoints"))]
pub(crate) fn reach(_: &'static str) -> std::future::Ready<()> {
    std::future::ready(())
}

#[cfg(feature = "failpoints")]
pub use armed::NAMES;
#[cfg(feature = "failpoints")]
pub(crate) use armed::reach;

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// All of them, in the order of the flow.
    pub const NAMES: [&str; 18] = [
        "migration.begin",
        "migration.end",
        "claim.uncommitted",
        "claim.committed",
        "credential.read",
        "source.proven",
        "source.switched",
        "token.wanted",
        "token.held",
        "page.fetched",
        "page.uncommitted",
        "page.committed",
        "watermark.uncommitted",
        "watermark.committed",
        "run.ended",
        "run.recorded",
        "renewal",
        "release",
    ];

    static RULES: LazyLock<Rules> = LazyLock::new(|| {
        let text = std::env::var("INCIDENT_SYNC_FAILPOINTS").unwrap_or_default();
        // A test whose failpoint is misspelt must fail.
        parse(&text)
            .unwrap_or_else(|part| panic!("INCIDENT_SYNC_FAILPOINTS: invalid part {part:?}"))
    });

    /// Acts as the environment requests.
    pub(crate) async fn reach(name: &'static str) {
        let rules = &*RULES;
        for rule in rules.list.iter().filter(|rule| rule.name == name) {
            let times = rule.reached.fetch_add(1, Ordering::Relaxed) + 1;
            if rule.when.holds(times, rules.seed) {
                act(rule.action, name).await;
            }
        }
    }

    async fn act(action: Action, name: &'static str) {
        tracing::warn!(failpoint = name, "Failpoint reached");
        match action {
            Action::Kill => {
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
            Action::Panic => panic!("failpoint {name}"),
            Action::Pause => std::future::pending().await,
        }
    }

    #[derive(Debug, Default)]
    struct Rules {
        list: Vec<Rule>,
        seed: u64,
    }

    #[derive(Debug)]
    struct Rule {
        name: &'static str,
        action: Action,
        when: When,
        reached: AtomicU64,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Panic,
        Pause,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum When {
        /// The nth time only.
        At(u64),
        /// A percentage of the times.
        Percent(u64),
    }

    impl When {
        fn holds(self, times: u64, seed: u64) -> bool {
            match self {
                Self::At(time) => times == time,
                Self::Percent(percent) => {
                    let seed = seed.rotate_left(32) ^ times;
                    fastrand::Rng::with_seed(seed).u64(..100) < percent
                }
            }
        }
    }

    /// The error is the invalid part.
    fn parse(text: &str) -> Result<Rules, &str> {
        let mut rules = Rules::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (name, what) = part.split_once('=').ok_or(part)?;
            if name == "seed" {
                rules.seed = what.parse().map_err(|_| part)?;
                continue;
            }
            let name = NAMES.into_iter().find(|known| *known == name).ok_or(part)?;
            let number = |text: &str| text.parse::<u64>().map_err(|_| part);
            let (action, when) = match what.split_once(['@', '%']) {
                None => (what, When::At(1)),
                Some((action, text)) if what.contains('@') => (action, When::At(number(text)?)),
                Some((action, text)) => (action, When::Percent(number(text)?)),
            };
            let action = match action {
                "kill" => Action::Kill,
                "panic" => Action::Panic,
                "pause" => Action::Pause,
                _ => return Err(part),
            };
            rules.list.push(Rule { name, action, when, reached: AtomicU64::new(0) });
        }
        Ok(rules)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn failpoint_rules_parse_or_name_the_mistake() {
            let rules =
                parse("page.fetched=kill@3;run.ended=panic%5;seed=7;release=pause;").unwrap();
            let parsed: Vec<_> =
                rules.list.iter().map(|rule| (rule.name, rule.action, rule.when)).collect();
            let expected = [
                ("page.fetched", Action::Kill, When::At(3)),
                ("run.ended", Action::Panic, When::Percent(5)),
                ("release", Action::Pause, When::At(1)),
            ];
            assert_eq!((parsed.as_slice(), rules.seed), (expected.as_slice(), 7));
            for wrong in
                ["page.fetchd=kill", "release=kil", "release", "release=kill@soon", "seed=x"]
            {
                assert_eq!(parse(wrong).unwrap_err(), wrong);
            }
        }

        #[test]
        fn percentage_draw_depends_on_the_seed_only() {
            let draw = |seed| {
                (1..=1_000).filter(|time| When::Percent(5).holds(*time, seed)).collect::<Vec<_>>()
            };
            assert_eq!(draw(7), draw(7));
            assert_ne!(draw(7), draw(8));
            assert!((20..80).contains(&draw(7).len()), "{}", draw(7).len());
        }
    }
}
