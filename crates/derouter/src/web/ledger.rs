//! What jobs of known protocols say, and proofs of them.

use std::path::PathBuf;

use derouter_openai::protocol::OfferPayload;
use derouter_openai::protocol::v0_2;
use derouter_sdk::{JobRecord, async_trait};
use derouter_web::modules::{self, JobFacts};
use serde_json::Value;

/// The OpenAI protocol's jobs.
pub(super) struct Protocols;

impl modules::Protocols for Protocols {
    fn facts(&self, job: &JobRecord) -> JobFacts {
        let outcome: Option<Value> = job
            .public_payload
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok());
        // What is absent of a usage is none.
        let usage = outcome.as_ref().and_then(|outcome| outcome.get("usage"));
        let tokens =
            |key: &str| usage.map(|usage| usage.get(key).and_then(Value::as_u64).unwrap_or(0));
        JobFacts {
            model: model(job),
            input: tokens("input"),
            output: tokens("output"),
        }
    }
}

fn model(job: &JobRecord) -> Option<String> {
    let payload = &job.offer_payload;
    match job.offer_protocol_id.as_str() {
        v0_2::PROTOCOL => v0_2::OfferPayload::parse(payload)?
            .models
            .into_iter()
            .next(),
        _ => OfferPayload::parse(payload).map(|offer| offer.model_id),
    }
}

/// Proofs, from the node's database.
pub(super) struct Proofs {
    database: PathBuf,
}

impl Proofs {
    pub(super) fn new(database: PathBuf) -> Self {
        Self { database }
    }
}

#[async_trait]
impl modules::Proofs for Proofs {
    async fn proof(&self, job: &JobRecord) -> Result<String, String> {
        let (database, job) = (self.database.clone(), job.clone());
        // The file is read beside the node's own thread, and not on the runtime's.
        let read =
            tokio::task::spawn_blocking(move || crate::jobs::proof_of_record(&database, &job));
        read.await.map_err(|error| error.to_string())?
    }
}
