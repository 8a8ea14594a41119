//! One person in a tenant's data: what they are called there, and the data without it.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Fields that say whose object it is, in the API's spelling and in that of our columns.
const IDENTITIES: [&str; 13] = [
    "userPrincipalName",
    "user_principal_name",
    "userSid",
    "user_sid",
    "aadUserId",
    "aad_user_id",
    "mailboxAddress",
    "mailbox_address",
    // Graph's
    "azureAdUserId",
    "upn",
    "primaryAddress",
    "mailboxPrimaryAddress",
    "emailAddress",
];
const ACCOUNTS: [&str; 2] = ["accountName", "account_name"];
const DOMAINS: [&str; 2] = ["domainName", "domain_name"];
const DISPLAY_NAMES: [&str; 3] = ["mailboxDisplayName", "mailbox_display_name", "displayName"];
/// Fields in which a person may be called by a display name alone.
const NAMED_BY_DISPLAY_NAME: [&str; 8] = [
    "createdBy",
    "createdByDisplayName",
    "created_by",
    "lastModifiedBy",
    "last_modified_by",
    "assignedTo",
    "assigned_to",
    "displayName",
];

/// What one entity says of a person.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub struct PersonIds {
    /// The security identifier of Windows.
    pub sid: Option<String>,
    /// The object id in Entra.
    pub object_id: Option<String>,
    /// The account's name, without its domain.
    pub account: Option<String>,
    /// The domain of that account.
    pub domain: Option<String>,
    /// The name that others see.
    pub display_name: Option<String>,
}

/// A person and what stands in their place.
#[derive(Debug)]
pub struct Person {
    /// Names that identify one person, in small letters.
    names: BTreeSet<String>,
    /// Account and domain, in small letters: another person may have the same account name.
    accounts: BTreeSet<(String, Option<String>)>,
    /// Display names, in small letters. They mean the person only as the whole value of a few fields.
    display_names: BTreeSet<String>,
    anywhere: Regex,
    placeholder: String,
}

impl Person {
    /// Who is called `upn` and whatever entities with that name say.
    pub fn new(upn: &str, known: &[PersonIds], placeholder: String) -> Self {
        let mut names = BTreeSet::from([upn.to_lowercase()]);
        let mut accounts = BTreeSet::new();
        let mut display_names = BTreeSet::new();
        for PersonIds { sid, object_id, account, domain, display_name } in known {
            let display_name = display_name.as_ref().filter(|name| !name.is_empty());
            display_names.extend(display_name.map(|name| name.to_lowercase()));
            // Windows' own accounts have short identifiers, which everybody shares.
            let is_own =
                |sid: &&String| sid.starts_with("S-1-5-21-") || sid.starts_with("S-1-12-1-");
            names.extend(sid.as_ref().filter(is_own).map(|sid| sid.to_lowercase()));
            let is_id = |id: &&String| uuid::Uuid::try_parse(id).is_ok_and(|id| !id.is_nil());
            names.extend(object_id.as_ref().filter(is_id).map(|id| id.to_lowercase()));
            let account = account.as_ref().filter(|account| !account.is_empty());
            accounts.extend(account.map(|name| {
                (name.to_lowercase(), domain.as_ref().map(|name| name.to_lowercase()))
            }));
        }
        let mut tokens: Vec<String> = names.iter().cloned().collect();
        tokens.push(upn.to_lowercase().replace('@', "%40"));
        tokens.push(upn.to_lowercase().replace(['@', '.'], "_")); // As OneDrive names folders.
        for (account, domain) in &accounts {
            tokens.extend(domain.iter().map(|domain| format!(r"{domain}\{account}")));
            tokens.extend([
                format!(r"\users\{account}"),
                format!("/users/{account}"),
                format!("/home/{account}"),
            ]);
        }
        // The longest first: the first that fits is taken.
        tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let pattern = tokens.iter().map(|token| regex::escape(token)).collect::<Vec<_>>().join("|");
        let anywhere =
            RegexBuilder::new(&pattern).case_insensitive(true).size_limit(64 << 20).build();
        let anywhere = anywhere.expect("escaped texts are a pattern");
        Self { names, accounts, display_names, anywhere, placeholder }
    }

