//! `derouter rpc call`: any request of RPC 0.2, with JSON in and out.

mod json;

use std::io::Read;

use derouter_sdk::NodeError;
use derouter_sdk::wire::cbor;
use serde_json::Value;

use crate::cli::rpc::{CallArgs, RpcCommand};
use crate::failure::{Failure, Kind};
use crate::output::{self, Output};
use crate::rpc_node::RpcNode;
use crate::text::printable;
use json::{AsCbor, AsJson};

/// Bytes of a request that are read: what the RPC takes.
const REQUEST_BYTES: u64 = 8 * 1024 * 1024;

/// Requests that only ask.
const ASKS: [&str; 4] = ["Query", "List", "SubscribeTo", "PingPeer"];

/// Does it.
pub(crate) async fn rpc(command: RpcCommand, output: Output) -> Result<(), Failure> {
    match command {
        RpcCommand::Call(args) => call(args, output).await,
    }
}

async fn call(args: CallArgs, output: Output) -> Result<(), Failure> {
    let data = data(&args.data)?;
    let only_asks = ASKS.iter().any(|begin| args.method.starts_with(begin))
        || args.method == "CancelSubscription"
        || args.method == "ConsumerGetJob";
    if !only_asks {
        let question = format!(
            "{} may change something or spend money.",
            printable(&args.method)
        );
        output.confirm(&question, args.yes)?;
    }
    let node = RpcNode::find(&args.node).await?;
    let calls = node.calls();
    let answer = calls
        .call_raw(&args.method, &AsCbor(&data), args.timeout)
        .await;
    let answer = answer.map_err(|error| match error {
        NodeError::Timeout(_) => Failure::time_is_up("the node does not answer in time"),
        error => node.failure(error),
    })?;
    let AsJson(answer) = cbor::from_slice(&answer)
        .map_err(|error| Failure::failed(format_args!("the answer can't be read: {error}")))?;
    show(&args.method, &answer, output)
}

fn data(text: &str) -> Result<Value, Failure> {
    let mut read = String::new();
    let text = match text {
        "-" => {
            let stdin = std::io::stdin().lock().take(REQUEST_BYTES);
            let mut stdin = stdin;
            let failed = |error| Failure::failed(format_args!("can't read the request: {error}"));
            stdin.read_to_string(&mut read).map_err(failed)?;
            read.as_str()
        }
        text => text,
    };
    json5::from_str(text)
        .map_err(|error| Failure::usage(format_args!("the request's data is no JSON: {error}")))
}

/// Shows an answer, or what the node has against the request.
fn show(method: &str, answer: &Value, output: Output) -> Result<(), Failure> {
    let content = answer.get("content").unwrap_or(&Value::Null);
    if answer.get("tag").and_then(Value::as_str) == Some("Error") {
        let text = |key| content.get(key).and_then(Value::as_str).unwrap_or_default();
        let (code, message) = (text("code"), text("message"));
        let kind = match code {
            "Forbidden" | "Unauthorized" => Kind::NotAuthorised,
            "UnknownRequest" | "BadRequest" => Kind::Usage,
            "DeadlineExceeded" => Kind::Timeout,
            _ => Kind::Failed,
        };
        return Err(Failure::of(
            kind,
            format_args!("{}: {}", printable(code), printable(message)),
        ));
    }
    let told = serde_json::json!({"method": method, "answer": content});
    if output.is_json() {
        output::document("derouter.rpc/1", &told);
        return Ok(());
    }
    let text = serde_json::to_string_pretty(content).map_err(Failure::failed)?;
    // JSON escapes what moves the cursor, but not what turns text around.
    let lines: Vec<String> = text.lines().map(printable).collect();
    output::line(&lines.join("\n"));
    Ok(())
}
