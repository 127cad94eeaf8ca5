//! What a backend does with a request: how many chunks at what pace, and which fault.

use std::time::Duration;

use serde_json::Value;

/// The request field by which a test tells the backend how to behave. It also proves that unknown
/// request fields pass through.
pub const REQUEST_FIELD: &str = "derouter_test";

/// A model of this prefix has the fault that the rest names.
pub const MODEL_PREFIX: &str = "fault-";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500 with an OpenAI error body.
    ServerError,
    /// 429 with `retry-after: 7`.
    TooManyRequests,
    /// 401, as a backend does that does not know our key.
    Unauthorized,
    /// 400, as a backend does that can't take the request.
    BadRequest,
    /// Nothing is answered at all.
    StallFirst,
    /// The answer stops half way, and the connection stays open.
    StallMiddle,
    /// The connection breaks half way.
    CloseEarly,
    /// The answer ends half way as if it were complete: no finish reason, no `[DONE]`.
    EndEarly,
    /// Half way comes an event that is not JSON.
    MalformedSse,
    /// The body is noise.
    Garbage,
    /// 200 with no body.
    Empty,
    /// One chunk of 300,000 characters.
    HugeChunk,
    /// The right body as `text/html`.
    WrongContentType,
    /// A usage that is a thousand times too large.
    InflatedUsage,
    /// Never any usage, like llama-cpp-python's streams.
    NoUsage,
    /// Half way comes an error event, as vLLM sends it.
    ErrorEvent,
    /// The answer says that another model made it.
    WrongModel,
}

impl Fault {
    /// All faults with the names that models and requests give them.
    pub const NAMES: [(&str, Fault); 17] = [
        ("500", Fault::ServerError),
        ("429", Fault::TooManyRequests),
        ("401", Fault::Unauthorized),
        ("400", Fault::BadRequest),
        ("stall-first", Fault::StallFirst),
        ("stall-middle", Fault::StallMiddle),
        ("close-early", Fault::CloseEarly),
        ("end-early", Fault::EndEarly),
        ("malformed-sse", Fault::MalformedSse),
        ("garbage", Fault::Garbage),
        ("empty", Fault::Empty),
        ("huge-chunk", Fault::HugeChunk),
        ("content-type", Fault::WrongContentType),
        ("inflated-usage", Fault::InflatedUsage),
        ("no-usage", Fault::NoUsage),
        ("error-event", Fault::ErrorEvent),
        ("wrong-model", Fault::WrongModel),
    ];

    /// The fault of that name.
    pub fn named(name: &str) -> Option<Fault> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, fault)| *fault)
    }
}

/// When a backend reports usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    /// In plain answers always, in streams when `stream_options.include_usage` asks for it.
    #[default]
    WhenAsked,
    /// Never.
    Never,
}

/// How a backend treats a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How many content chunks, of one word each.
    pub chunks: usize,
    /// How long to wait before each chunk; a plain answer waits for all of them at once.
    pub pace: Duration,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// When usage is reported.
    pub usage: Usage,
    /// What goes wrong half way through a stream goes wrong before its first chunk.
    pub at_first: bool,
    /// Whether requests and models may choose otherwise.
    pub obeys: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            chunks: 8,
            pace: Duration::ZERO,
            fault: None,
            usage: Usage::WhenAsked,
            at_first: false,
            obeys: true,
        }
    }
}

impl Behaviour {
    /// The behaviour for one request: the request's own field counts most, then its model's name,
    /// then what the backend was told.
    pub fn for_request(self, body: &Value) -> Self {
        let mut behaviour = self;
        if !self.obeys {
            return behaviour;
        }
        let model = body["model"].as_str().unwrap_or_default();
        if let Some(fault) = model.strip_prefix(MODEL_PREFIX).and_then(Fault::named) {
            behaviour.fault = Some(fault);
        }
        let field = &body[REQUEST_FIELD];
        if let Some(chunks) = field["chunks"].as_u64() {
            behaviour.chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
        }
        if let Some(pace) = field["pace_ms"].as_u64() {
            behaviour.pace = Duration::from_millis(pace);
        }
        if let Some(name) = field["fault"].as_str() {
            behaviour.fault = Fault::named(name);
        }
        if let Some(at) = field["at"].as_str() {
            behaviour.at_first = at == "first";
        }
        if behaviour.fault == Some(Fault::NoUsage) {
            behaviour.usage = Usage::Never;
        }
        behaviour
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_chooses_its_fault_by_model_or_by_field() {
        let told = Behaviour::default();
        assert_eq!(told.for_request(&json!({"model": "m"})), told);
        let by_model = told.for_request(&json!({"model": "fault-429"}));
        assert_eq!(by_model.fault, Some(Fault::TooManyRequests));
        let field = json!({"fault": "stall-first", "chunks": 3, "pace_ms": 5});
        let by_field = told.for_request(&json!({"model": "fault-429", "derouter_test": field}));
        assert_eq!(by_field.fault, Some(Fault::StallFirst));
        assert_eq!(by_field.chunks, 3);
        assert_eq!(by_field.pace, Duration::from_millis(5));
    }

    #[test]
    fn a_backend_that_obeys_nobody_does_what_it_was_told() {
        let told = Behaviour {
            obeys: false,
            ..Behaviour::default()
        };
        let field = json!({"fault": "500", "at": "first"});
        let asked = told.for_request(&json!({"model": "fault-429", "derouter_test": field}));
        assert_eq!(asked, told);
    }

    #[test]
    fn the_no_usage_fault_takes_usage_away() {
        let body = json!({"model": "fault-no-usage"});
        let behaviour = Behaviour::default().for_request(&body);
        assert_eq!(behaviour.usage, Usage::Never);
    }
}
