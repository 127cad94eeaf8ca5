//! Everything that can go wrong with an answer, with real processes: what the client saw, and what was
//! paid. docs/faults.md has the table.

mod liar;
mod rows;
mod table;
mod world;

use std::time::Duration;

use derouter_openai::protocol;
use derouter_sdk::JobRecord;
use derouter_testkit::{Outcome, eventually};
use futures::StreamExt;
use serde_json::{Value, json};

use liar::{TOKEN_WEI, WORD};
use rows::{BACKENDS, Cause, Form, PROVIDERS, Paid, Row, Seen, Versions};
use world::{TOTAL_POL, World};

/// Cases that run at once.
const AT_ONCE: usize = 12;

/// Nothing hangs: far more than the timers of the gateway add up to.
const HANGS: Duration = Duration::from_secs(60);

/// The version of the protocol that the provider that goes wrong offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    New,
    Old,
}

/// A provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Honest,
    Liar,
    Good,
}

/// A row, asked for in one way.
#[derive(Clone, Debug)]
struct Case {
    row: Row,
    over: Over,
    stream: bool,
    /// Whether the good provider has the model too.
    other: bool,
    /// Of this case alone, and the offer's name as well.
    model: String,
}

/// What a client saw.
#[derive(Debug)]
struct Saw {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
    /// The body came to its end.
    whole: bool,
}

impl Saw {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in BACKENDS.iter().chain(PROVIDERS) {
        let versions: &[Over] = match row.over {
            Versions::Both => &[Over::New, Over::Old],
            Versions::New => &[Over::New],
            Versions::Old => &[Over::Old],
        };
        for over in versions {
            for stream in [false, true] {
                if row.form != Form::Both && (row.form == Form::Streamed) != stream {
                    continue;
                }
                for other in [false, true] {
                    let model = format!(
                        "{}.{}.{}.{}",
                        row.name,
                        if *over == Over::New { "new" } else { "old" },
                        if stream { "streamed" } else { "plain" },
                        if other { "both" } else { "alone" },
                    );
                    cases.push(Case {
                        row: *row,
                        over: *over,
                        stream,
                        other,
                        model,
                    });
                }
            }
        }
    }
    cases
}

impl Case {
    /// Who goes wrong.
    fn wrong(&self) -> Who {
        match (self.row.cause, self.over) {
            (Cause::Provider(..), _) | (_, Over::Old) => Who::Liar,
            _ => Who::Honest,
        }
    }

    /// Who is to answer.
    fn answers(&self) -> Who {
        match self.row.seen {
            Seen::Error(..) if self.other => Who::Good,
            _ => self.wrong(),
        }
    }

    async fn ask(&self, world: &World) -> Saw {
        let (fault, at) = match self.row.cause {
            Cause::Backend(fault) => (fault, "half"),
            Cause::BackendAtFirst(fault) => (fault, "first"),
            _ => ("none", "half"),
        };
        let request = json!({
            "model": self.model, "stream": self.stream, "max_tokens": 64,
            "messages": [{"role": "user", "content": "Say some words"}],
            "derouter": {"order": [world.peer(self.wrong())]},
            "derouter_test": {"fault": fault, "at": at},
        });
        let asking = reqwest::Client::new()
            .post(format!("{}/chat/completions", world.url()))
            .header("content-type", "application/json")
            .body(request.to_string())
            .send();
        let answering = async {
            let mut response = asking.await.unwrap();
            let (mut text, mut whole) = (Vec::new(), true);
            let status = response.status().as_u16();
            let headers = response.headers().clone();
            loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => text.extend_from_slice(&bytes),
                    Ok(None) => break,
                    Err(_) => {
                        whole = false;
                        break;
                    }
                }
            }
            Saw {
                status,
                headers,
                text: String::from_utf8_lossy(&text).into_owned(),
                whole,
            }
        };
        let model = &self.model;
        let answered = tokio::time::timeout(HANGS, answering).await;
        answered.unwrap_or_else(|_| panic!("{model} hangs"))
    }

    /// What is wrong with what the client saw.
    fn check_seen(&self, world: &World, saw: &Saw) -> Result<(), String> {
        let wanted = match self.row.seen {
            Seen::Error(..) if self.other => Seen::Answer,
            seen => seen,
        };
        let fail = |what: &str| {
            Err(format!(
                "{}: {what}, wanted {wanted:?}: {saw:?}",
                self.model
            ))
        };
        if !saw.whole {
            return fail("a body that breaks off");
        }
        if saw.header("x-should-retry").is_some() {
            return fail("no money is owed when it is told");
        }
        if let Seen::Error(status, code) = wanted {
            let error: Value = serde_json::from_str(&saw.text).unwrap_or_default();
            let error = &error["error"];
            let said = error["code"].as_str().unwrap_or_default();
            if saw.status != status || said != code {
                return fail("another error");
            }
            if !error["message"].is_string() || saw.text.contains("backend-key") {
                return fail("a wrong message");
            }
            let again = saw.header("retry-after").is_some();
            return match again == matches!(status, 429 | 503) {
                true => Ok(()),
                false => fail("retry-after"),
            };
        }
        if saw.status != 200 {
            return fail("an error");
        }
        if saw.header("x-derouter-provider") != Some(world.peer(self.answers())) {
            return fail("another provider");
        }
        let attempts = match self.answers() {
            Who::Good => "2",
            _ => "1",
        };
        if saw.header("x-derouter-attempts") != Some(attempts) {
            return fail("other attempts");
        }
        let (first, last) = match (self.answers(), self.row.cause) {
            (Who::Liar, Cause::Provider(..)) => (WORD, WORD),
            _ => ("word0 ", "word7 "),
        };
        if saw.text.matches(first).count() != 1 {
            return fail("no answer, or two");
        }
        if wanted == Seen::Breaks {
            let code = saw.text.contains("\"code\":\"provider_failed\"");
            let ended = saw.text.contains("[DONE]");
            return match code && !ended {
                true => Ok(()),
                false => fail("no honest end"),
            };
        }
        let ended = !self.stream || saw.text.trim_end().ends_with("data: [DONE]");
        match ended && saw.text.contains(last) && !saw.text.contains("\"error\"") {
            true => Ok(()),
            false => fail("half an answer"),
        }
    }

    /// What is wrong with what is on record.
    fn check_paid(
        &self,
        world: &World,
        bought: &[JobRecord],
        sold: &[JobRecord],
    ) -> Result<(), String> {
        let of_case = |jobs: &[JobRecord]| -> Vec<JobRecord> {
            let own = jobs
                .iter()
                .filter(|job| job.offer_id.as_str() == self.model);
            own.cloned().collect()
        };
        let (bought, sold) = (of_case(bought), of_case(sold));
        let fail = |what: &str| Err(format!("{}: {what}\n{bought:#?}\n{sold:#?}", self.model));
        let payee = match (self.answers(), self.row.paid) {
            (Who::Good, _) => Some(Who::Good),
            (who, Paid::Right) => Some(who),
            (_, Paid::Nothing) => None,
        };
        let signed: Vec<_> = bought.iter().filter(|job| is_signed(job)).collect();
        let received: Vec<_> = sold.iter().filter(|job| is_signed(job)).collect();
        if signed.len() != usize::from(payee.is_some()) || received.len() != signed.len() {
            return fail("another number of signatures");
        }
        let (Some(payee), Some(job)) = (payee, signed.first()) else {
            return Ok(());
        };
        if job.provider_peer_id.to_string() != world.peer(payee) {
            return fail("another one is paid");
        }
        if received.first().map(|job| &job.balance_delta) != Some(&job.balance_delta) {
            return fail("both sides have another sum");
        }
        let owed: u128 = job.balance_delta.as_deref().unwrap_or("0").parse().unwrap();
        let (input, output) = usage(job);
        let right = u128::from(input) * TOKEN_WEI.0 + u128::from(output) * TOKEN_WEI.1;
        // The prompt has 3 words, and the answer 8 of 6 letters. Without a count it is estimated.
        match owed == right && (1..=60).contains(&input) && (1..=30).contains(&output) {
            true => Ok(()),
            false => fail("another sum"),
        }
    }
}

