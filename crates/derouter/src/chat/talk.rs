//! A chat line by line, on a terminal.

use std::io::BufRead;

use super::{Chat, message};
use crate::failure::{Failure, Kind};
use crate::output;

/// Messages that are sent along: older ones are left out, oldest first.
const MOST_MESSAGES: usize = 200;

/// Reads questions until there are no more.
pub(super) async fn talk(chat: &Chat) -> Result<(), Failure> {
    chat.output.note(&format!(
        "{} answers. An empty line is nothing, /new begins anew, Ctrl-C cancels an answer, Ctrl-D ends.",
        crate::text::printable(&chat.model)
    ));
    let mut messages = chat.first_messages();
    let kept = messages.len();
    loop {
        let Some(line) = question().await? else {
            output::error_line("");
            return Ok(());
        };
        match line.trim() {
            "" => continue,
            "/new" => {
                messages.truncate(kept);
                continue;
            }
            "/quit" | "/exit" => return Ok(()),
            _ => {}
        }
        messages.push(message("user", &line));
        match chat.ask(&messages).await {
            Ok(answer) => {
                chat.show(&answer).await;
                messages.push(message("assistant", answer.text()));
                if let Err(failure) = answer.outcome() {
                    chat.output.note(&failure.to_string());
                }
            }
            // Another question may do better; without an endpoint none will.
            Err(failure) if failure.is(Kind::NotRunning) || failure.is(Kind::NotAuthorised) => {
                return Err(failure);
            }
            Err(failure) => {
                output::error_line(&failure.to_string());
                messages.pop();
            }
        }
        if messages.len() > MOST_MESSAGES {
            messages.drain(kept..kept + 2);
        }
    }
}

/// A line; `None` at the end, and on Ctrl-C while nothing is asked.
async fn question() -> Result<Option<String>, Failure> {
    let reading = tokio::task::spawn_blocking(|| {
        let mut stderr = std::io::stderr().lock();
        let _ = std::io::Write::write_all(&mut stderr, b"> ");
        drop(stderr);
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        read.map(|read| (read > 0).then_some(line))
    });
    tokio::select! {
        read = reading => {
            let read = read.map_err(Failure::failed)?;
            read.map_err(|error| Failure::failed(format_args!("can't read: {error}")))
        }
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}
