//! `derouter quote`: what a request would cost at each offer, and which would be tried first. It asks
//! the running gateway, which knows how the providers did.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::cli::quote::QuoteArgs;
use crate::config::node::RunConfig;
use crate::config::openai::DEFAULT_PORT;
use crate::config::place;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{cut, printable};

/// The gateway is on this machine and answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Characters at the end of a peer id that tell peers apart, and that preferences take.
const SHORT_ID: usize = 8;

/// Asks and prints.
pub(crate) async fn quote(args: QuoteArgs, output: Output) -> Result<(), Failure> {
    let base = base(&args)?;
    let url = question(&base, &args)?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(|error| Failure::failed(format_args!("can't make an HTTP client: {error}")))?;
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| unreachable(&base, &error))?;
    let status = answer.status();
    let body = answer.bytes().await;
    let body = body.map_err(|error| unreachable(&base, &error))?;
    let quote: Value = serde_json::from_slice(&body).map_err(|_| no_gateway(&base))?;
    if !status.is_success() {
        let message = field(field(&quote, "error"), "message").as_str();
        let message = message.map_or_else(|| status.to_string(), printable);
        return Err(Failure::failed(message));
    }
    if field(&quote, "object") != "derouter.quote" {
        return Err(no_gateway(&base));
    }
    output.show("derouter.quote/1", &quote, |output| {
        table(&quote, output.width())
    });
    Ok(())
}

/// Where the gateway is, without a path.
fn base(args: &QuoteArgs) -> Result<String, Failure> {
    if let Some(url) = &args.url {
        return Ok(url.trim_end_matches("/v1").to_owned());
    }
    if let (None, Some(url)) = (&args.config, place::variable(place::URL)) {
        let url = url.to_string_lossy();
        let url = crate::config::base_url(&url)
            .map_err(|problem| Failure::environment(format_args!("{}: {problem}", place::URL)))?;
        return Ok(url.trim_end_matches("/v1").to_owned());
    }
    let Some((path, _)) = place::file(args.config.as_deref()) else {
        return Ok(format!("http://127.0.0.1:{DEFAULT_PORT}"));
    };
    let config = RunConfig::load(Some(&path))?;
    let Some(consumer) = config.openai.consumer else {
        return Err(Failure::environment(format_args!(
            "{} has no `openai.consumer`: say where the OpenAI endpoint is with `--url`",
            path.display()
        )));
    };
    if consumer.port == 0 {
        return Err(Failure::environment(
            "the configuration lets the system choose `server.port`: say where the OpenAI endpoint is \
             with `--url` (its log and `--ready-json` tell)",
        ));
    }
    let address = SocketAddr::new(dialled(consumer.host), consumer.port);
    Ok(format!("http://{address}"))
}

/// What listens everywhere is dialled on this machine.
fn dialled(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

fn question(base: &str, args: &QuoteArgs) -> Result<reqwest::Url, Failure> {
    let url = reqwest::Url::parse(&format!("{base}/derouter/quote"));
    let mut url = url.map_err(Failure::usage)?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs
            .append_pair("model", &args.model)
            .append_pair("in", &args.input.to_string())
            .append_pair("out", &args.output.to_string());
        let said = [
            ("sort", args.sort.map(|sort| sort.name().to_owned())),
            ("only", args.only.clone()),
            ("max_price", args.max_price.clone()),
        ];
        for (name, value) in said {
            if let Some(value) = value {
                pairs.append_pair(name, &value);
            }
        }
    }
    Ok(url)
}

fn unreachable(base: &str, error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        return Failure::not_running(format_args!(
            "no OpenAI endpoint answers at {base}. Start a node with `openai: {{consumer: {{}}}}`, or say \
             where it is with `-c FILE` or `--url URL`"
        ));
    }
    Failure::failed(format_args!("{base} does not answer: {error}"))
}

