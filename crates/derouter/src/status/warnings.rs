//! What is not as it should be, and what to do about it. Pure.

use derouter_sdk::Wei;
use serde::Serialize;

use super::Status;
use crate::offers::wei;
use crate::text::printable;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Warning {
    /// A stable name.
    pub(super) code: String,
    /// What is wrong.
    pub(super) text: String,
    /// What to do.
    pub(super) remedy: String,
}

fn warning(code: &str, text: String, remedy: &str) -> Warning {
    Warning {
        code: code.to_owned(),
        text,
        remedy: remedy.to_owned(),
    }
}

/// All that is to be said.
pub(super) fn warnings(status: &Status) -> Vec<Warning> {
    let mut all = Vec::new();
    if status.node.state == "draining" {
        all.push(warning(
            "draining",
            "the node is on its way down and takes no new work".to_owned(),
            "jobs that run may finish; `derouter up` starts it again behind that",
        ));
    }
    network(status, &mut all);
    providers_file(status, &mut all);
    money(status, &mut all);
    sold(status, &mut all);
    if status.gateways.is_empty() && status.providers.is_empty() && status.modules.is_empty() {
        all.push(warning(
            "no_module",
            "the node neither buys nor sells: it has no module".to_owned(),
            "add an `openai.consumer` or `openai.provider` section to the configuration (`derouter init`)",
        ));
    }
    all
}

fn network(status: &Status, all: &mut Vec<Warning>) {
    let Some(report) = &status.network else {
        return;
    };
    if report.peers == 0 && report.advice.is_empty() {
        all.push(warning(
            "no_peer",
            "no peer is connected".to_owned(),
            "`derouter netcheck` says why",
        ));
    }
    for advice in &report.advice {
        all.push(Warning {
            code: advice.code.clone(),
            // Says what to do, too.
            text: advice.text.clone(),
            remedy: "`derouter netcheck` tells more".to_owned(),
        });
    }
}

fn providers_file(status: &Status, all: &mut Vec<Warning>) {
    let problems = status
        .gateways
        .iter()
        .filter_map(|it| it.problem.as_deref());
    all.extend(problems.map(|problem| {
        let remedy = "mend or remove the file; it is read again within seconds";
        warning("providers_file", printable(problem), remedy)
    }));
}

fn money(status: &Status, all: &mut Vec<Warning>) {
    for gateway in &status.gateways {
        let spending = &gateway.spending;
        if !spending.known {
            all.push(warning(
                "spending_unknown",
                "what was spent before is being read; requests wait".to_owned(),
                "wait some seconds; the node's log says more if it stays so",
            ));
        }
        for limit in &spending.limits {
            let (most, left) = (wei(&limit.limit), wei(&limit.left));
            if most.is_zero() || !is_day_or_total(&limit.name) {
                continue;
            }
            let tenth = most.checked_per_million(100_000).unwrap_or(Wei::ZERO);
            if left <= tenth {
                all.push(Warning {
                    code: "limit_near".to_owned(),
                    text: format!(
                        "{} POL are left of {} for {}",
                        limit.left, limit.limit, limit.about
                    ),
                    remedy: format!("raise `{}`, or wait for the next day", limit.name),
                });
            }
        }
        if let Some(counts) = spending.counts
            && counts.violations > 0
        {
            all.push(warning(
                "bills",
                format!(
                    "{} bills were wrong or missing, and not signed",
                    counts.violations
                ),
                "the log names the providers; `routing.deny_providers` keeps them out",
            ));
        }
    }
}

fn is_day_or_total(name: &str) -> bool {
    matches!(name, "limits.daily" | "limits.total")
}

fn sold(status: &Status, all: &mut Vec<Warning>) {
    for provider in &status.providers {
        if let Some(problem) = &provider.problem {
            all.push(warning(
                "offers_file",
                printable(problem),
                "what held before holds; correct or remove the file",
            ));
        }
        for backend in provider.backends.iter().filter(|it| it.state == "down") {
            let error = backend.error.as_deref().map(printable).unwrap_or_default();
            all.push(warning(
                "backend_down",
                format!(
                    "the backend {} can't be used: {error}",
                    printable(&backend.base_url)
                ),
                "start it, or correct `openai_base_url`",
            ));
        }
        for offer in &provider.offers {
            let down = offer.reason.as_deref() == Some("backend_down");
            let starting = offer.reason.as_deref() == Some("starting");
            if offer.state != "withdrawn" || down || starting {
                continue;
            }
            let text = offer.text.as_deref().unwrap_or_default();
            all.push(Warning {
                code: "offer_withdrawn".to_owned(),
                text: format!(
                    "the offer {} is not on the market: {}",
                    printable(&offer.id),
                    printable(text)
                ),
                remedy: format!(
                    "`derouter provide list {}` tells more",
                    printable(&offer.id)
                ),
            });
        }
    }
}
