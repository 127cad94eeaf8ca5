//! Jobs as they change, resumed by cursor.

use derouter_sdk::{Cursor, JobEvent, JobFilter, JobRecord, Node, PeerId, Wei};
use serde_json::json;

use crate::cli::db::RoleArg;
use crate::cli::jobs::WatchArgs;
use crate::failure::Failure;
use crate::offers::end_of;
use crate::output::Output;
use crate::rpc_node::RpcNode;
use crate::text::{cut, day_and_time, now, printable, short_amount};

pub(super) async fn watch(args: &WatchArgs, output: Output) -> Result<(), Failure> {
    let node = RpcNode::find(&args.node).await?;
    let calls = node.calls();
    let own = calls.peer_id().await.map_err(|error| node.failure(error))?;
    let filter = JobFilter {
        protocol_ids: None,
        provider_peer_ids: of_role(args.role, RoleArg::Provider, own),
        consumer_peer_ids: of_role(args.role, RoleArg::Consumer, own),
    };
    let since = args.since_cursor.as_deref();
    let watch = match since.map(cursor).transpose()? {
        Some(since) => calls.resume_jobs(filter, &since).await,
        None => calls.watch_jobs(filter).await,
    };
    let mut watch = watch.map_err(|error| node.failure(error))?;
    if since.is_some() && !watch.resumed() {
        output.note("the node does not know that cursor: changes before now are not told");
    }
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match event {
            None => return Err(Failure::failed("the node has stopped")),
            Some(JobEvent::Reset) => {}
            Some(JobEvent::Updated(job)) => show(&job, own, watch.cursor(), output),
        }
    }
}

fn of_role(asked: Option<RoleArg>, role: RoleArg, own: PeerId) -> Option<Vec<PeerId>> {
    (asked == Some(role)).then(|| vec![own])
}

fn cursor(text: &str) -> Result<Cursor, Failure> {
    match text {
        "start" => Ok(Cursor::start()),
        text => Cursor::new(text)
            .map_err(|error| Failure::usage(format_args!("--since-cursor: {error}"))),
    }
}

/// How a job stands, by what a node tells of it.
fn state(job: &JobRecord) -> &'static str {
    let failed = job.reason.is_some() || job.reason_class.is_some();
    match (
        failed,
        job.completed_at_local,
        job.signature_confirmed_at_local,
    ) {
        (true, ..) => "failed",
        (_, None, _) => "open",
        (_, Some(_), None) if job.confirmation_error.is_some() => "disputed",
        (_, Some(_), None) => "completed",
        (_, Some(_), Some(_)) => "confirmed",
    }
}

fn show(job: &JobRecord, own: PeerId, cursor: Option<&Cursor>, output: Output) {
    let state = state(job);
    let is_provider = job.provider_peer_id == own;
    let role = if is_provider { "provider" } else { "consumer" };
    let balance = job.balance_delta.as_deref();
    let amount = balance.and_then(|text| text.parse::<Wei>().ok());
    let amount = amount.map(Wei::to_pol_text);
    let reason = job.reason.as_deref().or(job.confirmation_error.as_deref());
    let reason = reason.map(printable);
    let told = json!({
        "at": now(),
        "cursor": cursor,
        "row": job.job_rowid,
        "role": role,
        "state": state,
        "provider": job.provider_peer_id.to_string(),
        "consumer": job.consumer_peer_id.to_string(),
        "job_id": printable(job.provider_job_id.as_str()),
        "protocol_id": printable(job.offer_protocol_id.as_str()),
        "offer_id": printable(job.offer_id.as_str()),
        "amount": amount,
        "currency": "POL",
        "created_at": job.created_at_local,
        "completed_at": job.completed_at_local,
        "reason": reason,
    });
    output.show("derouter.job.event/1", &told, |output| {
        let other = match is_provider {
            true => job.consumer_peer_id,
            false => job.provider_peer_id,
        };
        let line = format!(
            "{}  {role}  {state:<9}  {:>10}  {}  {}  {}  {}",
            day_and_time(now().0),
            amount.as_deref().map_or_else(|| "-".into(), short_amount),
            end_of(&other.to_string()),
            cut(&printable(job.offer_id.as_str()), 16),
            printable(job.provider_job_id.as_str())
                .chars()
                .take(8)
                .collect::<String>(),
            reason.unwrap_or_default(),
        );
        cut(line.trim_end(), output.width())
    });
}
