//! Offers that are changed while a provider runs, and what it shows of them.

use std::time::Duration;

use derouter_openai::provider::view::{OfferView, ProviderView};
use derouter_openai::provider::{Discover, OfferEdit, OfferStore, OfferTerms, ProviderConfig};
use derouter_sdk::{UnixSeconds, Wei};
use derouter_testkit::{Backend, Behaviour, eventually};
use serde_json::json;
use tempfile::TempDir;

use super::provider_support::{MODEL, Market, Outcome, chat, config, offer};

const NOW: UnixSeconds = UnixSeconds(1);

/// A provider with a data directory.
struct Scene {
    market: Market,
    store: OfferStore,
    directory: TempDir,
}

impl Scene {
    async fn open(change: impl FnOnce(&mut ProviderConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backend = Backend::start().await;
        let mut config = config(backend.url(), offer());
        config.data_dir = Some(directory.path().to_owned());
        change(&mut config);
        Self {
            store: OfferStore::new(directory.path()),
            market: Market::open_at(backend, config).await,
            directory,
        }
    }

    fn view(&self) -> ProviderView {
        self.market.provider.viewer().view()
    }

    fn offer(&self, id: &str) -> Option<OfferView> {
        self.view().offers.into_iter().find(|offer| offer.id == id)
    }

    /// Waits until an offer shows what is looked for.
    async fn until(&self, what: &str, id: &str, look: impl Fn(&OfferView) -> bool) -> OfferView {
        eventually(what, async || self.offer(id).filter(|offer| look(offer))).await
    }
}

fn price(wei: u128) -> OfferEdit {
    OfferEdit {
        input_token_price: Some(Wei::from_wei(wei)),
        ..OfferEdit::default()
    }
}

#[tokio::test]
async fn a_paused_offer_leaves_the_market_and_the_answer_that_runs_goes_on() {
    let scene = Scene::open(|_| ()).await;
    let id = scene.market.offer_ids().pop().unwrap();
    scene.market.backend.set_behaviour(Behaviour {
        pace: Duration::from_millis(150),
        ..Behaviour::default()
    });
    let key = scene.market.create(&chat(true)).await.unwrap();
    let stream = scene.market.connect(&key).await.unwrap();
    let reading = tokio::spawn(super::provider_support::read_all(stream));
    scene.until("the job", &id, |offer| offer.in_use == 1).await;
    scene.store.pause(&id, NOW).unwrap();
    scene
        .until("the pause", &id, |offer| offer.state == "paused")
        .await;
    scene.market.wait_offers(&[]).await;
    reading.await.unwrap();
    assert!(matches!(
        scene.market.outcome(&key).await,
        Outcome::Completed(_)
    ));
    scene.store.resume(&id, NOW).unwrap();
    scene.market.wait_offers(&[&id]).await;
    let offer = scene.offer(&id).unwrap();
    assert_eq!((offer.total.taken, offer.total.completed), (1, 1));
    assert_ne!(offer.income_today, "0");
}

#[tokio::test]
async fn a_changed_offer_is_announced_anew_and_a_bad_file_changes_nothing() {
    let scene = Scene::open(|_| ()).await;
    let id = scene.market.offer_ids().pop().unwrap();
    let before = scene.offer(&id).unwrap();
    assert_eq!((before.origin.as_str(), before.edited), ("config", false));
    let mut edit = price(5_000_000_000_000_000_000);
    edit.max_concurrency = Some(1);
    scene.store.edit(&id, edit, None, NOW).unwrap();
    let after = scene
        .until("the new price", &id, |offer| offer.price.input == "5")
        .await;
    assert!(after.edited && after.slots == 1 && after.price.output == before.price.output);

    std::fs::write(
        scene.directory.path().join("openai-offers.json"),
        "nonsense",
    )
    .unwrap();
    eventually("the complaint", async || scene.view().problem).await;
    assert_eq!(scene.offer(&id).unwrap().price.input, "5");
    scene.market.wait_offers(&[&id]).await;
    std::fs::remove_file(scene.directory.path().join("openai-offers.json")).unwrap();
    scene
        .until("the old price", &id, |offer| offer.price == before.price)
        .await;
    assert_eq!(scene.view().problem, None);
}

#[tokio::test]
async fn offers_come_from_the_configuration_the_backend_and_the_file() {
    let scene = Scene::open(|config| {
        config.backends[0].options.discover = Some(Discover {
            input_token_price: Wei::from_wei(1),
            output_token_price: Wei::from_wei(1),
            context_size: Some(1000),
            max_concurrency: None,
            max_offers: None,
            terms: OfferTerms::default(),
        });
        config.backends[0].offers.clear();
    })
    .await;
    // What the backend names.
    scene
        .until("the model", MODEL, |offer| offer.origin == "discovered")
        .await;
    let backend = scene.view().backends.pop().unwrap();
    assert_eq!((backend.state.as_str(), backend.discover), ("up", true));
    let whole = OfferEdit {
        model_id: Some("other".to_owned()),
        backend_model: Some(MODEL.to_owned()),
        context_size: Some(10),
        output_token_price: Some(Wei::from_wei(3)),
        ..price(2)
    };
    scene
        .store
        .add("mine", &backend.base_url, whole.clone(), NOW)
        .unwrap();
    scene
        .store
        .add("lost", "http://127.0.0.1:9/v1", whole, NOW)
        .unwrap();
    scene
        .until("the added one", "mine", |offer| offer.state == "announced")
        .await;
    assert!(
        scene.offer("lost").is_none(),
        "its backend is another one's"
    );
    scene
        .store
        .edit(MODEL, price(1_000_000_000_000_000_000), None, NOW)
        .unwrap();
    scene
        .until("the edited one", MODEL, |offer| {
            offer.edited && offer.price.input == "1"
        })
        .await;
    scene.store.remove(MODEL, NOW).unwrap();
    eventually("that it is gone", async || {
        scene.offer(MODEL).is_none().then_some(())
    })
    .await;
    scene.store.restore(MODEL).unwrap();
    scene
        .until("that it is back", MODEL, |offer| !offer.edited)
        .await;
    scene.store.remove("mine", NOW).unwrap();
    eventually("that it is gone", async || {
        scene.offer("mine").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_offer_that_is_added_over_a_removed_one_has_its_own_server_and_leaves_none_behind() {
    let other = Backend::start().await;
    let scene = Scene::open(|config| {
        let mut second = config.backends[0].clone();
        second.base_url = other.url();
        second.offers.clear();
        config.backends.push(second);
    })
    .await;
    let id = scene.market.offer_ids().pop().unwrap();
    let gone = || async {
        eventually("that it is gone", async || {
            scene.offer(&id).is_none().then_some(())
        })
        .await;
    };
    scene.store.remove(&id, NOW).unwrap();
    gone().await;
    let whole = OfferEdit {
        model_id: Some(MODEL.to_owned()),
        context_size: Some(10),
        output_token_price: Some(Wei::from_wei(3)),
        ..price(2)
    };
    scene.store.add(&id, &other.url(), whole, NOW).unwrap();
    let added = scene
        .until("the added one", &id, |offer| offer.state == "announced")
        .await;
    assert_eq!((added.origin.as_str(), added.context), ("added", 10));
    assert_eq!(added.backend, other.url());
    let first = scene.market.backend.url();
    scene
        .store
        .edit(&id, OfferEdit::default(), Some(&first), NOW)
        .unwrap();
    scene
        .until("the move", &id, |offer| offer.backend == first)
        .await;
    scene.store.remove(&id, NOW).unwrap();
    gone().await;
    scene.store.restore(&id).unwrap();
    scene
        .until("the configured one", &id, |offer| offer.origin == "config")
        .await;
}

#[tokio::test]
async fn what_was_refused_is_counted_with_why() {
    let scene = Scene::open(|config| {
        for offer in config.backends[0].offers.values_mut() {
            offer.max_concurrency = Some(1);
        }
    })
    .await;
    let id = scene.market.offer_ids().pop().unwrap();
    let bad = json!({"model": MODEL, "messages": "none"});
    assert!(scene.market.create(&bad).await.is_err());
    scene.market.backend.set_behaviour(Behaviour {
        pace: Duration::from_millis(100),
        ..Behaviour::default()
    });
    let _running = scene.market.create(&chat(true)).await.unwrap();
    assert!(scene.market.create(&chat(true)).await.is_err());
    let offer = scene.offer(&id).unwrap();
    let hour = offer.last_hour;
    assert_eq!(
        (hour.requests, hour.taken, hour.full, hour.invalid),
        (3, 1, 1, 1),
        "{hour:?}"
    );
    assert_eq!(offer.invalid_reasons.len(), 1);
    assert_eq!((offer.in_use, offer.slots), (1, 1));
}
