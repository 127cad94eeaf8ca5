//! `derouter provide`: what this node sells.

mod backend;
mod bench;
mod change;
mod list;
mod test;
mod why;

use std::collections::BTreeMap;
use std::path::PathBuf;

use derouter_openai::provider::view::ProviderView;
use derouter_openai::provider::{
    BackendConfig, Entries, OfferConfig, OfferStore, OverlayError, ProviderConfig, Secret,
};
use derouter_sdk::ModuleReport;
use serde::Deserialize;

use crate::cli::network::NodeArgs;
use crate::cli::provide::ProvideCommand;
use crate::config::node::RunConfig;
use crate::failure::Failure;
use crate::output::Output;

/// What a provider tells of itself among the node's modules.
pub(crate) const PROVIDER_SCHEMA: &str = "derouter.provider/1";

/// Does it.
pub(crate) async fn provide(command: ProvideCommand, output: Output) -> Result<(), Failure> {
    match command {
        ProvideCommand::List(args) => list::list(args, output).await,
        ProvideCommand::Add(args) => change::add(args, output).await,
        ProvideCommand::Edit(args) => change::edit(args, output).await,
        ProvideCommand::Remove(args) => change::remove(args, output).await,
        ProvideCommand::Restore(args) => change::restore(args, output).await,
        ProvideCommand::Pause(args) => change::pause(args, output).await,
        ProvideCommand::Resume(args) => change::resume(args, output).await,
        ProvideCommand::Test(args) => test::test(args, output).await,
        ProvideCommand::Bench(args) => bench::bench(args, output).await,
    }
}

/// What is read of a provider's word of itself.
#[derive(Deserialize)]
struct Told {
    schema: String,
    #[serde(flatten)]
    view: ProviderView,
}

/// What the providers of a node tell of themselves.
pub(crate) fn views(modules: &[ModuleReport]) -> Vec<ProviderView> {
    let states = modules.iter().filter_map(|module| module.state.as_deref());
    let told = states.filter_map(|state| serde_json::from_str::<Told>(state).ok());
    told.filter(|told| told.schema == PROVIDER_SCHEMA)
        .map(|told| told.view)
        .collect()
}

/// What the configuration and the file of changes say, whether a node runs or not.
struct Sold {
    store: OfferStore,
    entries: Entries,
    providers: Vec<ProviderConfig>,
}

/// An offer, with how its backend is asked.
#[derive(Clone, Debug)]
struct OfferToAsk {
    id: String,
    config: OfferConfig,
    base_url: String,
    key: Option<Secret>,
}

impl Sold {
    fn read(node: &NodeArgs) -> Result<Self, Failure> {
        let config = RunConfig::load(node.config.as_deref())?;
        let directory: PathBuf = node.data_dir.clone().unwrap_or(config.data_dir);
        let store = OfferStore::new(directory);
        let entries = store.list().map_err(failed)?;
        Ok(Self {
            store,
            entries,
            providers: config.openai.providers,
        })
    }

    fn backends(&self) -> impl Iterator<Item = &BackendConfig> {
        self.providers
            .iter()
            .flat_map(|provider| &provider.backends)
    }

    /// Whether the configuration or the file has an offer.
    fn has(&self, id: &str) -> bool {
        self.entries.contains_key(id)
            || self
                .backends()
                .any(|backend| backend.offers.contains_key(id))
    }

    /// The offers that can be asked for: those of the configuration, as they are changed, and those that
    /// were added. Models that a backend names by itself are not among them.
    fn offers(&self) -> BTreeMap<String, OfferToAsk> {
        let mut offers = BTreeMap::new();
        for backend in self.backends() {
            for (id, config) in &backend.offers {
                let entry = self.entries.get(id);
                if entry.is_some_and(|entry| entry.removed) {
                    continue;
                }
                let mut config = config.clone();
                if let Some(entry) = entry {
                    entry.edit.change(&mut config);
                }
                offers.insert(id.clone(), to_ask(id, config, backend));
            }
        }
        for (id, entry) in &self.entries {
            let Some((url, config)) = entry.added() else {
                continue;
            };
            let mut backends = self.backends();
            let backend = backends.find(|backend| same_url(&backend.base_url, url));
            if let Some(backend) = backend
                && !offers.contains_key(id)
            {
                offers.insert(id.clone(), to_ask(id, config, backend));
            }
        }
        offers
    }
}

fn to_ask(id: &str, config: OfferConfig, backend: &BackendConfig) -> OfferToAsk {
    OfferToAsk {
        id: id.to_owned(),
        config,
        base_url: backend.base_url.trim_end_matches('/').to_owned(),
        key: backend.api_key.clone(),
    }
}

/// Whether two base URLs are of one backend, whatever is secret in them.
fn same_url(one: &str, other: &str) -> bool {
    let plain = |text: &str| {
        let Ok(mut url) = reqwest::Url::parse(text) else {
            return text.trim_end_matches('/').to_owned();
        };
        // Neither fails for URLs that have a host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url.set_query(None);
        url.as_str().trim_end_matches('/').to_owned()
    };
    plain(one) == plain(other)
}

/// Every reason is one that the user can mend.
fn failed(error: OverlayError) -> Failure {
    match error {
        OverlayError::Invalid { .. } | OverlayError::Taken(_) => Failure::usage(error),
        error => Failure::environment(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_known_by_its_url_without_what_is_secret() {
        assert!(same_url("http://127.0.0.1:1/v1/", "http://127.0.0.1:1/v1"));
        assert!(same_url(
            "http://u:p@127.0.0.1:1/v1",
            "http://127.0.0.1:1/v1"
        ));
        assert!(!same_url("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"));
    }
}