    /// Puts the placeholder wherever the value names the person; answers whether it did.
    pub fn erase(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => match self.erased(text) {
                Some(erased) => {
                    *text = erased;
                    true
                }
                None => false,
            },
            Value::Array(values) => {
                values.iter_mut().fold(false, |any, value| self.erase(value) | any)
            }
            Value::Object(fields) => {
                let own = self.own_fields(fields);
                let mut any = false;
                for (key, value) in fields.iter_mut() {
                    let is_own = own.contains(&key.as_str()) || self.is_display_name(key, value);
                    if is_own && value.is_string() {
                        *value = Value::String(self.placeholder.clone());
                        any = true;
                    } else {
                        any |= self.erase(value);
                    }
                }
                any
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn is_display_name(&self, key: &str, value: &Value) -> bool {
        NAMED_BY_DISPLAY_NAME.contains(&key)
            && value.as_str().is_some_and(|text| self.display_names.contains(&text.to_lowercase()))
    }

    /// Fields of an object whose text means the person only because of the others beside it.
    fn own_fields(&self, fields: &serde_json::Map<String, Value>) -> Vec<&'static str> {
        let text = |key: &&str| fields.get(*key).and_then(Value::as_str).map(str::to_lowercase);
        let is_own = IDENTITIES.iter().filter_map(text).any(|name| self.names.contains(&name));
        let account = ACCOUNTS.iter().find_map(text);
        let domain = DOMAINS.iter().find_map(text);
        let is_account = account.is_some_and(|account| {
            let same = |(known, of): &(String, Option<String>)| {
                *known == account && (of.is_none() || domain.is_none() || *of == domain)
            };
            self.accounts.iter().any(same)
        });
        let mut own = Vec::new();
        if is_own || is_account {
            own.extend(ACCOUNTS);
        }
        if is_own {
            own.extend(DISPLAY_NAMES);
        }
        own
    }

    /// The text without the person, if they are in it.
    fn erased(&self, text: &str) -> Option<String> {
        let mut erased = String::new();
        let mut done = 0;
        for found in self.anywhere.find_iter(text) {
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            // What looks like a part of a longer name; identifiers that are no names have no longer ones.
            let is_name = found.as_str().contains(['@', '%', '\\', '/', '_']);
            let goes_on = |next: char| next.is_alphanumeric();
            let is_part = if is_name {
                goes_on_before(before) && found.as_str().starts_with(char::is_alphanumeric)
                    || goes_on_after(after)
            } else {
                before.ends_with(goes_on) || after.starts_with(goes_on)
            };
            if is_part {
                continue;
            }
            erased.push_str(&text[done..found.start()]);
            erased.push_str(&self.placeholder);
            done = found.end();
        }
        (done > 0).then(|| erased + &text[done..])
    }
}

/// Whether a name that begins here is the end of a longer one, such as `x.ann@example.com`.
fn goes_on_before(before: &str) -> bool {
    let encoded = before.len().checked_sub(3).and_then(|at| before.get(at..)?.strip_prefix('%'));
    let is_encoded =
        encoded.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    !is_encoded && before.ends_with(|last: char| last.is_alphanumeric() || "._-+".contains(last))
}

/// Whether a name that ends here is the beginning of a longer one, such as `ann@example.com.au`; a dot may end a sentence or
/// begin what Outlook calls a mailbox's file.
fn goes_on_after(after: &str) -> bool {
    let mut next = after.chars();
    match next.next() {
        Some('.') => {
            let word = next
                .as_str()
                .split(|next: char| !next.is_alphanumeric())
                .next()
                .unwrap_or_default();
            !["", "pst", "ost"].contains(&word.to_lowercase().as_str())
        }
        Some(next) => next.is_alphanumeric() || "_-".contains(next),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SID: &str = "S-1-5-21-1-2-3-1104";
    const ID: &str = "5a1c9e3e-0000-4444-8888-1234567890ab";

    fn ann() -> Person {
        let text = |text: &str| Some(text.to_owned());
        let known = [
            PersonIds {
                sid: text(SID),
                object_id: text(ID),
                account: text("ann"),
                domain: text("CORP"),
                display_name: text("Ann O"),
            },
            PersonIds {
                sid: text("S-1-5-18"),
                object_id: text(&uuid::Uuid::nil().to_string()),
                ..PersonIds::default()
            },
        ];
        Person::new("Ann@Example.com", &known, "erased-1".to_owned())
    }

    fn erased(mut value: Value) -> Value {
        ann().erase(&mut value);
        value
    }

    #[test]
    fn names_are_erased_in_any_position_and_case() {
        for (text, without) in [
            ("ANN@example.COM", "erased-1"),
            ("from 'ann@example.com', to x", "from 'erased-1', to x"),
            ("she is ann@example.com.", "she is erased-1."),
            ("https://a/?u=ann%40example.com&v=1", "https://a/?u=erased-1&v=1"),
            ("https://a/?login_hint%3Dann%40example.com", "https://a/?login_hint%3Derased-1"),
            (
                "ann@example.com.ost /personal/ann_example_com/Documents",
                "erased-1.ost /personal/erased-1/Documents",
            ),
            ("s-1-5-21-1-2-3-1104", "erased-1"),
            (r"HKEY_USERS\S-1-5-21-1-2-3-1104_Classes", r"HKEY_USERS\erased-1_Classes"),
            ("id 5A1C9E3E-0000-4444-8888-1234567890AB!", "id erased-1!"),
            (r"whoami corp\ANN /all", "whoami erased-1 /all"),
            (r"C:\Users\ann\x.exe C:\Users\Ann", r"C:erased-1\x.exe C:erased-1"),
            ("/home/ann/.ssh ann@example.com,ann@example.com", "erased-1/.ssh erased-1,erased-1"),
        ] {
            assert_eq!(erased(json!(text)), json!(without));
        }
    }

    #[test]
    fn similar_names_are_not_erased() {
        for text in [
            "joann@example.com",
            "x.ann@example.com",
            "ann@example.com.au",
            "ann@example.community",
            "S-1-5-21-1-2-3-11045",
            r"CORP\annabel",
            r"C:\Users\ann.lee\x",
            "ann",
            "S-1-5-18",
        ] {
            assert_eq!(erased(json!(text)), json!(text));
        }
    }

    #[test]
    fn account_name_is_erased_for_that_account_only() {
        assert_eq!(
            erased(json!({"accountName": "Ann", "domainName": "corp"})),
            json!({"accountName": "erased-1", "domainName": "corp"})
        );
        let elsewhere = json!({"accountName": "ann", "domainName": "other", "tags": ["ann"]});
        assert_eq!(erased(elsewhere.clone()), elsewhere);
        assert_eq!(
            erased(
                json!({"a": [{"user_sid": SID, "account_name": "a.o", "mailbox_display_name": "Ann O", "n": 1}]})
            ),
            json!({"a": [{"user_sid": "erased-1", "account_name": "erased-1", "mailbox_display_name": "erased-1", "n": 1}]})
        );
    }

    #[test]
    fn graph_fields_lose_the_person() {
        assert_eq!(
            erased(json!({
                "last_modified_by": "Ann O", "description": "Ann O called", "summary": "by ann@example.com",
                "comments": [{"createdByDisplayName": "ann o"}, {"createdByDisplayName": "Bob"}],
                "userAccount": {"azureAdUserId": ID, "accountName": "a.o", "displayName": "Dr. Ann"},
                "mailbox": {"primaryAddress": "ann@example.com", "displayName": "A."},
                "extra": {"userAccount": {"displayName": "Ann O"}}
            })),
            json!({
                "last_modified_by": "erased-1", "description": "Ann O called", "summary": "by erased-1",
                "comments": [{"createdByDisplayName": "erased-1"}, {"createdByDisplayName": "Bob"}],
                "userAccount": {"azureAdUserId": "erased-1", "accountName": "erased-1", "displayName": "erased-1"},
                "mailbox": {"primaryAddress": "erased-1", "displayName": "erased-1"},
                "extra": {"userAccount": {"displayName": "erased-1"}}
            })
        );
    }

    #[test]
    fn values_of_other_people_are_not_changed() {
        let mut value =
            json!({"a": ["bob@example.com", null, 1, true], "b": {"accountName": null}});
        let before = value.clone();
        assert!(!ann().erase(&mut value));
        assert_eq!(value, before);
    }
}
