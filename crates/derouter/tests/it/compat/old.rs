//! The same of streams whose provider sells by `openai:0.1`: one of this version, which makes chunks right for
//! consumers of 0.1, and one that passes on what its backend sends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use derouter_openai::frames::{Json, write_value};
use derouter_openai::protocol::{self, OfferPayload, PolAmount};
use derouter_sdk::{
    ConnectionRefusal, JobKey, JobRecord, JobRefusal, JobStream, Node, OfferId, OfferSpec,
    ProvideOptions, ProviderDesk, ProviderJob, ProviderService, Wei, async_trait,
};
use derouter_testkit::Pair;
use derouter_testkit::ledger::{jobs, node};
use derouter_testkit::pair::wait_model;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{MODEL, bare_pair, wire};
use crate::old_only;

async fn all_were_of_0_1(pair: &Pair) {
    let sold = jobs(&node(&pair.provider.ready)).await;
    assert!(!sold.is_empty());
    let is_old = |job: &JobRecord| job.offer_protocol_id.as_str() == "openai:0.1";
    assert!(sold.iter().all(is_old), "{sold:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_provider_of_0_1_are_what_openais_would_be() {
    let pair = bare_pair().await;
    let _provider = old_only::sell(&pair, MODEL).await;
    wait_model(pair.url(), MODEL).await;
    wire::each_line_of_data_is_json_and_done_is_last(&pair).await;
    wire::roles_and_reasons_are_always_there(&pair).await;
    wire::usage_comes_alone_and_for_those_who_ask(&pair).await;
    wire::calls_have_whole_indices_with_id_and_name_first(&pair).await;
    wire::errors_in_the_middle_are_events(&pair).await;
    all_were_of_0_1(&pair).await;
}

/// A provider that sends the chunks that a request names, and no bill.
#[derive(Debug, Default)]
struct Careless(Mutex<HashMap<JobKey, ProviderJob>>);

#[async_trait]
impl ProviderService for Careless {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        self.0.lock().unwrap().insert(job.key.clone(), job);
        Ok(())
    }

    async fn prepare(&self, _: &JobKey) -> Result<(), ConnectionRefusal> {
        Ok(())
    }

    async fn serve(&self, key: JobKey, _: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        let args = self.0.lock().unwrap()[&key].job_args.clone().unwrap();
        let request: Value = serde_json::from_str(&args).unwrap();
        let chunks = request["derouter_test"]["events"].as_array().unwrap();
        let prologue = json!({"status": "Ok"});
        for value in std::iter::once(&prologue).chain(chunks) {
            write_value(&mut stream, &Json(value)).await.unwrap();
        }
        stream.flush().await.unwrap();
        let _ = stream.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_a_careless_provider_of_0_1_are_made_right() {
    let pair = bare_pair().await;
    let price = PolAmount {
        wei: Wei::from_wei(1_000_000),
    };
    let payload = OfferPayload {
        model_id: MODEL.to_owned(),
        context_size: 131_072,
        input_token_price: price,
        output_token_price: price,
        trial: None,
        description: None,
    };
    let offer = OfferSpec {
        protocol_id: protocol::protocol_id(),
        offer_id: OfferId::new("careless").unwrap(),
        protocol_payload: payload.to_json(),
    };
    let at = node(&pair.provider.ready);
    let module = Arc::new(Careless::default());
    let provided = at.provide(vec![offer], ProvideOptions::default(), module);
    let _provision = provided.await.unwrap();
    wait_model(pair.url(), MODEL).await;
    wire::roles_and_reasons_are_always_there(&pair).await;
    wire::usage_comes_alone_and_for_those_who_ask(&pair).await;
    wire::calls_have_whole_indices_with_id_and_name_first(&pair).await;
    all_were_of_0_1(&pair).await;
}
