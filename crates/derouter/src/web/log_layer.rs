//! Keeps the last lines of the log for the dashboard.

use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock};

use derouter_web::logs::{LINE_BYTES, Level, LogRing};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// A process has one log.
static RING: LazyLock<Arc<LogRing>> = LazyLock::new(Arc::default);

/// The lines.
pub(crate) fn ring() -> Arc<LogRing> {
    Arc::clone(&RING)
}

/// Keeps what is logged.
pub(crate) struct LogLayer;

/// An event's message with its fields behind it, as the text log has them.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn field(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if self.fields.len() > LINE_BYTES {
            return;
        }
        // Writing into memory does not fail.
        let _ = match name {
            "message" => self.message.write_fmt(value),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value: String = value.chars().take(LINE_BYTES).collect();
        self.field(field.name(), format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field.name(), format_args!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            // Too many to be kept.
            tracing::Level::DEBUG | tracing::Level::TRACE => return,
        };
        let mut text = Text::default();
        event.record(&mut text);
        ring().push(level, metadata.target(), text.message + &text.fields);
    }
}
