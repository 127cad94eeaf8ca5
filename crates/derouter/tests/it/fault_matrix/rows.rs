//! What goes wrong, and what has to come of it.

use super::liar::{Accept, Step};

/// Who goes wrong, and how.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    /// An honest provider whose backend is not there.
    NoBackend,
    /// An honest provider whose backend has this fault: half way, or before anything else.
    Backend(&'static str),
    BackendAtFirst(&'static str),
    /// A provider that does this.
    Provider(Accept, &'static [Step]),
}

/// How the request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Streamed,
    Both,
}

/// What the client sees when there is nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The whole answer.
    Answer,
    /// An error with this status and code, before anything of an answer. With another provider: its
    /// answer.
    Error(u16, &'static str),
    /// The beginning of the answer, then an error event. With another provider: the same.
    Breaks,
}

/// Versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    Both,
    New,
    Old,
}

/// What the provider that goes wrong is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paid {
    Nothing,
    /// What the answer costs.
    Right,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) cause: Cause,
    pub(super) form: Form,
    /// Over what it is tried.
    pub(super) over: Versions,
    pub(super) seen: Seen,
    pub(super) paid: Paid,
}

const FAILED: Seen = Seen::Error(502, "provider_failed");
const SLOW: Seen = Seen::Error(504, "timeout");

const fn backend(
    name: &'static str,
    what: &'static str,
    cause: Cause,
    form: Form,
    seen: Seen,
) -> Row {
    let paid = match seen {
        Seen::Answer => Paid::Right,
        Seen::Error(..) | Seen::Breaks => Paid::Nothing,
    };
    Row {
        name,
        what,
        cause,
        form,
        over: Versions::Both,
        seen,
        paid,
    }
}

const fn lie(
    name: &'static str,
    what: &'static str,
    steps: &'static [Step],
    form: Form,
    seen: Seen,
) -> Row {
    Row {
        name,
        what,
        cause: Cause::Provider(Accept::Take, steps),
        form,
        over: Versions::Both,
        seen,
        paid: Paid::Nothing,
    }
}

const fn accept(name: &'static str, what: &'static str, accept: Accept, seen: Seen) -> Row {
    Row {
        name,
        what,
        cause: Cause::Provider(accept, &[]),
        form: Form::Both,
        over: Versions::Both,
        seen,
        paid: Paid::Nothing,
    }
}

impl Row {
    const fn paid_right(self) -> Self {
        Self {
            paid: Paid::Right,
            ..self
        }
    }

    const fn new_only(self) -> Self {
        Self {
            over: Versions::New,
            ..self
        }
    }

    const fn old_only(self) -> Self {
        Self {
            over: Versions::Old,
            ..self
        }
    }
}

use Cause::{Backend, BackendAtFirst, NoBackend};
use Form::{Both, Plain, Streamed};
use Step::{
    Bill, BillEarly, Close, Completed, DataFirst, Done, ErrorEvent, Event, Fail, Finish, Head,
    HugeEvent, HugeFrame, Noise, Silence, Status, Text, Usage, Whole,
};

