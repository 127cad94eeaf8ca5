//! Writing to the standard streams: answers to the standard output, all else to the standard error.
//! Nobody listening is no reason to stop: a node goes on when the terminal that started it is gone.

use std::io::{BufRead, IsTerminal, Write};

use anstyle::Style;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::frame::{ColorChoice, FrameArgs};
use crate::config::place::variable;
use crate::failure::Failure;
use crate::text;

/// Columns where nobody tells how wide the terminal is.
pub(crate) const WIDTH: usize = text::WIDTH;

/// Lines are no wider than this on a terminal however wide, as nobody reads across it.
const WIDEST: usize = 200;

/// Narrower than this, tables make no sense; lines then wrap.
const NARROWEST: usize = 40;

/// How a command shows what it found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    verbose: u8,
    choice: Option<ColorChoice>,
    colour: bool,
    width: usize,
}

impl Default for Output {
    /// Plain text for nobody in particular.
    fn default() -> Self {
        Self {
            json: false,
            quiet: false,
            verbose: 0,
            choice: None,
            colour: false,
            width: WIDTH,
        }
    }
}

impl Output {
    /// As the flags, the environment and the terminal have it.
    pub(crate) fn new(frame: FrameArgs) -> Self {
        let stdout = std::io::stdout();
        Self {
            json: frame.json,
            quiet: frame.quiet,
            verbose: frame.verbose,
            choice: frame.color,
            colour: colours(frame.color, &stdout),
            width: width(),
        }
    }

    /// Whether programs read the answer: every object names its shape.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether only what is wrong is to be said beside the answer.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// How often `-v` was given.
    pub(crate) fn verbosity(self) -> u8 {
        self.verbose
    }

    /// Whether to write colours to another stream.
    pub(crate) fn colours(self, stream: &impl IsTerminal) -> bool {
        colours(self.choice, stream)
    }

    /// Columns of the standard output.
    pub(crate) fn width(self) -> usize {
        self.width
    }

    /// Shows an answer: as one line of JSON with its `schema`, or as text.
    pub(crate) fn show<T: Serialize>(
        self,
        schema: &str,
        value: &T,
        text: impl FnOnce(Self) -> String,
    ) {
        match self.json {
            true => document(schema, value),
            false => line(&text(self)),
        }
    }

    /// Says something beside the answer, on the standard error.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            error_line(text);
        }
    }

    /// A text in a style, where colours are wanted.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        match self.colour {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }

    /// Asks before something that can't be undone or that spends money. Where nobody can answer,
    /// `--yes` has to be given.
    pub(crate) fn confirm(self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if self.json || !is_interactive() {
            return Err(Failure::usage(format_args!(
                "{question} Nobody can be asked here: give `--yes`"
            )));
        }
        match ask(&format!("{question} [y/N] "))?.to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::failed("not done, as you wish")),
        }
    }

    /// A line that shows how long work goes on: only on a terminal.
    pub(crate) fn progress(self) -> Progress {
        let shown = !self.quiet && !self.json && std::io::stderr().is_terminal();
        Progress {
            shown,
            width: self.width,
            written: false,
        }
    }
}

/// A line on the terminal that is written over. It is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    width: usize,
    written: bool,
}

impl Progress {
    /// Shows this in place of what was there.
    pub(crate) fn say(&mut self, said: &str) {
        if !self.shown {
            return;
        }
        let said = text::cut(said, self.width.saturating_sub(1));
        self.written = true;
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "\r\u{1b}[K{said}").and_then(|()| stderr.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\u{1b}[K").and_then(|()| stderr.flush());
        }
    }
}

/// Whether somebody can be asked.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question on the standard error, and reads a line.
pub(crate) fn ask(question: &str) -> Result<String, Failure> {
    let failed = |error| Failure::failed(format_args!("can't read the answer: {error}"));
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read.map_err(failed)? {
        0 => Err(Failure::failed("no answer was given")),
        _ => Ok(answer.trim().to_owned()),
    }
}

/// Whether to write colours to a stream: as the flag says, else `DEROUTER_COLOR`, else only to a
/// terminal, and not when the user asked for none (<https://no-color.org>).
fn colours(choice: Option<ColorChoice>, stream: &impl IsTerminal) -> bool {
    let of_variable = || {
        let value = variable("DEROUTER_COLOR")?;
        <ColorChoice as clap::ValueEnum>::from_str(value.to_str()?, true).ok()
    };
    match choice.or_else(of_variable).unwrap_or_default() {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            stream.is_terminal() && variable("NO_COLOR").is_none() && !dumb
        }
    }
}

