//! Texts of settings: no panic, whatever counts reads back as itself, and an edit is an error or does what was asked.

use dovetail_core::host::HostFacts;
use dovetail_core::settings::{
    GroupPolicy, Layers, Provider, Settings, Source, TABLE, edit, find_row,
};

/// The text as each kind of file.
pub fn texts(data: &[u8]) {
    let source = Source {
        place: "f".into(),
        text: String::from_utf8_lossy(data).into_owned(),
    };
    for provider in [Provider::File, Provider::Home, Provider::AdminConfig] {
        let mut layers = Layers::default();
        layers.read(provider, core::slice::from_ref(&source));
        let before = layers.effective(&HostFacts::default());
        for row in before.rows() {
            let Some(setting) = find_row(row.name).filter(|row| row.name != "network") else {
                continue;
            };
            let mut again = Settings::default();
            setting
                .put(&mut again, &row.value)
                .expect("what counts is valid");
            assert_eq!(setting.show(&again), row.value, "{}", row.name);
        }
        // The same text again says the same.
        layers.read(provider, core::slice::from_ref(&source));
        assert_eq!(
            layers.effective(&HostFacts::default()).values,
            before.values
        );
    }
    if let Ok(policy) = GroupPolicy::read(&source) {
        let mut agent = Layers::default();
        let problems = agent.read_values(Provider::GroupPolicy, "c", &policy.of(Some("lab")));
        assert_eq!(problems, [], "an agent takes what a coordinator may say");
    }
    for row in TABLE.iter().filter(|row| row.name != "network") {
        for value in [Some(row.default()), None] {
            let value = value.as_deref();
            if let Ok(edited) = edit(&source.text, row, value) {
                assert_eq!(edit(&edited, row, value), Ok(edited), "{}", row.name);
            }
        }
    }
}
