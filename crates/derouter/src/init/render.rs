//! The text of a new configuration: short, commented, and with what is most often changed. Pure.

use std::fmt::Write as _;

use derouter_sdk::{OfferId, Wei};

use super::Plan;
use crate::config::openai::DEFAULT_PORT;

/// The file's text.
pub(super) fn config(plan: &Plan<'_>) -> String {
    let args = plan.args;
    let mut text = String::from(
        "// derouter's configuration: JSON5. Every key is in docs/config.md; `derouter config schema`\n\
         // prints them too, `derouter config show --origin` what holds, and `derouter doctor` checks it all.\n{\n",
    );
    if let Some(directory) = &plan.data_dir {
        let directory = quoted(&directory.display().to_string());
        let _ = writeln!(
            text,
            "  // The key, the database, the log.\n  data_dir: {directory},"
        );
    }
    network(&mut text, plan);
    if let Some(port) = args.rpc_port {
        let _ = writeln!(
            text,
            "  // Where modules and commands ask the node.\n  server: {{ port: {port} }},"
        );
    }
    if plan.role.sells() {
        let name = args.name.as_deref().unwrap_or("A derouter node");
        let _ = writeln!(
            text,
            "  // What others see of this node.\n  provider: {{ name: {} }},",
            quoted(name)
        );
    }
    text.push_str("  openai: {\n");
    if plan.role.sells() {
        provider(&mut text, plan);
    }
    if plan.role.buys() {
        consumer(&mut text, plan);
    }
    text.push_str("  },\n}\n");
    text
}

fn network(text: &mut String, plan: &Plan<'_>) {
    let args = plan.args;
    text.push_str(
        "  // Peers to begin with, such as \"/ip4/203.0.113.5/tcp/4001/p2p/12D3KooW...\". In the local network\n  \
         // nodes find each other without.\n",
    );
    let peers = args.bootstrap.iter().map(|peer| quoted(&peer.to_string()));
    let _ = writeln!(
        text,
        "  bootstrap: [{}],",
        peers.collect::<Vec<_>>().join(", ")
    );
    if args.no_mdns {
        text.push_str("  // Whether to look for peers in the local network.\n  mdns: false,\n");
    }
    match args.peer_port {
        Some(port) => {
            let _ = writeln!(
                text,
                "  listen: [\"/ip4/0.0.0.0/tcp/{port}\", \"/ip4/0.0.0.0/udp/{port}/quic-v1\"],"
            );
        }
        None => text.push_str(
            "  // A fixed port is needed by those who name this node as a peer to begin with:\n  \
             // listen: [\"/ip4/0.0.0.0/tcp/4001\", \"/ip4/0.0.0.0/udp/4001/quic-v1\"],\n",
        ),
    }
}

fn provider(text: &mut String, plan: &Plan<'_>) {
    let Some(server) = &plan.server else {
        return;
    };
    let args = plan.args;
    let _ = write!(
        text,
        "    // Sells what this server answers.\n    provider: {{\n      openai_base_url: {},\n",
        quoted(&server.base_url)
    );
    if let Some(key) = &args.backend_key {
        let _ = writeln!(text, "      openai_api_key: {},", quoted(key));
    }
    let price = |price: Wei| format!("{{ $pol: \"{}\" }}", price.to_pol_text());
    let (input, output) = (price(args.input_price), price(args.output_price));
    let prices = |indent: &str| {
        format!(
            "{indent}// POL for 1,000,000 tokens.\n{indent}input_token_price: {input},\n\
             {indent}output_token_price: {output},\n"
        )
    };
    if args.models.is_empty() {
        let _ = write!(
            text,
            "      // Every model that it names.\n      discover: {{\n{}        // The context window where the server \
             does not tell it.\n        context_size: {},\n      }},\n",
            prices("        "),
            args.context
        );
    } else {
        text.push_str("      offers: {\n");
        for (index, model) in server.models.iter().enumerate() {
            // A model's name is the offer's where it can be.
            let id = match OfferId::new(model.as_str()) {
                Ok(_) => model.clone(),
                Err(_) => format!("offer-{}", index + 1),
            };
            let _ = write!(
                text,
                "        {}: {{\n          model_id: {},\n          context_size: {},\n{}        }},\n",
                quoted(&id),
                quoted(model),
                args.context,
                prices("          ")
            );
        }
        text.push_str("      },\n");
    }
    text.push_str("    },\n");
}

fn consumer(text: &mut String, plan: &Plan<'_>) {
    let args = plan.args;
    text.push_str("    // Buys: an OpenAI-compatible endpoint on this machine.\n    consumer: {\n");
    let port = args.endpoint_port.unwrap_or(DEFAULT_PORT);
    let _ = writeln!(text, "      server: {{ port: {port} }},");
    let daily = args.daily.map_or_else(|| "10".to_owned(), Wei::to_pol_text);
    let _ = write!(
        text,
        "      // The most that is spent a day (UTC), in POL.\n      limits: {{ daily: {{ $pol: \"{daily}\" }} }},\n    }},\n"
    );
}

/// A text in quotes. JSON's are JSON5's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
