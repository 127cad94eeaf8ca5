//! `derouter token`: the keys of the OpenAI endpoint.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use derouter_openai::consumer::{
    KeyError, KeyRecord, KeyRules, KeySpending, KeyStore, spent_by_key,
};
use derouter_sdk::{UnixSeconds, Wei};
use serde_json::json;

use crate::cli::token::{
    CreateArgs, ListArgs, PlaceArgs, RevokeArgs, RulesArgs, SetArgs, TokenCommand,
};
use crate::config::node::RunConfig;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::text;

/// Does it.
pub(crate) fn token(command: &TokenCommand, output: Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(args, output),
        TokenCommand::Set(args) => set(args, output),
        TokenCommand::List(args) => list(args, output),
        TokenCommand::Revoke(args) => revoke(args, output),
    }
}

fn directory(place: &PlaceArgs) -> Result<PathBuf, Failure> {
    match &place.data_dir {
        Some(directory) => Ok(directory.clone()),
        None => Ok(RunConfig::load(place.config.as_deref())?.data_dir),
    }
}

/// Every reason is one that the user can mend.
fn failed(error: KeyError) -> Failure {
    match error {
        KeyError::BadName(_) | KeyError::BadModels => Failure::usage(error),
        error => Failure::environment(error),
    }
}

/// What the flags say, over what held before.
fn apply(args: &RulesArgs, rules: &mut KeyRules) {
    if let Some(models) = &args.models {
        let models: Vec<String> = models.iter().map(|model| model.trim().to_owned()).collect();
        rules.models = (models != ["all"]).then_some(models);
    }
    let caps = [
        (args.daily, &mut rules.daily),
        (args.total, &mut rules.total),
        (args.per_request, &mut rules.per_request),
    ];
    for (cap, limit) in caps {
        if let Some(cap) = cap {
            *limit = cap.0;
        }
    }
    if let Some(expires) = args.expires {
        rules.expires = expires.0;
    }
}

fn create(args: &CreateArgs, output: Output) -> Result<(), Failure> {
    let store = KeyStore::new(directory(&args.place)?);
    let first = store.list().map_err(failed)?.is_none();
    let mut rules = KeyRules::default();
    apply(&args.rules, &mut rules);
    let key = store
        .create(&args.name, rules, text::now())
        .map_err(failed)?;
    // Alone on the standard output, for whoever keeps it in a variable.
    let told = json!({"name": args.name, "key": key, "first": first});
    output.show("derouter.token.created/1", &told, |_| key.clone());
    output.note("This is shown once. Programs send it as their API key.");
    if first {
        output.note(
            "It is the first key: from now on the OpenAI endpoint serves nobody without one.",
        );
    }
    Ok(())
}

fn set(args: &SetArgs, output: Output) -> Result<(), Failure> {
    let store = KeyStore::new(directory(&args.place)?);
    let changed = store.set(&args.name, |rules| apply(&args.rules, rules));
    let record = changed.map_err(failed)?;
    let spent = HashMap::new();
    output.show("derouter.token/1", &as_json(&record, &spent), |_| {
        format!("{}: {}", record.name, rules_text(&record.rules))
    });
    Ok(())
}

fn revoke(args: &RevokeArgs, output: Output) -> Result<(), Failure> {
    let store = KeyStore::new(directory(&args.place)?);
    let left = store.revoke(&args.name).map_err(failed)?;
    let told = json!({"name": args.name, "keys_left": left});
    output.show("derouter.token.revoked/1", &told, |_| {
        format!("{} is revoked", args.name)
    });
    if left == 0 {
        output.note(&format!(
            "No key is left: the OpenAI endpoint serves nobody until you make one. Remove {} to let \
             all programs of this machine in again.",
            store.path().display()
        ));
    }
    Ok(())
}

fn list(args: &ListArgs, output: Output) -> Result<(), Failure> {
    let directory = directory(&args.place)?;
    let store = KeyStore::new(&directory);
    let keys = store.list().map_err(failed)?;
    let spent = spent_by_key(&directory).map_err(Failure::environment)?;
    if output.is_json() {
        keys.iter()
            .flatten()
            .for_each(|key| output::document("derouter.token/1", &as_json(key, &spent)));
        return Ok(());
    }
    match keys {
        None => output::line(
            "no keys: all programs of this machine are served (derouter token create NAME)",
        ),
        Some(keys) if keys.is_empty() => {
            output::line("no keys are left: nobody is served (derouter token create NAME)");
        }
        Some(keys) => output::line(&table(&keys, &spent, text::now())),
    }
    Ok(())
}

fn as_json(key: &KeyRecord, spent: &HashMap<String, KeySpending>) -> serde_json::Value {
    let now = text::now();
    let spent = spent.get(&key.id).cloned().unwrap_or_default();
    json!({
        "name": key.name,
        "id": key.id,
        "models": key.rules.models,
        "per_request": key.rules.per_request,
        "daily": key.rules.daily,
        "total": key.rules.total,
        "created": key.created.0,
        "expires": key.rules.expires.map(|at| at.0),
        "expired": is_expired(&key.rules, now),
        "spent_today": spent.today(now),
        "spent_total": spent.total(),
        "last_used_day": spent.last_used().map(|at| at.0),
    })
}

fn is_expired(rules: &KeyRules, now: UnixSeconds) -> bool {
    rules.expires.is_some_and(|at| at <= now)
}

/// What is spent, of what limit.
fn of_limit(spent: Wei, limit: Option<Wei>) -> String {
    let mut text = spent.to_pol_text();
    if let Some(limit) = limit {
        let _ = write!(text, " of {}", limit.to_pol_text());
    }
    text
}

fn day(at: UnixSeconds) -> String {
    let text = text::day_and_time(at.0);
    text.split('T').next().unwrap_or_default().to_owned()
}

fn table(keys: &[KeyRecord], spent: &HashMap<String, KeySpending>, now: UnixSeconds) -> String {
    let head = [
        "NAME",
        "POL TODAY",
        "POL IN ALL",
        "A REQUEST",
        "ENDS",
        "LAST USED",
        "MODELS",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for key in keys {
        let spent = spent.get(&key.id).cloned().unwrap_or_default();
        let rules = &key.rules;
        let ends = match rules.expires {
            Some(at) if at <= now => "expired".to_owned(),
            Some(at) => day(at),
            None => "never".to_owned(),
        };
        rows.push([
            key.name.clone(),
            of_limit(spent.today(now), rules.daily),
            of_limit(spent.total(), rules.total),
            rules
                .per_request
                .map_or_else(|| "-".into(), Wei::to_pol_text),
            ends,
            spent.last_used().map_or_else(|| "never".into(), day),
            models_text(rules),
        ]);
    }
    aligned(&rows)
}

fn models_text(rules: &KeyRules) -> String {
    let models = rules.models.as_ref();
    let text = models.map_or_else(|| "all".into(), |models| models.join(","));
    text::printable(&text)
}

/// Columns as wide as their widest cell.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn rules_text(rules: &KeyRules) -> String {
    let pol = |limit: Option<Wei>| {
        limit.map_or_else(
            || "no limit".to_owned(),
            |limit| format!("{} POL", limit.to_pol_text()),
        )
    };
    let ends = rules
        .expires
        .map_or_else(|| "never".to_owned(), |at| text::day_and_time(at.0));
    format!(
        "models {}, a day {}, in all {}, a request {}, ends {ends}",
        models_text(rules),
        pol(rules.daily),
        pol(rules.total),
        pol(rules.per_request)
    )
}
