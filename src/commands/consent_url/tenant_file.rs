//! The file of one tenant in `tenants_dir`.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::entra::Tenant;
use crate::tenant::Source;

/// In characters. File names are limited to 255 bytes, and a character has up to four.
const STEM_MAX: usize = 60;

/// The keys of a tenant, at top level.
/// The source only where it differs from that of `[api]`.
pub(super) fn text(tenant: &Tenant, cloud: Option<&str>, default_source: Source) -> String {
    let id = tenant.id;
    let source = tenant.source();
    let name = tenant.name.replace('\\', "\\\\").replace('"', "\\\"");
    let own_source =
        (source != default_source).then(|| format!("source = \"{}\"\n", source.as_str()));
    let own_source = own_source.unwrap_or_default();
    let cloud = cloud.map(|cloud| format!("cloud = \"{cloud}\"\n")).unwrap_or_default();
    format!("id = \"{id}\"\nname = \"{name}\"\n{own_source}{cloud}")
}

/// The path from the letters and digits of the name. `None` if it has none.
pub(super) fn path(dir: &Path, name: &str) -> Option<PathBuf> {
    let words: Vec<&str> =
        name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let stem: String = words.join("-").chars().take(STEM_MAX).collect();
    (!stem.is_empty()).then(|| dir.join(format!("{stem}.toml")))
}

/// Writes the file atomically and never over another one. Users who can read the directory can read the file: it contains
/// no secret, and the service user may not exist yet.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let folder = fs::metadata(dir)?;
    // The configuration ignores such names, and the random part prevents a prepared link.
    let draft = dir.join(format!(".consent-{}.draft", Uuid::new_v4().simple()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file
        .write_all(text.as_bytes())
        // Only root can set the group of another user.
        .and_then(|()| std::os::unix::fs::fchown(&file, None, Some(folder.gid())).or(Ok(())))
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o640 | folder.mode() & 0o004)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    written?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::entra::credential::{App, Credential};
    use crate::tenant::{Endpoints, TenantId, TokenVersion};

    const ID: TenantId = TenantId(uuid::Uuid::from_u128(7));

    fn tenant(name: &str, source: Source) -> Tenant {
        let address: url::Url = "https://example.com".parse().unwrap();
        let endpoints = Endpoints {
            source,
            authority: address.clone(),
            base_url: address,
            scope: String::new(),
            other_scope: None,
            token_version: TokenVersion::V2,
        };
        let credential = Arc::new(Credential::secret("x".into()));
        let app = Arc::new(App { client_id: String::new(), credential, next: None });
        Tenant::with_defaults(ID, name, endpoints, app)
    }

    #[test]
    fn file_name_stays_in_directory_and_visible() {
        let of = |name: &str| path(Path::new("/d"), name).map(|path| path.display().to_string());
        assert_eq!(of("Contoso AG (Köln)").as_deref(), Some("/d/Contoso-AG-Köln.toml"));
        assert_eq!(of("../../etc/passwd").as_deref(), Some("/d/etc-passwd.toml"));
        assert_eq!(of(".hidden").as_deref(), Some("/d/hidden.toml"));
        assert_eq!(of("a".repeat(300).as_str()).map(|path| path.len()), Some(3 + 60 + 5));
        assert_eq!(of("/.. "), None);
    }

    #[test]
    fn name_of_any_characters_is_read_back() {
        for name in ["Contoso", r#"a "b" \c"#, "Köln 'x'", r"\u0041"] {
            let text = text(&tenant(name, Source::Graph), Some("gcc"), Source::Defender);
            let parsed = config::Config::builder()
                .add_source(config::File::from_str(&text, config::FileFormat::Toml));
            let parsed = parsed.build().unwrap();
            assert_eq!(parsed.get_string("name").unwrap(), name);
            assert_eq!(parsed.get_string("id").unwrap(), ID.to_string());
            assert_eq!(parsed.get_string("cloud").unwrap(), "gcc");
            assert_eq!(parsed.get_string("source").unwrap(), "graph");
        }
    }

    #[test]
    fn source_is_written_where_it_differs() {
        for (own, default, expected) in [
            (Source::Defender, Source::Defender, ""),
            (Source::Graph, Source::Graph, ""),
            (Source::Graph, Source::Defender, "source = \"graph\"\n"),
            (Source::Defender, Source::Graph, "source = \"defender\"\n"),
        ] {
            let text = text(&tenant("a", own), None, default);
            assert_eq!(text, format!("id = \"{ID}\"\nname = \"a\"\n{expected}"));
        }
    }

    #[test]
    fn symlink_at_draft_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        let guessed = dir.path().join(format!(".consent-{}.draft", std::process::id()));
        std::os::unix::fs::symlink(&victim, &guessed).unwrap();
        write(&dir.path().join("contoso.toml"), "new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert_eq!(fs::read_to_string(dir.path().join("contoso.toml")).unwrap(), "new");
    }

    #[test]
    fn file_mode_follows_directory_without_overwrite() {
        for (of_dir, of_file) in [(0o755, 0o644), (0o750, 0o640), (0o700, 0o640)] {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(of_dir)).unwrap();
            let file = dir.path().join("contoso.toml");
            write(&file, "first").unwrap();
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, of_file);
            assert_eq!(write(&file, "second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&file).unwrap(), "first");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
        }
    }
}
