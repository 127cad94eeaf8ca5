//! The job as each side has it on its disk.

use std::time::Duration;

use derouter_openai::protocol::protocol_ids;
use derouter_openai::record::bought;
use derouter_sdk::{JobEvent, JobFilter, JobQuery, JobRecord, Node, NodeError, PeerId, Watch, Wei};

use super::screen::Screen;
use super::stage::Actors;
use crate::failure::Failure;

/// How long the signature may take from one side to the other and back. It takes milliseconds.
const SIGNATURE_DEADLINE: Duration = Duration::from_secs(20);

/// What is shown of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bill {
    model: String,
    prompt_tokens: u64,
    completion_tokens: u64,
    price: Wei,
}

/// The jobs of both sides, watched since before the chat.
pub(super) struct Watched<'a> {
    actors: &'a Actors,
    provider: Watch<JobEvent>,
    consumer: Watch<JobEvent>,
}

/// A job that both sides have signed and confirmed.
pub(super) struct Receipt {
    provider_id: PeerId,
    consumer_id: PeerId,
    provider: JobRecord,
    consumer: JobRecord,
}

fn filter() -> JobFilter {
    JobFilter {
        protocol_ids: Some(protocol_ids()),
        ..JobFilter::default()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: NodeError) -> Failure {
    Failure::failed(format_args!("can't read the jobs: {error}"))
}

impl<'a> Watched<'a> {
    /// Begins to watch.
    pub(super) async fn begin(actors: &'a Actors) -> Result<Self, Failure> {
        Ok(Self {
            provider: actors.provider.watch_jobs(filter()).await.map_err(failed)?,
            consumer: actors.consumer.watch_jobs(filter()).await.map_err(failed)?,
            actors,
        })
    }

    /// Waits until both sides have the job completed and its signature confirmed.
    pub(super) async fn wait(mut self) -> Result<Receipt, Failure> {
        let both = async {
            let consumer = confirmed(&*self.actors.consumer, &mut self.consumer).await?;
            let provider = confirmed(&*self.actors.provider, &mut self.provider).await?;
            Ok::<_, Failure>((provider, consumer))
        };
        let (provider, consumer) = tokio::time::timeout(SIGNATURE_DEADLINE, both)
            .await
            .map_err(|_| {
                Failure::failed(format_args!(
                    "the job was not signed and confirmed within {} s. Run it again with \
                     RUST_LOG=info to see why",
                    SIGNATURE_DEADLINE.as_secs()
                ))
            })??;
        let (provider_id, consumer_id) = (self.actors.provider_id, self.actors.consumer_id);
        Ok(Receipt {
            provider_id,
            consumer_id,
            provider,
            consumer,
        })
    }
}

/// Waits for the one job of a side.
async fn confirmed(node: &dyn Node, watch: &mut Watch<JobEvent>) -> Result<JobRecord, Failure> {
    loop {
        let query = JobQuery {
            after: None,
            filter: filter(),
            newest_first: false,
            limit: 1,
        };
        let job = node.jobs(&query).await.map_err(failed)?.into_iter().next();
        if let Some(job) = job {
            if let Some(reason) = &job.reason {
                return Err(Failure::failed(format_args!("the job failed: {reason}")));
            }
            if job.signature_confirmed_at_local.is_some() {
                return Ok(job);
            }
        }
        if watch.next().await.is_none() {
            return Err(Failure::failed("a node stopped before the job was signed"));
        }
    }
}

impl Receipt {
    /// Shows it.
    pub(super) fn show(&self, screen: &Screen) -> Result<(), Failure> {
        screen.title("The job, as both nodes recorded it:");
        screen.item("job", self.consumer.provider_job_id.as_str());
        screen.item("seller", &self.provider_id.to_string());
        screen.item("buyer", &self.consumer_id.to_string());
        let (sold, bought) = (Bill::of(&self.provider), Bill::of(&self.consumer));
        match (sold, bought) {
            (Some(sold), Some(bought)) if sold == bought => sold.show(screen),
            _ => {
                return Err(Failure::failed(
                    "the two nodes recorded different jobs: a bug",
                ));
            }
        }
        let confirmed = screen.good("confirmed");
        screen.item(
            "signature",
            &format!("buyer: {confirmed}   seller: {confirmed}"),
        );
        Ok(())
    }
}

impl Bill {
    fn of(job: &JobRecord) -> Option<Self> {
        let bought = bought(job)?;
        let price = match &job.balance_delta {
            Some(text) => text.parse().ok()?,
            None => Wei::ZERO,
        };
        Some(Self {
            model: bought.model,
            prompt_tokens: bought.used.input,
            completion_tokens: bought.used.output,
            price,
        })
    }

    fn show(&self, screen: &Screen) {
        screen.item("model", &self.model);
        screen.item("tokens", &self.tokens());
        screen.item(
            "price",
            &format!("{} POL, owed by the buyer", self.price.to_pol_text()),
        );
    }

    fn tokens(&self) -> String {
        format!(
            "{} prompt, {} answer",
            self.prompt_tokens, self.completion_tokens
        )
    }
}

/// Shows each further job when the seller has its signature. Ends with the node.
pub(super) async fn follow(actors: &Actors, screen: &Screen) -> Result<(), Failure> {
    let mut jobs = actors.provider.watch_jobs(filter()).await.map_err(failed)?;
    while let Some(event) = jobs.next().await {
        let JobEvent::Updated(job) = event else {
            continue;
        };
        if let Some(line) = summary(&job) {
            screen.item("job", &line);
        }
    }
    Err(Failure::failed("the provider's node stopped"))
}

/// A job that is over, in a line.
fn summary(job: &JobRecord) -> Option<String> {
    if let Some(reason) = &job.reason {
        return Some(format!("failed: {}", super::screen::printable(reason)));
    }
    job.signature_confirmed_at_local?;
    let bill = Bill::of(job)?;
    let (tokens, price) = (bill.tokens(), bill.price.to_pol_text());
    Some(format!(
        "{}: {tokens}, {price} POL, signed by the buyer",
        bill.model
    ))
}
