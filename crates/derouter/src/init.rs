//! `derouter init`: writes a configuration to begin with, and says what to do next.

mod backend;
mod render;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::init::{InitArgs, Role};
use crate::config::error::literal_path;
use crate::config::node::RunConfig;
use crate::config::place;
use crate::failure::Failure;
use crate::output::{self, Output};
use backend::Server;

/// What is to be written.
#[derive(Debug)]
struct Plan<'a> {
    args: &'a InitArgs,
    role: Role,
    server: Option<Server>,
    data_dir: Option<PathBuf>,
}

/// Writes it.
pub(crate) async fn init(args: InitArgs, output: Output) -> Result<(), Failure> {
    let path = target(&args)?;
    if path.exists() && !args.force {
        return Err(Failure::environment(format_args!(
            "{} is there already, and was not changed. `derouter up` runs it, `derouter config set` \
             changes it, and `--force` writes a new one (the old one is kept as a .bak)",
            path.display()
        )));
    }
    let asks = !args.consent.yes && !output.is_json() && output::is_interactive();
    let found = backend::find(&args).await?;
    let role = role(&args, &found, asks)?;
    let server = match role.sells() {
        true => Some(backend::choose(found, &args, asks)?),
        false => None,
    };
    let data_dir = match &args.data_dir {
        Some(directory) => Some(absolute(directory)?),
        None => None,
    };
    let plan = Plan {
        args: &args,
        role,
        server,
        data_dir,
    };
    let text = render::config(&plan);
    write(&path, &text, args.force)?;
    // What was written must be what a node takes: whatever was asked for.
    RunConfig::load(Some(&path))?;
    tell(&path, &plan, output);
    Ok(())
}

/// The file to write.
fn target(args: &InitArgs) -> Result<PathBuf, Failure> {
    let named = args.config.clone();
    let named = named.or_else(|| place::variable(place::CONFIG).map(PathBuf::from));
    let path = named.or_else(place::usual_file).ok_or_else(|| {
        Failure::environment(
            "this system names no home directory: say where to write with `-c FILE`",
        )
    })?;
    absolute(&literal_path(path).map_err(Failure::usage)?)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::environment(format_args!("{}: {error}", path.display())))
}

fn role(args: &InitArgs, found: &[Server], asks: bool) -> Result<Role, Failure> {
    if let Some(role) = args.role {
        return Ok(role);
    }
    let sells = !found.is_empty();
    if !asks {
        return Ok(if sells { Role::Both } else { Role::Buy });
    }
    for server in found {
        let models = server.models.len();
        output::error_line(&format!(
            "Found {} at {} with {models} models.",
            server.name, server.base_url
        ));
    }
    let usual = if sells { "both" } else { "buy" };
    let question = format!("What shall this node do: buy, sell or both? [{usual}] ");
    loop {
        match output::ask(&question)?.to_lowercase().as_str() {
            "buy" => return Ok(Role::Buy),
            "sell" => return Ok(Role::Sell),
            "both" => return Ok(Role::Both),
            "" => return Ok(if sells { Role::Both } else { Role::Buy }),
            _ => output::error_line("Write buy, sell or both."),
        }
    }
}

/// Writes a file for this user alone, whole or not at all.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::environment(format_args!("can't write {}: {error}", path.display()))
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    crate::daemon::make_directory(directory).map_err(failed)?;
    // Made with mode 0600.
    let mut file =
        tempfile::NamedTempFile::with_prefix_in(".config-", directory).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    if force {
        if path.exists() {
            let mut kept = path.as_os_str().to_owned();
            kept.push(".bak");
            std::fs::copy(path, PathBuf::from(kept)).map_err(failed)?;
        }
        file.persist(path).map_err(|error| failed(error.error))?;
    } else {
        let placed = file.persist_noclobber(path);
        placed.map_err(|error| failed(error.error))?;
    }
    // Some file systems can't; the file is there anyway.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

