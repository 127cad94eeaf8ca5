//! `derouter service`: the node as a service of the system, from the same template as `packaging/`.

mod template;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cli::service::{InstallArgs, ScopeArgs, ServiceCommand};
use crate::config::node::RunConfig;
use crate::config::place;
use crate::failure::{Failure, Kind};
use crate::output::{self, Output};
use template::{Unit, launchd, systemd_system, systemd_user};

/// The name of the unit, and of launchd's label behind `org.`.
const NAME: &str = "derouter";

/// launchd's name for it.
pub(crate) const LABEL: &str = "org.derouter.node";

/// Where the whole machine's configuration is.
const SYSTEM_CONFIG: &str = "/etc/derouter/config.json";

/// Does it.
pub(crate) fn service(command: &ServiceCommand, output: Output) -> Result<(), Failure> {
    match command {
        ServiceCommand::Install(args) => install(args, output),
        ServiceCommand::Uninstall(args) => uninstall(*args, output),
        ServiceCommand::Status(args) => status(*args, output),
    }
}

/// Which manager, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    SystemdUser,
    SystemdSystem,
    Launchd,
}

impl Manager {
    fn of(scope: ScopeArgs) -> Result<Self, Failure> {
        if cfg!(target_os = "macos") {
            return match scope.system {
                true => Err(Failure::usage(
                    "on macOS there is a service of the user only",
                )),
                false => Ok(Self::Launchd),
            };
        }
        if !cfg!(target_os = "linux") {
            return Err(Failure::failed(
                "this system has neither systemd nor launchd: have its own service manager run `derouter run`",
            ));
        }
        match scope.system || (is_root() && !scope.user) {
            true => Ok(Self::SystemdSystem),
            false => Ok(Self::SystemdUser),
        }
    }

    /// The file that describes the service.
    fn file(self) -> Result<PathBuf, Failure> {
        if self == Self::SystemdSystem {
            return Ok(PathBuf::from("/etc/systemd/system").join(format!("{NAME}.service")));
        }
        let directories = directories::BaseDirs::new()
            .ok_or_else(|| Failure::environment("this system names no home directory"))?;
        Ok(match self {
            Self::Launchd => {
                let agents = directories.home_dir().join("Library/LaunchAgents");
                agents.join(format!("{LABEL}.plist"))
            }
            _ => {
                let units = directories.config_dir().join("systemd/user");
                units.join(format!("{NAME}.service"))
            }
        })
    }

    /// Asks the manager for something.
    fn run(self, arguments: &[&str]) -> Result<(), Failure> {
        let (program, scope): (&str, &[&str]) = match self {
            Self::SystemdUser => ("systemctl", &["--user"]),
            Self::SystemdSystem => ("systemctl", &[]),
            Self::Launchd => ("launchctl", &[]),
        };
        let shown = [&[program], scope, arguments].concat().join(" ");
        let ran = Command::new(program).args(scope).args(arguments).output();
        let ran =
            ran.map_err(|error| Failure::failed(format_args!("can't run `{shown}`: {error}")))?;
        if ran.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ran.stderr);
        let said = crate::text::printable(said.trim());
        let kind = match said.to_lowercase().contains("denied") {
            true => Kind::NotAuthorised,
            false => Kind::Failed,
        };
        Err(Failure::of(kind, format_args!("`{shown}` failed: {said}")))
    }

    fn is_running(self) -> bool {
        match self {
            Self::Launchd => self.run(&["list", LABEL]).is_ok(),
            _ => self.run(&["is-active", "--quiet", NAME]).is_ok(),
        }
    }
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

