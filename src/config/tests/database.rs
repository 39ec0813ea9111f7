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
    ] {
        let lines = errors(&env(&given));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}");
        assert!(!lines[0].contains("hunter2"), "{lines:?}");
    }
}