/// What a backend does wrong behind a provider that is honest.
pub(super) const BACKENDS: &[Row] = &[
    backend("none", "nothing", Backend("none"), Both, Seen::Answer),
    backend("refused", "connection refused", NoBackend, Both, FAILED),
    backend(
        "busy",
        "429",
        Backend("429"),
        Both,
        Seen::Error(429, "all_providers_busy"),
    )
    .new_only(),
    backend("busy", "429", Backend("429"), Both, FAILED).old_only(),
    backend("error-500", "500", Backend("500"), Both, FAILED),
    backend("error-401", "401", Backend("401"), Both, FAILED),
    backend(
        "error-400",
        "400",
        Backend("400"),
        Both,
        Seen::Error(400, ""),
    )
    .new_only(),
    backend("error-400", "400", Backend("400"), Both, FAILED).old_only(),
    backend("slow", "no first byte", Backend("stall-first"), Both, SLOW),
    backend(
        "stall",
        "stalls in the middle",
        Backend("stall-middle"),
        Streamed,
        Seen::Breaks,
    ),
    backend(
        "stall-plain",
        "stalls in the middle of an answer in one piece",
        Backend("stall-middle"),
        Plain,
        SLOW,
    ),
    backend(
        "stall-early",
        "stalls before the first token",
        BackendAtFirst("stall-middle"),
        Streamed,
        SLOW,
    ),
    backend(
        "close",
        "closes in the middle",
        Backend("close-early"),
        Streamed,
        Seen::Breaks,
    ),
    backend(
        "close-plain",
        "closes in the middle of an answer in one piece",
        Backend("close-early"),
        Plain,
        FAILED,
    ),
    backend(
        "close-early",
        "closes before the first token",
        BackendAtFirst("close-early"),
        Streamed,
        FAILED,
    ),
    backend(
        "end",
        "ends in the middle as if that were all",
        Backend("end-early"),
        Streamed,
        Seen::Breaks,
    ),
    backend(
        "end-early",
        "ends before the first token",
        BackendAtFirst("end-early"),
        Streamed,
        FAILED,
    ),
    backend(
        "malformed",
        "a malformed event in the middle",
        Backend("malformed-sse"),
        Streamed,
        Seen::Breaks,
    ),
    backend(
        "malformed-plain",
        "half of a JSON object",
        Backend("malformed-sse"),
        Plain,
        FAILED,
    ),
    backend(
        "malformed-early",
        "a malformed event first",
        BackendAtFirst("malformed-sse"),
        Streamed,
        FAILED,
    ),
    backend(
        "error-event",
        "an error event in the middle",
        Backend("error-event"),
        Streamed,
        Seen::Breaks,
    ),
    backend(
        "error-plain",
        "an error object with status 200",
        Backend("error-event"),
        Plain,
        FAILED,
    ),
    backend(
        "error-early",
        "an error event first",
        BackendAtFirst("error-event"),
        Streamed,
        FAILED,
    ),
    backend("garbage", "noise", Backend("garbage"), Both, FAILED),
    backend("empty", "an empty body", Backend("empty"), Both, FAILED),
    backend(
        "huge",
        "a chunk of 300,000 characters",
        Backend("huge-chunk"),
        Both,
        Seen::Answer,
    ),
    backend(
        "no-usage",
        "never says what was used",
        Backend("no-usage"),
        Both,
        Seen::Answer,
    ),
    backend(
        "wrong-type",
        "the answer as `text/html`",
        Backend("content-type"),
        Both,
        Seen::Answer,
    ),
    backend(
        "wrong-model",
        "names another model",
        Backend("wrong-model"),
        Both,
        Seen::Answer,
    ),
    Row {
        paid: Paid::Nothing,
        ..backend(
            "wrong-usage",
            "a thousand times the usage",
            Backend("inflated-usage"),
            Both,
            Seen::Answer,
        )
    },
];

