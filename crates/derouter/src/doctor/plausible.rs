//! Configurations that are right, and hardly do what is wanted.

use std::net::IpAddr;

use derouter_node::Multiaddr;
use derouter_openai::consumer::KeyStore;
use derouter_sdk::Wei;

use super::{Check, Patient};
use crate::config::network::of_this_node;
use crate::config::node::RunConfig;

pub(super) fn check(patient: &Patient, checks: &mut Vec<Check>) {
    let Ok(config) = &patient.config else {
        return;
    };
    checks.push(purpose(config, patient));
    checks.push(peers(config));
    checks.push(listens(config));
    checks.push(paths(config));
    checks.push(external(config));
    checks.push(prices(config));
    checks.push(endpoint(config));
}

fn purpose(config: &RunConfig, patient: &Patient) -> Check {
    const ID: &str = "modules";
    let (sells, buys) = (
        config.openai.providers.len(),
        config.openai.consumer.is_some(),
    );
    if sells == 0 && !buys && patient.file.is_some() {
        return Check::warn(
            ID,
            "the node neither sells nor buys",
            "add `openai: { provider: {...} }` or `openai: { consumer: {} }`, unless modules of their own do it",
        );
    }
    Check::ok(
        ID,
        format!(
            "sells from {sells}, {}",
            if buys { "buys" } else { "does not buy" }
        ),
    )
}

fn peers(config: &RunConfig) -> Check {
    const ID: &str = "bootstrap";
    let net = &config.node.net;
    if net.bootstrap.is_empty() && !net.mdns {
        return Check::fail(
            ID,
            "no peer is named, and the local network is not searched: the node stays alone",
            "name one in `bootstrap`, such as /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW..., or set `mdns: true`",
        );
    }
    let own = derouter_node::identity::load(&config.node.keypair_path);
    let own = own
        .ok()
        .flatten()
        .map(|key| key.public().to_peer_id().to_string());
    let is_own = |address: &&Multiaddr| {
        own.as_ref()
            .is_some_and(|own| address.to_string().ends_with(&format!("/p2p/{own}")))
    };
    if let Some(address) = net.bootstrap.iter().find(is_own) {
        return Check::warn(
            ID,
            format!("{address} is this node itself"),
            "remove it from `bootstrap`; name others",
        );
    }
    match net.bootstrap.len() {
        0 => Check::warn(
            ID,
            "only peers of the local network will be found",
            "name a peer in `bootstrap` to trade with the world",
        ),
        number => Check::ok(ID, format!("{number} named")),
    }
}

/// The IP address in a multiaddr.
fn ip(address: &Multiaddr) -> Option<IpAddr> {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    let kind = parts.next()?;
    matches!(kind, "ip4" | "ip6").then(|| parts.next()?.parse().ok())?
}

fn listens(config: &RunConfig) -> Check {
    const ID: &str = "listen";
    let listen = &config.node.net.listen;
    if listen.is_empty() {
        return Check::warn(
            ID,
            "the node listens nowhere: others reach it through relays alone",
            "remove `listen`, or name addresses in it",
        );
    }
    let alone = listen
        .iter()
        .all(|address| ip(address).is_some_and(|ip| ip.is_loopback()));
    if alone {
        return Check::warn(
            ID,
            "the node listens on 127.0.0.1 only: no other machine can dial it",
            "listen on all networks: remove `listen`, or put /ip4/0.0.0.0/tcp/4001 into it",
        );
    }
    Check::ok(ID, config.net_listen().join(", "))
}

fn paths(config: &RunConfig) -> Check {
    const ID: &str = "paths";
    let all = [
        ("data_dir", &config.data_dir),
        ("keypair_path", &config.node.keypair_path),
        ("database_path", &config.node.database_path),
    ];
    match all.iter().find(|(_, path)| path.is_relative()) {
        Some((name, path)) => Check::warn(
            ID,
            format!(
                "`{name}` is {}: another place for each directory that the node is started in",
                path.display()
            ),
            format!("write the whole path of `{name}`"),
        ),
        None => Check::ok(ID, "whole"),
    }
}

fn external(config: &RunConfig) -> Check {
    const ID: &str = "external";
    let net = &config.node.net;
    let own = derouter_node::identity::load(&config.node.keypair_path);
    if let Ok(Some(own)) = own
        && let Err(why) = of_this_node(&net.external_addresses, own.public().to_peer_id())
    {
        return Check::fail(ID, why, "correct `external_addresses`");
    }
    let private = |address: &&Multiaddr| !derouter_net::is_global(address) && ip(address).is_some();
    match net.external_addresses.iter().find(private) {
        Some(address) if !net.private_network => Check::fail(
            ID,
            format!(
                "{address} in `external_addresses` is of a private network: nobody outside can dial it"
            ),
            "name the public address there; or set `private_network: true` where all nodes are in that network",
        ),
        _ => Check::ok(ID, format!("{} named", net.external_addresses.len())),
    }
}

fn prices(config: &RunConfig) -> Check {
    const ID: &str = "prices";
    let backends = config
        .openai
        .providers
        .iter()
        .flat_map(|provider| &provider.backends);
    let mut free = Vec::new();
    for backend in backends {
        let offers = backend.offers.iter();
        let offers = offers.filter(|(_, offer)| {
            offer.input_token_price == Wei::ZERO && offer.output_token_price == Wei::ZERO
        });
        free.extend(offers.map(|(id, _)| id.clone()));
        let discover = backend.options.discover.as_ref();
        let gives = discover.is_some_and(|discover| {
            discover.input_token_price == Wei::ZERO && discover.output_token_price == Wei::ZERO
        });
        if gives {
            free.push("every model that is discovered".to_owned());
        }
    }
    match free.first() {
        Some(first) => Check::warn(
            ID,
            format!("{first} costs nothing: anybody may use it without end"),
            "set `input_token_price` and `output_token_price`, or limit consumers with `requests_per_minute` and \
             `allow_consumers`",
        ),
        None => Check::ok(ID, "set"),
    }
}

fn endpoint(config: &RunConfig) -> Check {
    const ID: &str = "endpoint";
    let Some(consumer) = &config.openai.consumer else {
        return Check::skip(ID, "the node does not buy");
    };
    let keys = KeyStore::new(&config.data_dir).list();
    let has_keys = keys.is_ok_and(|keys| keys.is_some_and(|keys| !keys.is_empty()));
    if !consumer.host.is_loopback() && !has_keys {
        return Check::fail(
            ID,
            format!(
                "the OpenAI endpoint listens at {} without keys: whoever can connect would spend your money, so it \
                 does not start",
                consumer.host
            ),
            "make a key (`derouter token create NAME`), or set `openai.consumer.server.host` to 127.0.0.1",
        );
    }
    Check::ok(ID, format!("{}:{}", consumer.host, consumer.port))
}