fn tell(path: &Path, plan: &Plan<'_>, output: Output) {
    let is_usual = place::usual_file().is_some_and(|usual| usual == path);
    let is_named = place::variable(place::CONFIG).is_some_and(|named| Path::new(&named) == path);
    let flag = match is_usual || is_named {
        true => String::new(),
        false => format!(" -c {}", shell_word(path)),
    };
    let mut next = vec![
        (format!("derouter doctor{flag}"), "checks it all"),
        (format!("derouter up{flag}"), "starts the node"),
        (format!("derouter netcheck{flag}"), "who can reach it"),
    ];
    if plan.role.buys() {
        next.push((format!("derouter models{flag}"), "what can be bought"));
    }
    let server = plan.server.as_ref();
    let told = json!({
        "path": path,
        "role": plan.role,
        "backend": server.map(|server| &server.base_url),
        "models": server.map(|server| &server.models),
        "next": next.iter().map(|(command, _)| command).collect::<Vec<_>>(),
    });
    output.show("derouter.init/1", &told, |_| {
        let mut lines = vec![format!("wrote {}", path.display())];
        if let Some(server) = server {
            lines.push(format!("sells from {} at {}", server.name, server.base_url));
        }
        lines.push("next:".to_owned());
        let width = next.iter().map(|(command, _)| command.len()).max();
        let width = width.unwrap_or_default();
        let steps = next.iter();
        lines.extend(steps.map(|(command, what)| format!("  {command:<width$}  {what}")));
        lines.join("\n")
    });
}

/// A path as a shell takes it.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InitArgs,
    }

    fn args(words: &[&str]) -> InitArgs {
        Line::parse_from(std::iter::once(&"init").chain(words)).args
    }

    fn server() -> Server {
        Server {
            base_url: "http://127.0.0.1:11434/v1".into(),
            name: "Ollama".into(),
            models: vec!["llama3.2".into(), "a \"b\"\nc".into()],
        }
    }

    fn read(args: &InitArgs, role: Role) -> RunConfig {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let plan = Plan {
            args,
            role,
            server: role.sells().then(server),
            data_dir: Some(directory.path().to_owned()),
        };
        write(&path, &render::config(&plan), false).unwrap();
        RunConfig::load(Some(&path))
            .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(&path).unwrap()))
    }

    #[test]
    fn what_is_written_is_what_a_node_reads_for_every_role() {
        for role in [Role::Buy, Role::Sell, Role::Both] {
            let config = read(&args(&[]), role);
            assert_eq!(config.openai.providers.len(), usize::from(role.sells()));
            assert_eq!(config.openai.consumer.is_some(), role.buys());
        }
    }

    #[test]
    fn every_answer_is_in_the_file() {
        let peer =
            "/ip4/203.0.113.5/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        let config = read(
            &args(&[
                "--model",
                "llama3.2",
                "--input-price",
                "0.25",
                "--output-price",
                "1.5",
                "--daily",
                "3",
                "--name",
                "Ada's \"models\"\n// x",
                "--bootstrap",
                peer,
                "--peer-port",
                "4001",
                "--endpoint-port",
                "9100",
                "--rpc-port",
                "4300",
                "--no-mdns",
                "--context",
                "9000",
                "--backend-key",
                "secret",
            ]),
            Role::Both,
        );
        let provider = &config.openai.providers[0].backends[0];
        let offer = &provider.offers["llama3.2"];
        assert_eq!(offer.input_token_price.to_pol_text(), "0.25");
        assert_eq!(offer.output_token_price.to_pol_text(), "1.5");
        assert_eq!(offer.context_size, 9000);
        assert_eq!(provider.api_key.as_ref().unwrap().expose(), "secret");
        let consumer = config.openai.consumer.unwrap();
        assert_eq!(consumer.limits.daily.unwrap().to_pol_text(), "3");
        assert_eq!(consumer.port, 9100);
        assert_eq!(config.node.provider.name.unwrap(), "Ada's \"models\"\n// x");
        assert_eq!(config.node.net.bootstrap.len(), 1);
        assert_eq!(config.node.net.listen.len(), 2);
        assert_eq!(config.node.rpc.unwrap().port, 4300);
        assert!(!config.node.net.mdns);
    }

    #[test]
    fn a_file_that_is_there_stays_unless_it_is_forced_and_then_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/config.json");
        write(&path, "one", false).unwrap();
        write(&path, "two", false).unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        write(&path, "two", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        let kept = directory.path().join("a/config.json.bak");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "one");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(shell_word(Path::new("/a/b.json")), "/a/b.json");
        assert_eq!(shell_word(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
