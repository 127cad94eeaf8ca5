//! A provider module that does what a row says, whatever its offer promised.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use derouter_openai::frames::{Json, write_value};
use derouter_openai::protocol::v0_2::frames::Frame;
use derouter_openai::protocol::v0_2::{self, AnswerHead, Failed, PublicPayload, UsagePayload};
use derouter_openai::protocol::{EPILOGUE_OBJECT, Usage, public_payload};
use derouter_openai::terms::Metered;
use derouter_sdk::{
    ConnectionRefusal, FailureReason, JobKey, JobRefusal, JobStream, ProviderCompleteError,
    ProviderCompletion, ProviderDesk, ProviderJob, ProviderService, UnixSeconds, Wei, async_trait,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What it does with a job that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    Take,
    Busy,
    Refuse,
    Never,
}

/// One thing that it does on the job's pipe. With `openai:0.1` each is the value that comes nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Head,
    /// The head of an answer with this status.
    Status(u16),
    /// A chunk of text.
    Text,
    /// The end of the text.
    Finish,
    /// The usage, so many times too large.
    Usage(u64),
    /// `[DONE]`.
    Done,
    /// An answer in one piece, with a usage so many times too large.
    Whole(u64),
    /// Completes the job, and sends a bill that lies about this.
    Bill(&'static str),
    /// The same, in the middle of an answer.
    BillEarly,
    /// Completes the job, and says nothing of it.
    Completed,
    Fail,
    ErrorEvent,
    /// These bytes of the body.
    Event(&'static str),
    /// An event without end.
    HugeEvent,
    /// A part of the body where there was no head.
    DataFirst,
    Noise,
    /// The beginning of a frame that is larger than any memory.
    HugeFrame,
    /// Nothing more, for ever.
    Silence,
    Close,
}

/// What it used for every answer.
pub(super) const USED: Usage = Usage {
    prompt_tokens: 4,
    completion_tokens: 1,
};

/// Its price of a prompt token, and of one of the answer: those of the testkit's offers.
pub(super) const TOKEN_WEI: (u128, u128) = (1_000_000_000_000, 2_000_000_000_000);

/// What its answers say.
pub(super) const WORD: &str = "lies";

/// Longer than every timer of the gateway.
const FOR_EVER: Duration = Duration::from_secs(600);

/// What some tokens cost.
pub(super) fn cost(usage: Usage) -> u128 {
    let (input, output) = TOKEN_WEI;
    u128::from(usage.prompt_tokens) * input + u128::from(usage.completion_tokens) * output
}

/// What it does with an offer's jobs.
pub(super) type Scripts = HashMap<String, (Accept, &'static [Step])>;

/// The module.
#[derive(Debug)]
pub(super) struct Liar {
    pub(super) scripts: Scripts,
    jobs: Mutex<HashMap<JobKey, ProviderJob>>,
}

impl Liar {
    pub(super) fn new(scripts: Scripts) -> Self {
        Self {
            scripts,
            jobs: Mutex::default(),
        }
    }
}

#[async_trait]
impl ProviderService for Liar {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        let (accept, _) = self.scripts[job.offer_id.as_str()];
        match accept {
            Accept::Take => {}
            Accept::Busy => return Err(JobRefusal::Busy),
            Accept::Refuse => return Err(JobRefusal::InvalidJobArgs("not that".into())),
            Accept::Never => tokio::time::sleep(FOR_EVER).await,
        }
        self.jobs.lock().unwrap().insert(job.key.clone(), job);
        Ok(())
    }

    async fn prepare(&self, job: &JobKey) -> Result<(), ConnectionRefusal> {
        let known = self.jobs.lock().unwrap().contains_key(job);
        known.then_some(()).ok_or(ConnectionRefusal::JobNotFound)
    }

    async fn serve(&self, key: JobKey, desk: Arc<dyn ProviderDesk>, stream: JobStream) {
        let Some(job) = self.jobs.lock().unwrap().get(&key).cloned() else {
            return;
        };
        let (_, steps) = self.scripts[job.offer_id.as_str()];
        let telling = Telling {
            old: job.protocol_id.as_str() == "openai:0.1",
            job,
            desk: Arc::clone(&desk),
            stream,
            completed: None,
            spoken: false,
        };
        telling.run(steps).await;
        // A completed job stays completed.
        let reason = FailureReason {
            reason: "the liar is done".into(),
            reason_class: None,
        };
        let _ = desk.fail(&key, reason).await;
    }
}

/// One job's pipe. What can't be written is of no importance: the consumer is gone.
struct Telling {
    old: bool,
    job: ProviderJob,
    desk: Arc<dyn ProviderDesk>,
    stream: JobStream,
    completed: Option<UnixSeconds>,
    /// Something was said.
    spoken: bool,
}

impl Telling {
    async fn run(mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Silence => return self.silence().await,
                Step::Close => {
                    let _ = self.stream.shutdown().await;
                    return;
                }
                step => self.tell(*step).await,
            }
            self.spoken = true;
        }
        let _ = self.stream.shutdown().await;
        self.silence().await;
    }

    /// Until the consumer goes.
    async fn silence(&mut self) {
        let gone = async {
            let mut some = [0; 1024];
            while self.stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
        };
        let _ = tokio::time::timeout(FOR_EVER, gone).await;
    }

    async fn tell(&mut self, step: Step) {
        let chunk = |choices: Value| json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices});
        let choice =
            |delta: Value, end: Value| json!([{"index": 0, "delta": delta, "finish_reason": end}]);
        let usage = |factor: u64| {
            let used = Usage {
                prompt_tokens: USED.prompt_tokens * factor,
                completion_tokens: USED.completion_tokens * factor,
            };
            used.to_json()
        };
        match step {
            Step::Head => self.head(200).await,
            Step::Status(status) => self.head(status).await,
            Step::Text => {
                let delta = json!({"role": "assistant", "content": WORD});
                self.value(&chunk(choice(delta, Value::Null))).await;
            }
            Step::Finish => self.value(&chunk(choice(json!({}), json!("stop")))).await,
            Step::Usage(factor) => {
                let mut value = chunk(json!([]));
                value["usage"] = usage(factor);
                self.value(&value).await;
            }
            Step::Done if self.old => {}
            Step::Done => self.data(b"data: [DONE]\n\n").await,
            Step::Whole(factor) => {
                let message = json!({"role": "assistant", "content": WORD});
                let value = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": usage(factor)});
                match self.old {
                    true => self.value(&value).await,
                    false => self.data(value.to_string().as_bytes()).await,
                }
            }
            Step::Bill(lie) => self.bill(lie, true).await,
            Step::BillEarly => self.bill("", true).await,
            Step::Completed => self.bill("", false).await,
            Step::Fail if self.old && !self.spoken => {
                self.value(&json!({"status": "ServiceError", "message": "out of memory"}))
                    .await;
            }
            Step::ErrorEvent | Step::Fail if self.old || step == Step::ErrorEvent => {
                self.value(&json!({"error": {"message": "out of memory"}}))
                    .await;
            }
            Step::Fail => {
                let failed = Failed {
                    message: "out of memory".into(),
                    status: None,
                };
                self.raw(&Frame::failed(&failed)).await;
            }
            Step::Event(text) => self.data(text.as_bytes()).await,
            Step::HugeEvent => {
                let mut event = b"data: ".to_vec();
                event.resize(2 << 20, b'x');
                self.data(&event).await;
            }
            Step::DataFirst => self.data(b"data: {}\n\n").await,
            Step::Noise => self.raw(&[0xf7; 64]).await,
            Step::HugeFrame if self.old => self.raw(&[0xff, 0xff, 0xff, 0xff, 1]).await,
            Step::HugeFrame => self.raw(&[2, 0xff, 0xff, 0xff, 0xff, 1]).await,
            Step::Silence | Step::Close | Step::ErrorEvent => {}
        }
    }

    fn args(&self) -> &str {
        self.job.job_args.as_deref().unwrap_or_default()
    }

    fn request(&self) -> Map<String, Value> {
        let text = match self.old {
            true => self.args(),
            false => self.args().split_once('\n').unwrap_or_default().1,
        };
        serde_json::from_str(text).unwrap_or_default()
    }

    async fn head(&mut self, status: u16) {
        if self.old {
            // The prologue; a second one is a value that is no chunk.
            return self.value(&json!({"status": "Ok"})).await;
        }
        let streamed = self.request().get("stream") == Some(&Value::Bool(true));
        let head = AnswerHead {
            status,
            content_type: match streamed {
                true => "text/event-stream".into(),
                false => "application/json".into(),
            },
            body_bytes: None,
            headers: std::collections::BTreeMap::new(),
        };
        self.raw(&Frame::head(&head)).await;
    }

    async fn value(&mut self, value: &Value) {
        if self.old {
            let _ = write_value(&mut self.stream, &Json(value)).await;
            return;
        }
        self.data(format!("data: {value}\n\n").as_bytes()).await;
    }

    async fn data(&mut self, bytes: &[u8]) {
        let mut frames = BytesMut::new();
        Frame::put_data(bytes, &mut frames);
        self.raw(&frames).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            let _ = self.stream.flush().await;
        }
    }

    /// Completes the job once, and tells a bill each time.
    async fn bill(&mut self, lie: &str, tell: bool) {
        let used = match lie {
            "usage" => Usage {
                prompt_tokens: USED.prompt_tokens * 1000,
                completion_tokens: USED.completion_tokens * 1000,
            },
            "more" => Usage {
                prompt_tokens: USED.prompt_tokens + 1,
                completion_tokens: USED.completion_tokens + 1,
            },
            _ => USED,
        };
        let payload = self.payload(lie, used);
        let mut balance = Wei::from_wei(cost(used));
        if lie == "sum" {
            balance = balance.saturating_add(Wei::from_wei(1));
        }
        let completion = ProviderCompletion {
            balance_delta: Some(balance),
            public_payload: payload.clone(),
            private_payload: None,
        };
        if self.completed.is_none() {
            let completed = self.desk.complete(&self.job.key, completion).await;
            self.completed = match completed {
                Ok(at) => Some(at),
                Err(ProviderCompleteError::AlreadyCompleted { completed_at_sync }) => {
                    Some(completed_at_sync)
                }
                Err(_) => None,
            };
        }
        let Some(UnixSeconds(at)) = self.completed.filter(|_| tell) else {
            return;
        };
        let completed_at = match lie {
            "time" => UnixSeconds(at + 315_360_000),
            _ => UnixSeconds(at),
        };
        if self.old {
            let streamed = self.request().get("stream") == Some(&Value::Bool(true));
            let mut value = json!({"public_payload": payload, "balance_delta": balance.to_string(),
                "completed_at_sync": completed_at.0});
            if streamed {
                value["object"] = EPILOGUE_OBJECT.into();
            }
            return self.value(&value).await;
        }
        let epilogue = v0_2::Epilogue {
            public_payload: payload,
            balance_delta: Some(balance),
            completed_at,
        };
        self.raw(&Frame::epilogue(&epilogue)).await;
    }

    fn payload(&self, lie: &str, used: Usage) -> String {
        if lie == "noise" {
            return "[]".into();
        }
        let mut request = self.request();
        if lie == "model" {
            request.insert("model".into(), "a-dearer-model".into());
        }
        if self.old {
            return public_payload(&request, &used.to_json());
        }
        let body = self.args().split_once('\n').unwrap_or_default().1;
        let body = if lie == "request" { "{}" } else { body };
        let model = request.get("model").and_then(Value::as_str);
        let metered = Metered {
            input: used.prompt_tokens,
            output: used.completion_tokens,
            ..Metered::default()
        };
        let payload = PublicPayload {
            path: "chat/completions".into(),
            model: model.unwrap_or_default().to_owned(),
            request_sha256: hex::encode(Sha256::digest(body)),
            cancelled: false,
            usage: UsagePayload::from(metered),
        };
        serde_json::to_string(&payload).unwrap()
    }
}
