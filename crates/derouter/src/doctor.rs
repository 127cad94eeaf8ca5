//! `derouter doctor`: examines the configuration, the machine, and the node if it runs, and says of each
//! thing whether it is well and what to do if not.

mod backends;
mod bundle;
mod environment;
mod files;
mod machine;
mod node;
mod plausible;
mod ports;

use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::json;

use crate::cli::doctor::DoctorArgs;
use crate::config::node::RunConfig;
use crate::config::{self, ConfigError, paths, place};
use crate::daemon::state::{Running, running};
use crate::failure::Failure;
use crate::output::Output;
use crate::text;
#[cfg(test)]
pub(crate) use environment::KNOWN as VARIABLES;

/// How well a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Well.
    Ok,
    /// It works, and may not do what is wanted.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at.
    Skip,
}

/// What `--fix` may do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fix {
    /// Set the permissions.
    Mode(PathBuf, u32),
    /// Remove what a crash left.
    Remove(PathBuf),
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    /// A stable name.
    id: &'static str,
    status: Status,
    /// What is there.
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// Whether `--fix` mended it.
    fixed: bool,
    #[serde(skip)]
    fix: Option<Fix>,
}

impl Check {
    fn new(id: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self {
            id,
            status,
            found: text::printable(&found.into()),
            remedy: None,
            fixed: false,
            fix: None,
        }
    }

    fn ok(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Status::Ok, found)
    }

    fn skip(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Status::Skip, found)
    }

    fn warn(id: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let check = Self::new(id, Status::Warn, found);
        check.remedy(remedy)
    }

    fn fail(id: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let check = Self::new(id, Status::Fail, found);
        check.remedy(remedy)
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(text::printable(&remedy.into())),
            ..self
        }
    }

    fn fix(self, fix: Fix) -> Self {
        Self {
            fix: Some(fix),
            ..self
        }
    }
}

/// What is examined.
struct Patient {
    /// The configuration file.
    file: Option<PathBuf>,
    config: Result<RunConfig, ConfigError>,
    data_dir: Option<PathBuf>,
    /// Whether a node runs with the data directory.
    running: bool,
    offline: bool,
}

impl Patient {
    fn new(args: &DoctorArgs) -> Self {
        let place = &args.place;
        let (flag, data_dir) = (place.config.as_deref(), place.data_dir.as_deref());
        let config = RunConfig::load_at(flag, data_dir);
        let of_config = config.as_ref().ok().map(|config| config.data_dir.clone());
        let file = place::file(flag).map(|(path, _)| path);
        let data_dir = data_dir.map(Path::to_owned).or(of_config);
        let data_dir = data_dir.or_else(|| of_wrong_file(file.as_deref()));
        let is_running = data_dir
            .as_deref()
            .is_some_and(|directory| matches!(running(directory), Ok(Running::Yes(_))));
        Self {
            file,
            config,
            data_dir,
            running: is_running,
            offline: args.offline,
        }
    }
}

/// The data directory where the configuration can't be used: as the file has it all the same, else the
/// usual one.
fn of_wrong_file(file: Option<&Path>) -> Option<PathBuf> {
    let written = file.and_then(|path| config::read_value(path).ok());
    let named = written
        .as_ref()
        .and_then(|written| written.get("data_dir")?.as_str());
    match named {
        Some(named) => Some(PathBuf::from(named)),
        None => place::data_dir().ok()?.or_else(paths::default_data_dir),
    }
}

/// Examines all of it.
pub(crate) async fn doctor(args: DoctorArgs, output: Output) -> Result<(), Failure> {
    let patient = Patient::new(&args);
    let mut checks = examine(&patient, &args, output).await;
    if args.fix && mend(&mut checks) > 0 {
        // What was mended may have hidden something else.
        let patient = Patient::new(&args);
        let fixed: Vec<&'static str> = fixed(&checks);
        checks = examine(&patient, &args, output).await;
        for check in checks.iter_mut().filter(|check| fixed.contains(&check.id)) {
            check.fixed = check.status == Status::Ok;
        }
    }
    let count = |status: Status| checks.iter().filter(|check| check.status == status).count();
    let (warnings, failures) = (count(Status::Warn), count(Status::Fail));
    let told = json!({
        "ok": count(Status::Ok),
        "warn": warnings,
        "fail": failures,
        "skip": count(Status::Skip),
        "checks": checks,
    });
    if let Some(path) = &args.bundle {
        bundle::write(path, &patient, &told).await?;
        output.note(&format!(
            "wrote {}. Look through it before you give it away: it names this machine's addresses and paths",
            path.display()
        ));
    }
    output.show("derouter.doctor/1", &told, |output| screen(&checks, output));
    match failures {
        0 => Ok(()),
        number => Err(Failure::failed(format_args!(
            "{} found; what to do is said above",
            text::counted(u32::try_from(number).unwrap_or(u32::MAX), "problem")
        ))),
    }
}

async fn examine(patient: &Patient, args: &DoctorArgs, output: Output) -> Vec<Check> {
    let mut progress = output.progress();
    let mut checks = Vec::new();
    progress.say("looking at the files ...");
    environment::check(&mut checks);
    files::check(patient, &mut checks);
    machine::check(patient, &mut checks);
    plausible::check(patient, &mut checks);
    progress.say("looking at the ports ...");
    ports::check(patient, &mut checks);
    progress.say("asking the servers that are sold from ...");
    backends::check(patient, &mut checks).await;
    progress.say("asking the node ...");
    node::check(patient, &args.place, &mut checks).await;
    checks
}

/// Mends what can be mended, and says how much that was.
fn mend(checks: &mut [Check]) -> usize {
    let mut mended = 0;
    for check in checks {
        let Some(fix) = &check.fix else {
            continue;
        };
        match apply(fix) {
            Ok(()) => {
                check.fixed = true;
                mended += 1;
            }
            Err(error) => {
                let found = format!("{}; it could not be mended: {error}", check.found);
                check.found = text::printable(&found);
            }
        }
    }
    mended
}

fn fixed(checks: &[Check]) -> Vec<&'static str> {
    let fixed = checks.iter().filter(|check| check.fixed);
    fixed.map(|check| check.id).collect()
}

fn apply(fix: &Fix) -> std::io::Result<()> {
    match fix {
        #[cfg(unix)]
        Fix::Mode(path, mode) => {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))
        }
        #[cfg(not(unix))]
        Fix::Mode(..) => Ok(()),
        Fix::Remove(path) => std::fs::remove_file(path),
    }
}

fn screen(checks: &[Check], output: Output) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let (label, style) = match (check.status, check.fixed) {
            (_, true) => ("fixed", AnsiColor::Green.on_default()),
            (Status::Ok, _) => ("ok", AnsiColor::Green.on_default()),
            (Status::Warn, _) => ("warn", AnsiColor::Yellow.on_default()),
            (Status::Fail, _) => ("FAIL", AnsiColor::Red.on_default().bold()),
            (Status::Skip, _) => ("skip", Style::new().dimmed()),
        };
        if check.status == Status::Skip && output.verbosity() == 0 {
            continue;
        }
        let label = output.paint(style, &format!("{label:<5}"));
        lines.push(format!("{label}  {:<16} {}", check.id, check.found));
        if let Some(remedy) = &check.remedy {
            let wrapped = text::wrapped_to(remedy, "                         ", output.width());
            lines.push(wrapped);
        }
    }
    lines.join("\n")
}
