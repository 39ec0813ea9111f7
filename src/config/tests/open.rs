//! Servers that are open to everyone start only if that is configured explicitly.

use super::*;

const TOKEN: &str = "correct-horse-battery-staple";

fn lines(toml: &str) -> Vec<String> {
    errors(&file(toml))
}

#[test]
fn beyond_this_machine_a_server_without_a_token_has_to_be_meant() {
    let both_ways = "can be reached from other machines, and no token is set; set auth.token_file (or auth.token) to \
                     the token that clients send, or set auth.open = true and auth.hosts to let everyone who reaches \
                     it upload, read and delete";
    for (key, value) in [
        ("listen", "0.0.0.0:8080"),
        ("listen", "[::]:8080"),
        ("listen", "10.0.0.5:8080"),
        ("listen", "[::ffff:10.0.0.5]:8080"),
        ("read_listen", "0.0.0.0:8081"),
        ("public_url", "https://uploads.example.com"),
    ] {
        let setting = format!("{key} = \"{value}\"\n");
        assert_eq!(lines(&setting), [format!("{key} = \"{value}\" (from longshore.toml, line 1): {both_ways}")]);
        let keys = format!("auth.admin_keys = [\"{}\"]\n", AdminKeyHash::of(b"lsk_one"));
        assert_eq!(lines(&format!("{setting}{keys}")).len(), 1, "they open the administration, not the uploads");

        for ending in [
            format!("auth.token = \"{TOKEN}\""),
            format!("auth.token = \"{TOKEN}\"\nauth.open = true"),
            "auth.open = true\nauth.hosts = [\"localhost\"]".to_owned(),
        ] {
            assert_eq!(lines(&format!("{setting}{ending}")), [""; 0], "{setting}{ending}");
        }
        let nameless = lines(&format!("{setting}auth.open = true"));
        assert!(nameless.len() == 1 && nameless[0].contains("requires auth.hosts"), "{nameless:?}");
    }
    for near in ["listen = \"127.0.0.1:80\"", "listen = \"[::1]:80\"", "public_url = \"http://localhost:3000/up\""] {
        assert_eq!(lines(near), [""; 0], "{near}");
    }
    let wrong = lines("listen = \"0.0.0.0:8080\"\nauth.token = \"short\"");
    assert_eq!(wrong.len(), 1, "a wrong token is one mistake, not two: {wrong:?}");
}

#[test]
fn all_pages_without_a_token_have_to_be_meant() {
    let line = file_error("cors.allow_origins = [\"*\"]");
    assert!(
        line.starts_with("cors.allow_origins = [\"*\"] (from longshore.toml, line 1): lets every web page"),
        "{line}"
    );
    for word in ["auth.token", "auth.open = true", "\"auto\""] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    for ending in [format!("auth.token = \"{TOKEN}\""), "auth.open = true".to_owned()] {
        for origins in ["[\"*\"]", "[\"https://a.example\", \"null\"]"] {
            assert_eq!(lines(&format!("cors.allow_origins = {origins}\n{ending}")), [""; 0], "{origins}: {ending}");
        }
    }
    // A sandboxed frame of any page has the origin `null`.
    assert!(!lines("cors.allow_origins = [\"https://a.example\", \"null\"]").is_empty());
    for (origins, is_refused) in [("[\"null\"]", true), ("[\"https://a.example\"]", false)] {
        let credentials = format!("cors.allow_origins = {origins}\ncors.allow_credentials = true");
        let found = lines(&format!("{credentials}\nauth.token = \"{TOKEN}\""));
        assert_eq!(!found.is_empty(), is_refused, "{origins}: {found:?}");
    }
}

/// Configurations that were valid before open servers had to be configured explicitly. They must start
/// unchanged.
#[test]
fn configurations_with_a_token_read_as_they_always_have() {
    let token = format!("[auth]\ntoken = \"{TOKEN}\"\n");
    for (before, origins) in [
        ("listen = \"0.0.0.0:8080\"\n", AllowOrigins::Auto),
        (
            "listen = \"[::]:8443\"\nread_listen = \"0.0.0.0:8081\"\npublic_url = \"https://up.example.com\"\n",
            AllowOrigins::Auto,
        ),
        ("cors.allow_origins = [\"*\"]\n", AllowOrigins::Any),
        ("listen = \"0.0.0.0:8080\"\ncors.allow_origins = [\"*\"]\n", AllowOrigins::Any),
        ("cors.allow_origins = [\"https://a.example\"]\ncors.allow_credentials = true\n", {
            AllowOrigins::Listed(vec!["https://a.example".to_owned()])
        }),
        ("cors.allow_origins = []\n", AllowOrigins::Listed(vec![])),
    ] {
        let config = Config::read(&file(&format!("{before}{token}"))).unwrap();
        assert_eq!(config.cors.allow_origins, origins, "{before}");
        assert_eq!((config.auth.open, config.auth.hosts.as_slice()), (false, &[][..]));
        assert!(config.auth.public_list && config.auth.public_download && config.auth.public_terminate);
    }
}