/// Columns of the terminal; `COLUMNS` goes before that, and files and pipes get [`WIDTH`].
fn width() -> usize {
    let told = variable("COLUMNS").and_then(|text| text.to_str()?.parse().ok());
    let seen = || {
        let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
        Some(usize::from(width.0))
    };
    let width: Option<usize> = told.or_else(seen);
    width.unwrap_or(WIDTH).clamp(NARROWEST, WIDEST)
}

/// Writes a line to the standard output at once.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes text that has its line ends to the standard output at once.
pub(crate) fn text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes a line to the standard error at once.
pub(crate) fn error_line(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// A value with the name of its shape in front, such as `derouter.peers/1`: an object stays one, and
/// anything else becomes its `value`. Shapes are in docs/schemas; the number grows when a field goes or
/// changes its meaning, and not when one is added.
pub(crate) fn with_schema<T: Serialize>(
    schema: &str,
    value: &T,
) -> Result<Value, serde_json::Error> {
    let mut object = Map::new();
    object.insert("schema".to_owned(), Value::from(schema));
    match serde_json::to_value(value)? {
        Value::Object(fields) => object.extend(fields),
        other => drop(object.insert("value".to_owned(), other)),
    }
    object.insert("schema".to_owned(), Value::from(schema));
    Ok(Value::Object(object))
}

/// Writes a value as one line of JSON that names its shape to the standard output.
pub(crate) fn document<T: Serialize>(schema: &str, value: &T) {
    match with_schema(schema, value) {
        Ok(value) => line(&value.to_string()),
        Err(error) => error_line(&format!("derouter: can't write JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_object_names_its_shape_in_front() {
        let object = with_schema("derouter.a/1", &json!({"b": 1, "schema": "of another"})).unwrap();
        assert_eq!(object.to_string(), r#"{"schema":"derouter.a/1","b":1}"#);
        let list = with_schema("derouter.a/1", &json!([1])).unwrap();
        assert_eq!(list.to_string(), r#"{"schema":"derouter.a/1","value":[1]}"#);
    }

    #[test]
    fn colours_are_for_terminals_unless_asked_for() {
        let file = tempfile::tempfile().unwrap();
        assert!(!colours(None, &file));
        assert!(!colours(Some(ColorChoice::Auto), &file));
        assert!(colours(Some(ColorChoice::Always), &file));
        let red = anstyle::AnsiColor::Red.on_default();
        assert_eq!(Output::default().paint(red, "x"), "x");
        let coloured = Output {
            colour: true,
            ..Output::default()
        };
        assert_eq!(coloured.paint(red, "x"), "\u{1b}[31mx\u{1b}[0m");
    }

    /// The names of shapes in a text of Rust: `derouter.peers/1`.
    fn shapes(text: &str) -> Vec<String> {
        let quoted = text.split('"').skip(1).step_by(2);
        let is_shape = |word: &&str| {
            let number = word
                .strip_prefix("derouter.")
                .and_then(|rest| rest.rsplit_once('/'));
            number.is_some_and(|(name, number)| {
                !number.is_empty()
                    && number.bytes().all(|byte| byte.is_ascii_digit())
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_alphabetic() || b".-".contains(&byte))
            })
        };
        quoted.filter(is_shape).map(str::to_owned).collect()
    }

    fn shapes_below(directory: &std::path::Path, found: &mut std::collections::BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                shapes_below(&path, found);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let code = text
                    .split("#[cfg(test)]\nmod tests")
                    .next()
                    .unwrap_or_default();
                found.extend(shapes(code));
            }
        }
    }

    #[test]
    fn every_shape_is_documented_and_nothing_else_is() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut used = std::collections::BTreeSet::new();
        for name in ["derouter", "derouter-openai"] {
            shapes_below(&crates.join(name).join("src"), &mut used);
        }
        assert!(used.len() > 30, "{used:?}");
        for name in &used {
            let schema = derouter_testkit::schema::path(name);
            assert!(schema.exists(), "{name} has no schema");
        }
        let schemas = derouter_testkit::schema::path("x");
        for entry in std::fs::read_dir(schemas.parent().unwrap()).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let stem = file.strip_suffix(".json").unwrap_or(&file);
            let (name, number) = stem.rsplit_once('.').unwrap();
            let name = format!("{name}/{number}");
            assert!(used.contains(&name), "nothing says {name}");
        }
    }
}
