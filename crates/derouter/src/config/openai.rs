//! The OpenAI sections. They take the keys of 0.1.0's own modules, so that such a module's file can
//! be used as it is, as a section of the node's file or with `derouter openai`.

mod consumer;
mod provider;
mod routing;

use std::collections::BTreeMap;
use std::path::Path;

use derouter_openai::consumer::ConsumerConfig;
use derouter_openai::provider::ProviderConfig;
use derouter_sdk::Wei;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfigError;
use super::value::{LiteralPath, OneOrMany, Pol, Port};
pub(crate) use consumer::DEFAULT_PORT;
pub(super) use consumer::{ConsumerSection, Host};
pub(super) use provider::ProviderSection;

/// The `openai` section of the node's file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OpenAiSection {
    /// Sells what OpenAI-compatible servers answer: one section, or a list of them.
    provider: OneOrMany<ProviderSection>,
    /// Buys: an OpenAI-compatible endpoint on this machine.
    consumer: Option<ConsumerSection>,
}

/// The OpenAI modules to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenAiModules {
    /// One for each section.
    pub(crate) providers: Vec<ProviderConfig>,
    /// The endpoint.
    pub(crate) consumer: Option<ConsumerConfig>,
    /// Keys that were given and mean nothing inside the node.
    pub(crate) ignored: Vec<&'static str>,
}

impl OpenAiSection {
    /// Checks what only shows when all is read. `store_payloads` and `data_dir` are the node's.
    pub(super) fn check(
        self,
        path: &Path,
        store_payloads: bool,
        data_dir: &Path,
    ) -> Result<OpenAiModules, ConfigError> {
        let mut modules = OpenAiModules::default();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let single = self.provider.0.len() == 1;
        for (index, section) in self.provider.0.into_iter().enumerate() {
            let key = if single {
                "openai.provider".to_owned()
            } else {
                format!("openai.provider[{index}]")
            };
            for id in section.offer_ids() {
                if let Some(other) = seen.insert(id.clone(), key.clone()) {
                    let problem = format!("an offer named {id:?} is in `{other}` already");
                    return Err(ConfigError::at(path, &format!("{key}.offers"), problem));
                }
            }
            modules.ignored.extend(section.keys_of_a_process());
            modules
                .providers
                .push(section.check(path, &key, store_payloads, Some(data_dir))?);
        }
        if let Some(section) = self.consumer {
            modules.ignored.extend(section.keys_of_a_process());
            modules.consumer = Some(section.check(store_payloads, Some(data_dir)));
        }
        Ok(modules)
    }
}

/// `rpc: {host, port, data_dir}`: where the node is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RpcSection {
    /// The node's address; without it, 127.0.0.1.
    pub(super) host: Option<String>,
    /// Its `server.port`; without it, 4269.
    #[schemars(extend("minimum" = 1))]
    pub(super) port: Option<Port>,
    /// Its data directory, with its socket and cookie file.
    pub(super) data_dir: Option<LiteralPath>,
}

fn amount(amount: Option<Pol>) -> Option<Wei> {
    amount.map(|amount| amount.0)
}

fn process_keys(given: [(bool, &'static str); 4]) -> impl Iterator<Item = &'static str> {
    given
        .into_iter()
        .filter_map(|(given, key)| given.then_some(key))
}
