//! Which database is used.

use super::*;

const URL: &str = "postgres://longshore:hunter2@127.0.0.1:5433/uploads";

#[test]
fn without_a_url_the_database_is_in_the_data_folder() {
    assert_eq!(Config::default().postgres, None);
}

#[test]
fn a_url_comes_from_the_configuration_or_a_file_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let [url_file, password_file] = ["url", "password"].map(|name| folder.path().join(name).display().to_string());
    fs::write(&url_file, format!("{URL}\n")).unwrap();
    fs::write(&password_file, "hunter2\n").unwrap();
    let plain = "postgres://longshore@127.0.0.1:5433/uploads";
    for given in [
        vec![("LONGSHORE_DATABASE_URL", URL)],
        vec![("LONGSHORE_DATABASE_URL_FILE", &url_file)],
        vec![("LONGSHORE_DATABASE_URL", plain), ("LONGSHORE_DATABASE_PASSWORD_FILE", &password_file)],
    ] {
        let resolved = ResolvedConfig::read(&env(&given)).unwrap();
        let settings = resolved.config.postgres.as_ref().unwrap();
        assert!(settings.address.has_password() && settings.alone, "{given:?}");
        for shown in [format!("{resolved:?}"), resolved.to_toml(), settings.address.to_string()] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

/// The address of the server itself beside that of a pooler has the same password, and is never shown either.
#[test]
fn the_direct_url_is_read_like_the_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password").display().to_string();
    fs::write(&password_file, "hunter2\n").unwrap();
    let pooler = "postgres://longshore@127.0.0.1:6432/uploads";
    let direct = "postgres://longshore@127.0.0.1:5432/uploads";
    let with_password = direct.replace('@', ":hunter2@");
    for given in [
        vec![("LONGSHORE_DATABASE_URL", pooler), ("LONGSHORE_DATABASE_DIRECT_URL", &with_password)],
        vec![
            ("LONGSHORE_DATABASE_URL", pooler),
            ("LONGSHORE_DATABASE_DIRECT_URL", direct),
            ("LONGSHORE_DATABASE_PASSWORD_FILE", &password_file),
        ],
    ] {
        let resolved = ResolvedConfig::read(&env(&given)).unwrap();
        let direct = resolved.config.postgres.as_ref().unwrap().direct_address.as_ref().unwrap();
        assert!(direct.has_password() && direct.to_string().contains(":5432/"), "{given:?}");
        for shown in [format!("{resolved:?}"), resolved.to_toml(), direct.to_string()] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
    let lines = errors(&env(&[("LONGSHORE_DATABASE_DIRECT_URL", &with_password)]));
    assert!(lines.len() == 1 && lines[0].contains("set that to the URL of the pooler"), "{lines:?}");
    assert!(!lines[0].contains("hunter2"), "{lines:?}");
}

#[test]
fn replicas_have_urls_like_the_primary() {
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password").display().to_string();
    fs::write(&password_file, "hunter2\n").unwrap();
    let plain = "postgres://longshore@127.0.0.1:5433/uploads";
    let both =
        "postgres://longshore:hunter2@127.0.0.1:5434/uploads, postgres://longshore:hunter2@127.0.0.1:5435/uploads";
    for (given, count) in [
        (vec![("LONGSHORE_DATABASE_URL", URL)], 0),
        (vec![("LONGSHORE_DATABASE_URL", URL), ("LONGSHORE_DATABASE_REPLICA_URLS", both)], 2),
        (
            vec![
                ("LONGSHORE_DATABASE_URL", plain),
                ("LONGSHORE_DATABASE_REPLICA_URLS", plain),
                ("LONGSHORE_DATABASE_PASSWORD_FILE", &password_file),
            ],
            1,
        ),
    ] {
        let resolved = ResolvedConfig::read(&env(&given)).unwrap();
        let replicas = &resolved.config.postgres.as_ref().unwrap().replicas;
        assert_eq!(replicas.addresses.len(), count);
        assert!(replicas.addresses.iter().all(state_postgres::DatabaseUrl::has_password), "{given:?}");
        for shown in [format!("{resolved:?}"), resolved.to_toml(), format!("{replicas:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[test]
fn a_url_that_cannot_be_used_says_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password").display().to_string();
    fs::write(&password_file, "hunter2").unwrap();
    for (given, expected) in [
        (vec![("LONGSHORE_DATABASE_URL", "mysql://u:hunter2@h/d")], "it must begin with postgres://"),
        (vec![("LONGSHORE_DATABASE_URL", "postgres://u:hunter2@h/d?pool=3")], "it has the option pool"),
        (vec![("LONGSHORE_DATABASE_URL", "postgres://u:hunter2@h/d?sslmode=prefer")], "verify-full is the default"),
        (vec![("LONGSHORE_DATABASE_PASSWORD_FILE", &*password_file)], "has no effect without database.url"),
        (
            vec![("LONGSHORE_DATABASE_URL", URL), ("LONGSHORE_DATABASE_PASSWORD_FILE", &*password_file)],
            "contains a password, and database.password_file is set",
        ),
        (vec![("LONGSHORE_DATABASE_URL_FILE", "/none")], "could not read the file"),
        (vec![("LONGSHORE_DATABASE_REPLICA_URLS", URL)], "has no effect without database.url"),
        (
            vec![("LONGSHORE_DATABASE_URL", URL), ("LONGSHORE_DATABASE_REPLICA_URLS", "postgres://u:hunter2@h:x/d")],
            "not the URL of a PostgreSQL database",
        ),
        (
            vec![("LONGSHORE_DATABASE_URL", URL), ("LONGSHORE_DATABASE_REPLICA_WAIT", "6s")],
            "out of range; write a value from 0s to 5s",
        ),
    ] {
        let lines = errors(&env(&given));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}");
        assert!(!lines[0].contains("hunter2"), "{lines:?}");
    }
}