fn no_gateway(base: &str) -> Failure {
    Failure::failed(format_args!(
        "what answers at {base} is no gateway of this version"
    ))
}

/// The quote as people read it.
fn table(quote: &Value, width: usize) -> String {
    let mut lines = format!(
        "{}: {} tokens in, {} out\n\n{:<8}  {:<14} {:>14} {:>7} {:>7} {:>5} {:>6}  NOTE",
        text(field(quote, "model")),
        field(quote, "in"),
        field(quote, "out"),
        "PROVIDER",
        "OFFER",
        "COST POL",
        "FIRST",
        "TOK/S",
        "GOOD",
        "SCORE",
    );
    for offer in field(quote, "offers").as_array().into_iter().flatten() {
        let line = format!(
            "{:<8}  {:<14} {:>14} {:>7} {:>7} {:>5} {:>6}  {}",
            short(field(offer, "provider")),
            cut(&text(field(offer, "offer")), 14),
            text(field(offer, "cost")),
            number(field(offer, "first_token_seconds"), "s"),
            number(field(offer, "tokens_per_second"), ""),
            percent(field(offer, "success")),
            number(field(offer, "score"), ""),
            note(offer),
        );
        let _ = write!(lines, "\n{}", line.trim_end());
    }
    if field(quote, "fitting") == 0 {
        lines.push_str("\n(no offer fits)");
    }
    let excluded = field(quote, "excluded").as_array().into_iter().flatten();
    for (index, offer) in excluded.enumerate() {
        if index == 0 {
            let _ = write!(lines, "\n\nleft out: {}", field(quote, "left_out"));
        }
        let line = format!(
            "{:<8}  {:<14} by {} {}",
            short(field(offer, "provider")),
            cut(&text(field(offer, "offer")), 14),
            text(field(offer, "rule")),
            text(field(offer, "detail")),
        );
        let _ = write!(lines, "\n{}", cut(line.trim_end(), width));
    }
    lines
}

fn note(offer: &Value) -> String {
    let mut notes = Vec::new();
    if field(offer, "cooling") == true {
        notes.push("failed just now");
    }
    if field(offer, "tried")
        .as_f64()
        .is_none_or(|tried| tried < 1.0)
    {
        notes.push("new");
    }
    if field(offer, "path") == "relayed" {
        notes.push("relayed");
    }
    notes.join(", ")
}

/// A field; null when it is not there.
fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or(""))
}

fn short(provider: &Value) -> String {
    let id = text(provider);
    let from = id.len().saturating_sub(SHORT_ID);
    id.get(from..).unwrap_or(&id).to_owned()
}

fn number(value: &Value, unit: &str) -> String {
    match value.as_f64() {
        Some(number) if number >= 100.0 => format!("{number:.0}{unit}"),
        Some(number) => format!("{number:.2}{unit}"),
        None => "-".to_owned(),
    }
}

fn percent(value: &Value) -> String {
    let share = value.as_f64();
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quote_is_a_table_whatever_providers_call_their_offers() {
        let provider = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        let quote = json!({"model": "m", "in": 1000, "out": 500, "fitting": 1, "left_out": 1,
            "offers": [{"provider": provider, "offer": "a\u{1b}[2J", "cost": "0.0015",
                "first_token_seconds": 0.25, "tokens_per_second": null, "success": 0.95, "tried": 0.0,
                "score": 0.051, "path": "relayed", "cooling": true}],
            "excluded": [{"provider": provider, "offer": "b", "rule": "max_price", "detail": "prompt"}]});
        let table = table(&quote, 80);
        assert!(table.contains("vnc6iDEp  a[2J"), "{table}");
        assert!(
            table.contains("0.25s       -   95%   0.05  failed just now, new, relayed"),
            "{table}"
        );
        assert!(
            table.contains("left out: 1\nvnc6iDEp  b              by max_price prompt"),
            "{table}"
        );
        assert!(!table.contains('\u{1b}'));
    }
}
