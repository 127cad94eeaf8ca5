//! What the record of a job says, whichever version of the protocol it is of.

use derouter_sdk::JobRecord;
use serde_json::Value;

use crate::protocol::{self, Usage, v0_2};
use crate::terms::Metered;

/// What was bought with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bought {
    /// The model's own name.
    pub model: String,
    /// What was used.
    pub used: Metered,
}

/// What was bought with a completed job; `None` when it is not completed, or of another protocol.
pub fn bought(job: &JobRecord) -> Option<Bought> {
    let payload = job.public_payload.as_deref()?;
    match job.offer_protocol_id.as_str() {
        v0_2::PROTOCOL => {
            let offer = v0_2::OfferPayload::parse(&job.offer_payload)?;
            let public: v0_2::PublicPayload = serde_json::from_str(payload).ok()?;
            Some(Bought {
                model: offer.models.into_iter().next()?,
                used: public.usage.into(),
            })
        }
        protocol::PROTOCOL => {
            let offer = protocol::OfferPayload::parse(&job.offer_payload)?;
            let public: Value = serde_json::from_str(payload).ok()?;
            let usage = Usage::from_json(public.get("response")?.get("usage")?)?;
            Some(Bought {
                model: offer.model_id,
                used: Metered {
                    input: usage.prompt_tokens,
                    output: usage.completion_tokens,
                    ..Metered::default()
                },
            })
        }
        _ => None,
    }
}
