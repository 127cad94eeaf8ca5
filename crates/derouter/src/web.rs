//! The dashboard of this process: what its pages know of the node's modules, its configuration and
//! its log.

mod gateway;
mod ledger;
mod log_layer;
mod provider;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use derouter_sdk::Node;
use derouter_web::{Modules, RunningWeb, WebOptions};

use crate::failure::Failure;
use crate::modules::RunningModules;
use crate::settings::effective::Setting;

pub(crate) use log_layer::{LogLayer, ring};

/// What the dashboard needs of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct WebPlan {
    /// How to serve it.
    pub(crate) options: WebOptions,
    /// The configuration's file.
    pub(crate) file: Option<PathBuf>,
    /// What the configuration says.
    pub(crate) settings: Vec<Setting>,
    /// Where the node's files are.
    pub(crate) data_dir: PathBuf,
    /// The node's database.
    pub(crate) database: PathBuf,
    /// The servers behind the offers, for tests of offers.
    pub(crate) backends: Vec<provider::Server>,
}

/// The servers of a configuration.
pub(crate) fn servers(config: &crate::config::openai::OpenAiModules) -> Vec<provider::Server> {
    let backends = config.providers.iter().flat_map(|it| &it.backends);
    backends.map(provider::Server::of).collect()
}

/// Starts the dashboard.
pub(crate) async fn start(
    node: Arc<dyn Node>,
    running: &RunningModules,
    plan: WebPlan,
) -> Result<RunningWeb, Failure> {
    let modules = modules(running, &plan)?;
    let started = derouter_web::start(node, plan.options, modules).await;
    started.map_err(|error| match error {
        derouter_web::StartError::Bind { .. } => Failure::environment(format_args!(
            "{error}. Stop the program that uses it, or set another `web.port`"
        )),
        error => Failure::environment(error),
    })
}

fn modules(running: &RunningModules, plan: &WebPlan) -> Result<Modules, Failure> {
    let data_dir: &Path = &plan.data_dir;
    let settings = settings::Bridge::new(plan.file.clone(), plan.settings.clone());
    let gateway = match (running.gateway(), running.openai()) {
        (Some(viewer), Some(address)) => Some(gateway::Bridge::new(viewer, address, data_dir)?),
        _ => None,
    };
    let providers = running.providers();
    let provider = (!providers.is_empty())
        .then(|| provider::Bridge::new(providers, data_dir, plan.backends.clone()));
    Ok(Modules {
        gateway: gateway.map(|it| Arc::new(it) as _),
        provider: provider.transpose()?.map(|it| Arc::new(it) as _),
        settings: Some(Arc::new(settings)),
        protocols: Some(Arc::new(ledger::Protocols)),
        proofs: Some(Arc::new(ledger::Proofs::new(plan.database.clone()))),
        logs: Some(ring()),
    })
}
