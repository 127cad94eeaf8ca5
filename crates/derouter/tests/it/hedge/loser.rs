//! A provider that answers as usual for a while, and then says nothing until it hears that another one was
//! quicker: what it sends then was under way, as far as anybody can know.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use derouter_openai::protocol::v0_2::frames::Frame;
use derouter_openai::protocol::v0_2::{AnswerHead, Epilogue, PublicPayload, UsagePayload};
use derouter_openai::terms::Metered;
use derouter_sdk::{
    ConnectionRefusal, JobKey, JobRefusal, JobStream, ProviderCompletion, ProviderDesk,
    ProviderJob, ProviderService, Wei, async_trait,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a token costs, of a prompt and of an answer.
pub(super) const TOKEN_WEI: u64 = 1_000_000_000;

/// Prompt tokens that it bills.
pub(super) const PROMPT: u64 = 4;

#[derive(Debug)]
pub(super) struct Loser {
    /// So many jobs are answered at once.
    usual: usize,
    /// So many words come late in those behind.
    late: u64,
    served: AtomicUsize,
    jobs: Mutex<HashMap<JobKey, ProviderJob>>,
}

impl Loser {
    pub(super) fn new(usual: usize, late: u64) -> Self {
        Self {
            usual,
            late,
            served: AtomicUsize::new(0),
            jobs: Mutex::default(),
        }
    }
}

#[async_trait]
impl ProviderService for Loser {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        self.jobs.lock().unwrap().insert(job.key.clone(), job);
        Ok(())
    }

    async fn prepare(&self, _: &JobKey) -> Result<(), ConnectionRefusal> {
        Ok(())
    }

    async fn serve(&self, key: JobKey, desk: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        let Some(job) = self.jobs.lock().unwrap().get(&key).cloned() else {
            return;
        };
        let loses = self.served.fetch_add(1, Ordering::Relaxed) >= self.usual;
        let words = if loses { self.late } else { 1 };
        if loses {
            // Until the consumer wants no more.
            let mut said = [0; 64];
            while stream.read(&mut said).await.is_ok_and(|read| read > 0) {}
        }
        let mut out = BytesMut::new();
        out.extend_from_slice(&Frame::head(&AnswerHead {
            status: 200,
            content_type: "text/event-stream".into(),
            body_bytes: None,
            headers: BTreeMap::new(),
        }));
        for _ in 0..words {
            let delta = json!({"role": "assistant", "content": "word "});
            put(
                &json!([{"index": 0, "delta": delta, "finish_reason": null}]),
                &mut out,
            );
        }
        if !loses {
            put(
                &json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
                &mut out,
            );
        }
        let used = Metered {
            input: PROMPT,
            output: words,
            ..Metered::default()
        };
        let cost = Wei::from_wei(u128::from(TOKEN_WEI * (PROMPT + words)));
        let completion = ProviderCompletion {
            balance_delta: Some(cost),
            public_payload: payload(&job, used, loses),
            private_payload: None,
        };
        let completed_at = desk.complete(&key, completion.clone()).await.unwrap();
        out.extend_from_slice(&Frame::epilogue(&Epilogue {
            public_payload: completion.public_payload,
            balance_delta: completion.balance_delta,
            completed_at,
        }));
        let _ = stream.write_all(&out).await;
        let _ = stream.flush().await;
        let _ = stream.shutdown().await;
    }
}

fn put(choices: &Value, out: &mut BytesMut) {
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices});
    Frame::put_data(format!("data: {chunk}\n\n").as_bytes(), out);
}

fn payload(job: &ProviderJob, used: Metered, cancelled: bool) -> String {
    let args = job.job_args.as_deref().unwrap_or_default();
    let (_, body) = args.split_once('\n').unwrap_or_default();
    let payload = PublicPayload {
        path: "chat/completions".into(),
        model: super::MODEL.to_owned(),
        request_sha256: hex::encode(Sha256::digest(body)),
        cancelled,
        usage: UsagePayload::from(used),
    };
    serde_json::to_string(&payload).unwrap()
}
