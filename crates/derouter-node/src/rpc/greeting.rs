//! How a connection begins: with Hello, or as that of a 0.1 module.

use std::collections::HashSet;
use std::sync::Arc;

use derouter_sdk::{ModuleDetails, ModulePlace, ModuleReporter};
use derouter_wire::cbor;
use derouter_wire::rpc::Frame;
use derouter_wire::rpc::error::ErrorCode;
use derouter_wire::rpc::hello::{
    Capability, FEATURES, Hello, HelloReply, RpcLimits, SPOKEN, Welcome,
};

use super::access::Token;
use super::connection::Session;
use super::failure::Failure;

/// A way in, and what it asks of whoever comes.
pub(super) struct Door {
    /// What Hello must hold; `None` where whoever came has proved who it is.
    pub(super) token: Option<Token>,
    /// Whether modules of 0.1 may come in.
    pub(super) allow_legacy: bool,
    /// Random, and another one after each start of the node.
    pub(super) instance: Arc<str>,
}

/// What a connection speaks. Settled by its first request, for good.
#[derive(Clone, Debug)]
pub(super) enum Dialect {
    /// 0.1.
    Legacy,
    /// 0.2, with what the module may do.
    Modern(HashSet<Capability>),
}

impl Dialect {
    pub(super) fn is_0_2(&self) -> bool {
        matches!(self, Self::Modern(_))
    }

    pub(super) fn may(&self, capability: Capability) -> bool {
        match self {
            Self::Legacy => true,
            Self::Modern(granted) => granted.contains(&capability),
        }
    }
}

impl Door {
    /// Looks at a Hello.
    fn check(&self, hello: &Hello) -> Result<(u32, HashSet<Capability>), Failure> {
        if let Some(token) = &self.token {
            let given = hello.token.as_ref().map_or("", |given| given.as_str());
            if !token.is(given) {
                return Err(Failure::of(ErrorCode::Unauthorized));
            }
        }
        let version = SPOKEN.best(hello.versions).ok_or_else(|| {
            let text = format!(
                "this node speaks RPC versions {SPOKEN}, the module {}",
                hello.versions
            );
            Failure::new(ErrorCode::VersionMismatch, text)
        })?;
        let granted = match &hello.capabilities {
            None => Capability::ALL.into_iter().collect(),
            Some(names) => {
                let known = names
                    .iter()
                    .filter_map(|name| Capability::of(name.as_str()));
                known.collect()
            }
        };
        Ok((version, granted))
    }
}

impl Session {
    /// Answers a Hello. Its errors have the form of 0.2, whatever comes of it.
    pub(super) async fn hello(&self, frame: &Frame<'_>) -> Result<Dialect, Failure> {
        let hello: Hello = cbor::from_slice(frame.data)?;
        let (version, granted) = self.door.check(&hello)?;
        let capabilities = Capability::ALL.into_iter();
        let welcome = Welcome {
            version,
            peer_id: self.node.peer_id().await?,
            node_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.door.instance.to_string(),
            features: FEATURES.iter().map(|name| (*name).to_owned()).collect(),
            capabilities: capabilities.filter(|one| granted.contains(one)).collect(),
            limits: RpcLimits::default(),
        };
        tracing::info!(
            from = %self.from,
            module = hello.module.name.as_str(),
            version,
            "a module says hello"
        );
        self.register_module(&hello, &welcome.capabilities);
        let reply = HelloReply::Ok(Box::new(welcome));
        let sent = self
            .caller
            .respond(frame.id, &frame.type_name, &reply)
            .await;
        sent.map_err(Failure::internal)?;
        Ok(Dialect::Modern(granted))
    }

    /// Lets the module be among those that the node tells of, for as long as its connection lives.
    fn register_module(&self, hello: &Hello, capabilities: &[Capability]) {
        let details = ModuleDetails {
            name: hello.module.name.as_str().to_owned(),
            version: hello
                .module
                .version
                .as_ref()
                .map(|it| it.as_str().to_owned()),
            place: ModulePlace::Connection,
            from: Some(self.from.clone()),
            capabilities: capabilities.iter().map(|it| it.name().to_owned()).collect(),
        };
        match self.node.register_module(details, Arc::new(SaysNothing)) {
            Ok(registration) => self.keep_registration(registration),
            Err(error) => tracing::debug!(%error, "a module is not among those that are told of"),
        }
    }
}

/// What a module on a connection tells of itself.
struct SaysNothing;

impl ModuleReporter for SaysNothing {
    fn state(&self) -> Option<String> {
        None
    }
}
