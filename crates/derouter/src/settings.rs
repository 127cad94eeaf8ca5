//! `derouter config`: shows, changes and checks configuration files.

pub(crate) mod edit;
pub(crate) mod effective;
pub(crate) mod path;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::settings::{
    ConfigCommand, FileArgs, GetArgs, SchemaArgs, SetArgs, ShowArgs, UnsetArgs, ValidateArgs,
};
use crate::config::node::RunConfig;
use crate::config::place;
use crate::config::schema::{FileKind, schema, secret_keys};
use crate::config::{self, ConfigError};
use crate::daemon::state::{Running, running};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::text;
use edit::EditError;
use effective::{Over, Setting};
use path::KeyPath;

/// Bytes of a value that comes over the standard input.
const VALUE_BYTES: u64 = 1024 * 1024;

/// Does it.
pub(crate) async fn settings(command: ConfigCommand, output: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Init(args) => Box::pin(crate::init::init(*args, output)).await,
        ConfigCommand::Show(args) => show(&args, output),
        ConfigCommand::Get(args) => get(&args, output),
        ConfigCommand::Set(args) => set(&args, output),
        ConfigCommand::Unset(args) => unset(&args, output),
        ConfigCommand::Validate(args) => validate(&args, output),
        ConfigCommand::Schema(args) => print_schema(args),
    }
}

/// Changes a text at a path, and back to nothing there.
pub(crate) fn fuzz(text: &str, path: &str) {
    let Ok(path) = KeyPath::parse(path) else {
        return;
    };
    // That what comes out is what was meant is checked inside, and is an error otherwise.
    if let Ok(changed) = edit::set(text, &path, &json!(1)) {
        let _ = edit::remove(&changed, &path);
    }
}

/// All values as they hold, and the file they come from.
pub(crate) fn effective(flag: Option<&Path>) -> Result<(Option<PathBuf>, Vec<Setting>), Failure> {
    let config = RunConfig::load(flag)?;
    let settings = effective::settings(&config, Over::of_environment()?);
    Ok((config.file, settings))
}

fn show(args: &ShowArgs, output: Output) -> Result<(), Failure> {
    let (file, mut settings) = effective(args.file.config.as_deref())?;
    if !args.secrets {
        settings.iter_mut().for_each(Setting::hide);
    }
    let told = json!({"file": file, "settings": settings});
    output.show("derouter.config.show/1", &told, |_| {
        let lines = settings.iter().map(|setting| line(setting, args.origin));
        lines.collect::<Vec<_>>().join("\n")
    });
    if file.is_none() {
        output.note("there is no configuration file: these are the defaults (derouter init)");
    }
    Ok(())
}

fn line(setting: &Setting, with_origin: bool) -> String {
    let value = match &setting.value {
        Value::Null => "(none)".to_owned(),
        value => text::printable(&value.to_string()),
    };
    let path = text::printable(&setting.path);
    if !with_origin {
        return format!("{path} = {value}");
    }
    format!("{:<11}  {path} = {value}", setting.origin.word())
}

fn get(args: &GetArgs, output: Output) -> Result<(), Failure> {
    let path = parsed(&args.path)?;
    let (_, mut settings) = effective(args.file.config.as_deref())?;
    if !args.secrets {
        settings.iter_mut().for_each(Setting::hide);
    }
    let value = effective::value_at(&settings, &path);
    let Some(value) = value else {
        known(&path)?;
        return Err(Failure::failed(format_args!("{path} is not set")));
    };
    let told = json!({"path": path.to_string(), "value": value});
    output.show("derouter.config.get/1", &told, |_| match &value {
        Value::String(text) => text::printable(text),
        other => text::printable(&other.to_string()),
    });
    Ok(())
}

/// Whether what a key holds is not to be shown without need.
fn is_secret(path: &KeyPath) -> bool {
    let path = path.to_string();
    let name = path.rsplit('.').next().unwrap_or(&path);
    secret_keys(&schema(FileKind::Node)).contains(name)
}

fn parsed(path: &str) -> Result<KeyPath, Failure> {
    KeyPath::parse(path).map_err(Failure::usage)
}

/// A key that no file may have is a mistake of whoever asks.
fn known(path: &KeyPath) -> Result<(), Failure> {
    match effective::is_known(&schema(FileKind::Node), path) {
        true => Ok(()),
        false => Err(Failure::usage(format_args!(
            "there is no key {path}. `derouter config show` lists them"
        ))),
    }
}