fn install(args: &InstallArgs, output: Output) -> Result<(), Failure> {
    let manager = Manager::of(args.scope)?;
    let config = config_file(manager, args.config.as_deref())?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format_args!("can't find this program: {error}")))?;
    let unit = Unit {
        program: &program,
        config: &config,
    };
    let text = match manager {
        Manager::SystemdUser => systemd_user(&unit),
        Manager::SystemdSystem => systemd_system(&unit),
        Manager::Launchd => launchd(&unit),
    };
    let text = text.map_err(Failure::environment)?;
    if args.print {
        output::text(&text);
        return Ok(());
    }
    // A service that fails at once helps nobody.
    RunConfig::read(&config, None)?;
    let file = manager.file()?;
    if file.exists() && !args.force {
        return Err(Failure::environment(format_args!(
            "{} is there already, and was not changed: `--force` writes it anew",
            file.display()
        )));
    }
    write(&file, &text)?;
    start(manager, &file, args.no_start)?;
    let told = json!({"file": file, "config": config, "started": !args.no_start});
    output.show("derouter.service.install/1", &told, |_| {
        let what = if args.no_start {
            "installed"
        } else {
            "installed and started"
        };
        format!("{what}: {}", file.display())
    });
    output.note(match manager {
        Manager::SystemdUser => {
            "`journalctl --user -u derouter -f` shows its log. It runs while you are logged in; `loginctl \
             enable-linger` has it run from boot on"
        }
        Manager::SystemdSystem => "`journalctl -u derouter -f` shows its log",
        Manager::Launchd => "its log is in the node's data directory: derouter logs -f",
    });
    Ok(())
}

fn config_file(manager: Manager, flag: Option<&Path>) -> Result<PathBuf, Failure> {
    let found = place::file(flag).map(|(path, _)| path);
    let path = match (manager, flag, found) {
        (Manager::SystemdSystem, None, _) if place::variable(place::CONFIG).is_none() => {
            PathBuf::from(SYSTEM_CONFIG)
        }
        (_, _, Some(path)) => path,
        (_, _, None) => {
            return Err(Failure::environment(
                "there is no configuration file for the service: `derouter init` writes one, `-c FILE` names one",
            ));
        }
    };
    std::path::absolute(&path)
        .map_err(|error| Failure::environment(format_args!("{}: {error}", path.display())))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let message = format!("can't write {}: {error}", file.display());
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Failure::of(Kind::NotAuthorised, message),
            _ => Failure::environment(message),
        }
    };
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    std::fs::write(file, text).map_err(failed)
}

fn start(manager: Manager, file: &Path, no_start: bool) -> Result<(), Failure> {
    if manager == Manager::Launchd {
        return match no_start {
            true => Ok(()),
            false => manager.run(&["load", "-w", &file.display().to_string()]),
        };
    }
    manager.run(&["daemon-reload"])?;
    match no_start {
        true => manager.run(&["enable", NAME]),
        false => manager.run(&["enable", "--now", NAME]),
    }
}

fn uninstall(args: ScopeArgs, output: Output) -> Result<(), Failure> {
    let manager = Manager::of(args)?;
    let file = manager.file()?;
    if !file.exists() {
        return Err(Failure::failed(format_args!(
            "there is no service: {} is not there",
            file.display()
        )));
    }
    let stopped = match manager {
        Manager::Launchd => manager.run(&["unload", "-w", &file.display().to_string()]),
        _ => manager.run(&["disable", "--now", NAME]),
    };
    stopped?;
    std::fs::remove_file(&file).map_err(|error| {
        Failure::environment(format_args!("can't remove {}: {error}", file.display()))
    })?;
    if manager != Manager::Launchd {
        manager.run(&["daemon-reload"])?;
    }
    output.show(
        "derouter.service.uninstall/1",
        &json!({"file": file}),
        |_| format!("stopped, and removed {}", file.display()),
    );
    Ok(())
}

fn status(args: ScopeArgs, output: Output) -> Result<(), Failure> {
    let manager = Manager::of(args)?;
    let file = manager.file()?;
    let installed = file.exists();
    let running = installed && manager.is_running();
    let told = json!({"file": file, "installed": installed, "running": running});
    output.show("derouter.service.status/1", &told, |_| {
        match (installed, running) {
            (false, _) => "there is no service (derouter service install)".to_owned(),
            (true, true) => format!("it runs: {}", file.display()),
            (true, false) => format!("it does not run: {}", file.display()),
        }
    });
    match running {
        true => Ok(()),
        false => Err(Failure::failed("the service does not run")),
    }
}
