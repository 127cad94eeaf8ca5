//! The configuration as pages show it: each key with its value and where that is from. What the schema
//! calls secret is never shown.

use std::path::PathBuf;

use derouter_web::modules::{self, Settings};
use serde_json::Value;

use crate::settings::effective::Setting;

/// Values that are shown.
const MOST_SHOWN: usize = 5000;

/// The configuration of this process, as it was read at the start.
pub(super) struct Bridge {
    file: Option<PathBuf>,
    all: Vec<modules::Setting>,
}

impl Bridge {
    pub(super) fn new(file: Option<PathBuf>, settings: Vec<Setting>) -> Self {
        let all = settings.into_iter().take(MOST_SHOWN).map(shown);
        Self {
            all: all.collect(),
            file,
        }
    }
}

fn shown(mut setting: Setting) -> modules::Setting {
    setting.hide();
    modules::Setting {
        value: text(&setting.value),
        origin: setting.origin.word().to_owned(),
        key: setting.path,
    }
}

/// A value for people: amounts of money are objects in the file.
fn text(value: &Value) -> String {
    match (amount(value), value) {
        (Some(amount), _) => amount,
        (None, Value::Null) => "(none)".to_owned(),
        (None, Value::String(text)) => text.clone(),
        (None, value) => value.to_string(),
    }
}

fn amount(value: &Value) -> Option<String> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let (unit, amount) = object.iter().next()?;
    let unit = unit.strip_prefix('$')?;
    Some(format!("{} {}", amount.as_str()?, unit.to_uppercase()))
}

impl Settings for Bridge {
    fn file(&self) -> Option<String> {
        self.file.as_ref().map(|file| file.display().to_string())
    }

    fn all(&self) -> Vec<modules::Setting> {
        self.all.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::config::node::RunConfig;
    use crate::config::place::Origin;
    use crate::settings::effective::{Over, settings};

    #[test]
    fn values_have_their_origin_and_secrets_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let text = r#"{mdns: false, data_dir: "/elsewhere", web: {token: "hidden-hidden-hidden"}, openai: {
            provider: {openai_base_url: "http://127.0.0.1:1/v1", openai_api_key: "sk-hidden", offers: {}, discover: {
                input_token_price: {$pol: "1"}, output_token_price: {$pol: "1"}}},
            consumer: {limits: {daily: {$pol: "2"}}}}}"#;
        std::fs::write(&path, text).unwrap();
        let named = directory.path().to_owned();
        let config = RunConfig::read(&path, Some(named.clone())).unwrap();
        let over = Over {
            data_dir: Some(Origin::Flag),
            log_format: Some(LogFormat::Json),
        };
        let bridge = Bridge::new(Some(path), settings(&config, over));
        let find = |key: &str| {
            let setting = bridge.all.iter().find(|setting| setting.key == key);
            let setting = setting.unwrap_or_else(|| panic!("no {key}"));
            (setting.value.as_str(), setting.origin.as_str())
        };
        assert_eq!(find("mdns"), ("false", "file"));
        assert_eq!(find("port_mapping"), ("true", "default"));
        assert_eq!(find("data_dir"), (named.to_str().unwrap(), "flag"));
        assert_eq!(find("log.format"), ("json", "flag"));
        assert_eq!(find("openai.consumer.limits.daily"), ("2 POL", "file"));
        assert_eq!(find("web.token"), ("(hidden)", "file"));
        let shows = |setting: &modules::Setting| {
            setting.value.contains("hidden-") || setting.value.contains("sk-")
        };
        assert!(!bridge.all.iter().any(shows));
    }
}