fn set(args: &SetArgs, output: Output) -> Result<(), Failure> {
    let path = parsed(&args.path)?;
    known(&path)?;
    let value = value(&args.value, &path)?;
    change(&args.file, &path, Some(&value), output)
}

fn unset(args: &UnsetArgs, output: Output) -> Result<(), Failure> {
    let path = parsed(&args.path)?;
    known(&path)?;
    change(&args.file, &path, None, output)
}

/// JSON5, or else a text as it is. What is to be an amount of money may be a number.
fn value(text: &str, path: &KeyPath) -> Result<Value, Failure> {
    let read;
    let text = match text {
        "-" => {
            let mut piped = String::new();
            let stdin = std::io::stdin().lock().take(VALUE_BYTES);
            std::io::BufReader::new(stdin)
                .read_to_string(&mut piped)
                .map_err(|error| Failure::failed(format_args!("can't read the value: {error}")))?;
            read = piped.trim_end_matches(['\r', '\n']).to_owned();
            // Whatever it looks like, a text that is piped is a secret more likely than a number.
            return Ok(Value::String(read));
        }
        text => text,
    };
    let kind = effective::kind(&schema(FileKind::Node), path);
    if kind == effective::Kind::Money && text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(json!({"$pol": text}));
    }
    if kind == effective::Kind::Text {
        let unquoted = json5::from_str::<String>(text);
        return Ok(Value::String(unquoted.unwrap_or_else(|_| text.to_owned())));
    }
    Ok(json5::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
}

fn change(
    file: &FileArgs,
    path: &KeyPath,
    value: Option<&Value>,
    output: Output,
) -> Result<(), Failure> {
    let Some((file, _)) = place::file(file.config.as_deref()) else {
        return Err(Failure::environment(
            "there is no configuration file to change: `derouter init` writes one",
        ));
    };
    let before = config::read_text(&file)?;
    let after = match value {
        Some(value) => edit::set(&before, path, value),
        None => edit::remove(&before, path),
    };
    let after = after.map_err(|error| failed(&file, &error))?;
    let config = RunConfig::parse(&file, &after)?;
    // What a link leads to, so that it stays a link.
    let place = std::fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
    replace(&place, &after)?;
    let value = value.map(|value| match is_secret(path) {
        true => json!("(hidden)"),
        false => json!(value),
    });
    let told = json!({"file": file, "path": path.to_string(), "value": value});
    output.show("derouter.config.set/1", &told, |_| {
        format!("changed {path} in {}", file.display())
    });
    if matches!(running(&config.data_dir), Ok(Running::Yes(_))) {
        output.note("the node that runs has it at its next start: derouter restart");
    }
    Ok(())
}

fn failed(file: &Path, error: &EditError) -> Failure {
    Failure::environment(format_args!("{}: {error}", file.display()))
}

/// Writes a file anew, whole or not at all, with the permissions that it has.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::environment(format_args!("can't write {}: {error}", path.display()))
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let permissions = std::fs::metadata(path).map_err(failed)?.permissions();
    let mut file =
        tempfile::NamedTempFile::with_prefix_in(".config-", directory).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file()
        .set_permissions(permissions)
        .map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn validate(args: &ValidateArgs, output: Output) -> Result<(), Failure> {
    let found = place::file(args.file.config.as_deref());
    let Some((path, _)) = found else {
        return Err(Failure::environment(
            "there is no configuration file: name one with `-c`, or write one with `derouter init`",
        ));
    };
    check(&path, args.kind)?;
    let kind = clap::ValueEnum::to_possible_value(&args.kind);
    let kind = kind.map(|kind| kind.get_name().to_owned());
    output.show(
        "derouter.config.validate/1",
        &json!({"file": path, "kind": kind}),
        |_| format!("{} is good", path.display()),
    );
    Ok(())
}

fn check(path: &Path, kind: FileKind) -> Result<(), ConfigError> {
    match kind {
        FileKind::Node => RunConfig::read(path, None).map(drop),
        FileKind::Provider => config::module::read_provider(path).map(drop),
        FileKind::Consumer => config::module::read_consumer(path).map(drop),
        FileKind::Relay => config::relay::check(path),
    }
}

fn print_schema(args: SchemaArgs) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&schema(args.kind)).map_err(Failure::failed)?;
    output::line(&text);
    Ok(())
}
