//! `derouter completion` and `derouter man`: written from the command line's own description.

use std::path::Path;

use clap::CommandFactory;
use serde_json::json;

use crate::cli::{Cli, CompletionArgs, ManArgs};
use crate::failure::Failure;
use crate::output::{self, Output};

/// Prints what completes commands in a shell.
pub(crate) fn completion(args: CompletionArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "derouter", &mut text);
    output::text(&String::from_utf8_lossy(&text));
    Ok(())
}

/// Prints the manual page of all, or writes one for each command.
pub(crate) fn man(args: &ManArgs, output: Output) -> Result<(), Failure> {
    let command = Cli::command();
    let Some(directory) = &args.directory else {
        output::text(&page(command)?);
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|error| unwritable(directory, &error))?;
    let mut names = Vec::new();
    write_pages(directory, command, "derouter", &mut names)?;
    let told = json!({"directory": directory, "pages": names});
    output.show("derouter.man/1", &told, |_| {
        format!("wrote {} pages to {}", names.len(), directory.display())
    });
    Ok(())
}

fn write_pages(
    directory: &Path,
    command: clap::Command,
    name: &str,
    names: &mut Vec<String>,
) -> Result<(), Failure> {
    for inner in command.get_subcommands() {
        let inner_name = format!("{name}-{}", inner.get_name());
        write_pages(directory, inner.clone(), &inner_name, names)?;
    }
    // clap keeps names for as long as the program runs; it ends right behind this.
    let named: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let file = directory.join(format!("{name}.1"));
    let text = page(command.name(named))?;
    std::fs::write(&file, text).map_err(|error| unwritable(&file, &error))?;
    names.push(format!("{name}.1"));
    Ok(())
}

fn page(command: clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
    rendered.map_err(Failure::failed)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format_args!("can't write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_manual_page_for_every_command_and_each_shows_its_examples() {
        fn count(command: &clap::Command) -> usize {
            1 + command.get_subcommands().map(count).sum::<usize>()
        }
        let directory = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        write_pages(directory.path(), Cli::command(), "derouter", &mut names).unwrap();
        assert_eq!(names.len(), count(&Cli::command()));
        for name in names {
            let page = std::fs::read_to_string(directory.path().join(&name)).unwrap();
            assert!(page.contains("Example"), "{name}");
        }
    }
}