/// What a provider does wrong itself.
pub(super) const PROVIDERS: &[Row] = &[
    lie(
        "honest",
        "nothing",
        &[Head, Text, Finish, Usage(1), Done, Bill("")],
        Streamed,
        Seen::Answer,
    )
    .paid_right(),
    lie(
        "honest-plain",
        "nothing",
        &[Head, Whole(1), Bill("")],
        Plain,
        Seen::Answer,
    )
    .paid_right(),
    accept(
        "says-busy",
        "says Busy",
        Accept::Busy,
        Seen::Error(429, "all_providers_busy"),
    ),
    accept(
        "refuses",
        "refuses what is asked",
        Accept::Refuse,
        Seen::Error(400, ""),
    ),
    accept(
        "never-takes",
        "never answers the job's creation",
        Accept::Never,
        SLOW,
    ),
    lie(
        "closes-at-once",
        "closes the pipe at once",
        &[Close],
        Both,
        FAILED,
    ),
    lie("silent", "says nothing", &[Silence], Both, SLOW),
    lie(
        "head-only",
        "says nothing behind the head",
        &[Head, Silence],
        Both,
        SLOW,
    ),
    lie("fails", "says that it failed", &[Fail], Both, FAILED),
    lie("noise", "noise in place of frames", &[Noise], Both, FAILED),
    lie(
        "no-head",
        "an answer without a head",
        &[DataFirst],
        Both,
        FAILED,
    )
    .new_only(),
    lie(
        "status",
        "a head with status 500",
        &[Status(500)],
        Both,
        FAILED,
    )
    .new_only(),
    lie(
        "huge-frame",
        "a frame of 4 GB",
        &[Head, HugeFrame],
        Both,
        FAILED,
    ),
    lie(
        "bill-only",
        "a bill without an answer",
        &[Head, Bill("")],
        Both,
        FAILED,
    ),
    lie(
        "no-json",
        "an event that is not JSON first",
        &[Head, Event("data: {\n\n"), Silence],
        Streamed,
        FAILED,
    )
    .new_only(),
    lie(
        "empty-answer",
        "bills an answer that says nothing",
        &[Head, Finish, Usage(1), Done, Bill("")],
        Streamed,
        FAILED,
    )
    .new_only(),
    lie(
        "stalls",
        "stalls in the middle",
        &[Head, Text, Silence],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "closes",
        "closes in the middle",
        &[Head, Text, Close],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "fails-later",
        "says in the middle that it failed",
        &[Head, Text, Fail],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "noise-later",
        "noise in the middle",
        &[Head, Text, Noise],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "error-later",
        "an error event in the middle",
        &[Head, Text, ErrorEvent],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "no-json-later",
        "an event that is not JSON in the middle",
        &[Head, Text, Event("data: {\n\n"), Silence],
        Streamed,
        Seen::Breaks,
    )
    .new_only(),
    lie(
        "huge-later",
        "an event of 2 MiB in the middle",
        &[Head, Text, HugeEvent, Silence],
        Streamed,
        Seen::Breaks,
    )
    .new_only(),
    lie(
        "head-later",
        "a second head",
        &[Head, Text, Head, Silence],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "bills-early",
        "bills before the end",
        &[Head, Text, BillEarly],
        Streamed,
        Seen::Breaks,
    ),
    lie(
        "no-bill",
        "closes behind the answer, without a bill",
        &[Head, Text, Finish, Usage(1), Done, Close],
        Streamed,
        Seen::Answer,
    ),
    lie(
        "bill-lost",
        "completes the job, and closes before the bill",
        &[Head, Text, Finish, Usage(1), Done, Completed, Close],
        Streamed,
        Seen::Answer,
    )
    .paid_right(),
    lie(
        "bills-twice",
        "bills twice",
        &[Head, Text, Finish, Usage(1), Done, Bill(""), Bill("sum")],
        Streamed,
        Seen::Answer,
    )
    .paid_right(),
    lie(
        "lies-usage",
        "says and bills a thousand times the usage",
        &[Head, Text, Finish, Usage(1000), Done, Bill("usage")],
        Streamed,
        Seen::Answer,
    ),
    lie(
        "lies-usage-plain",
        "says and bills a thousand times the usage",
        &[Head, Whole(1000), Bill("usage")],
        Plain,
        Seen::Answer,
    ),
    lie(
        "bills-more",
        "bills more tokens than the answer said",
        &[Head, Text, Finish, Usage(1), Done, Bill("more")],
        Streamed,
        Seen::Answer,
    ),
    lie(
        "wrong-sum",
        "bills another sum than its prices give",
        &[Head, Text, Finish, Usage(1), Done, Bill("sum")],
        Streamed,
        Seen::Answer,
    ),
    lie(
        "bills-model",
        "bills another model",
        &[Head, Text, Finish, Usage(1), Done, Bill("model")],
        Streamed,
        Seen::Answer,
    ),
    lie(
        "bills-request",
        "bills another request",
        &[Head, Text, Finish, Usage(1), Done, Bill("request")],
        Streamed,
        Seen::Answer,
    )
    .new_only(),
    lie(
        "bills-noise",
        "a bill that is no bill",
        &[Head, Text, Finish, Usage(1), Done, Bill("noise")],
        Streamed,
        Seen::Answer,
    ),
    lie(
        "bills-later",
        "says that it was completed in ten years",
        &[Head, Text, Finish, Usage(1), Done, Bill("time")],
        Streamed,
        Seen::Answer,
    ),
];