fn usage(job: &JobRecord) -> (u64, u64) {
    let payload: Value = serde_json::from_str(job.public_payload.as_deref().unwrap()).unwrap();
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    match job.offer_protocol_id == protocol::protocol_id() {
        true => {
            let usage = &payload["response"]["usage"];
            (
                count(&usage["prompt_tokens"]),
                count(&usage["completion_tokens"]),
            )
        }
        false => {
            let usage = &payload["usage"];
            (count(&usage["input"]), count(&usage["output"]))
        }
    }
}

fn is_signed(job: &JobRecord) -> bool {
    job.signature_confirmed_at_local.is_some()
}

/// Every job has ended, and every signature arrived.
async fn settled(world: &World) -> (Vec<JobRecord>, Vec<JobRecord>) {
    let begin = std::time::Instant::now();
    loop {
        let (bought, sold) = world.jobs().await;
        let open = bought
            .iter()
            .find(|job| !is_signed(job) && job.reason.is_none());
        let unended = sold
            .iter()
            .find(|job| job.completed_at_sync.is_none() && job.reason.is_none());
        let Some(open) = open.or(unended) else {
            return (bought, sold);
        };
        assert!(begin.elapsed() < HANGS, "a job does not end: {open:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// No backend works for nobody.
async fn backends_rest(world: &World) {
    eventually("the backends to rest", async || {
        let all = [&world.bad_backend, &world.good_backend].map(|backend| backend.seen());
        let running = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::Running;
        (!all.iter().flatten().any(running)).then_some(())
    })
    .await;
}

/// What is spent is what was signed, and nothing is set aside any more: the gateway says so to who asks for
/// too much.
async fn nothing_is_set_aside(world: &World, bought: &[JobRecord], model: &str) {
    let signed = bought.iter().filter(|job| is_signed(job));
    let owed = signed.filter_map(|job| job.balance_delta.as_deref());
    let owed: u128 = owed.map(|owed| owed.parse::<u128>().unwrap()).sum();
    let spent = derouter_sdk::Wei::from_wei(owed).to_pol_text();
    let request =
        json!({"model": model, "messages": [{"role": "user", "content": "Say some words"}]});
    let url = format!("{}/chat/completions", world.url());
    let answer = derouter_testkit::http::post_json(&url, &request)
        .await
        .unwrap();
    let text = answer.text();
    assert_eq!(answer.status, 402, "{text}");
    assert_eq!(answer.json()["error"]["code"], "spending_limit_total");
    let said = format!("{TOTAL_POL} POL: {spent} POL are spent, 0 POL are set aside");
    assert!(text.contains(&said), "{said}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_the_client_is_told_and_only_answers_are_paid() {
    let cases = cases();
    let world = World::start(&cases).await;
    let seen = futures::stream::iter(&cases)
        .map(async |case| {
            let saw = case.ask(&world).await;
            case.check_seen(&world, &saw).err()
        })
        .buffer_unordered(AT_ONCE);
    let mut wrong: Vec<String> = seen.filter_map(async |wrong| wrong).collect().await;
    let (bought, sold) = settled(&world).await;
    backends_rest(&world).await;
    for case in &cases {
        wrong.extend(case.check_paid(&world, &bought, &sold).err());
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    nothing_is_set_aside(&world, &bought, &cases[0].model).await;
    table::check();
}
