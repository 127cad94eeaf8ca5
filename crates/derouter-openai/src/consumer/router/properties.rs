//! What holds for every ranking, and what single ones look like.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::consumer::config::PriceCap;
use crate::consumer::quality::Estimate;
use crate::terms::{Prices, Rate};

fn terms(input: Rate, output: Rate, context: u64) -> Terms {
    Terms {
        trial: None,
        models: vec!["m".into(), "alias".into()],
        endpoints: vec![Endpoint::Chat],
        context,
        max_output: None,
        input_modalities: vec!["text".into()],
        output_modalities: vec!["text".into()],
        features: None,
        quantization: None,
        prices: Prices {
            input,
            output,
            ..Prices::default()
        },
        max_concurrency: None,
        load: None,
        region: None,
        terms_url: None,
        description: None,
    }
}

fn of_terms(terms: Terms) -> Candidate {
    Candidate {
        provider: PeerId::random(),
        offer: OfferId::new("o").unwrap(),
        terms: Arc::new(terms),
        quality: Observed::default(),
        path: Path::Unknown,
    }
}

fn million(wei: u128) -> Rate {
    Rate::PerMillion(Wei::from_wei(wei))
}

fn priced(input: u128, output: u128) -> Candidate {
    of_terms(terms(million(input), million(output), 100_000))
}

fn measured(candidate: Candidate, first_token: f64, speed: f64) -> Candidate {
    let estimate = |value| Some(Estimate { value, weight: 5.0 });
    let quality = Observed {
        first_token: estimate(first_token),
        speed: estimate(speed),
        tried: 5.0,
        ..candidate.quality
    };
    Candidate {
        quality,
        ..candidate
    }
}

fn rules() -> Rules {
    Rules {
        cap: PriceCap {
            input: Wei::MAX,
            output: Wei::MAX,
        },
        most_for_one: Wei::MAX,
        min_context_size: None,
        allow_providers: BTreeSet::new(),
        deny_providers: BTreeSet::new(),
        sort: None,
        tuning: Tuning::default(),
    }
}

/// Nothing is left to chance but the order of equals.
fn certain(rules: Rules) -> Rules {
    let tuning = Tuning {
        near: -1.0,
        explore: 0.0,
        ..rules.tuning
    };
    Rules { tuning, ..rules }
}

fn wanted(rules: Rules) -> Wanted {
    Wanted {
        model: "m".into(),
        endpoint: Endpoint::Chat,
        needs: Needs::default(),
        least_prompt_tokens: 10,
        typical: Metered {
            input: 1_000,
            output: 1_000,
            ..Metered::default()
        },
        rules: Arc::new(rules),
        preferences: Preferences::default(),
    }
}

fn ranked(candidates: &[Candidate], wanted: &Wanted, seed: u64) -> Ranked {
    rank(candidates, wanted, &mut StdRng::seed_from_u64(seed))
}

fn order(candidates: &[Candidate], wanted: &Wanted) -> Vec<usize> {
    ranked(candidates, wanted, 1).order
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let wei = prop_oneof![
        Just(Wei::ZERO),
        Just(Wei::MAX),
        any::<u128>().prop_map(Wei::from_wei),
        (0..10_u128.pow(18)).prop_map(Wei::from_wei),
        (any::<u128>(), any::<u64>())
            .prop_map(|(wei, times)| Wei::from_wei(wei).checked_mul(times).unwrap_or(Wei::MAX)),
    ];
    (wei, any::<bool>()).prop_map(|(wei, each)| match each {
        true => Rate::Each(wei),
        false => Rate::PerMillion(wei),
    })
}

prop_compose! {
    fn any_estimate()(value in prop_oneof![any::<f64>(), 0.01..100.0_f64], weight in 0.0..10.0_f64) -> Estimate {
        Estimate { value, weight }
    }
}

prop_compose! {
    fn any_observed()(
        first_token in proptest::option::of(any_estimate()),
        speed in proptest::option::of(any_estimate()),
        success in 0.0..=1.0_f64,
        tried in 0.0..10.0_f64,
        uptime in 0.0..=1.0_f64,
        cooling in any::<bool>(),
        in_flight in 0..100_u32,
    ) -> Observed {
        Observed { first_token, speed, success, tried, uptime, cooling, in_flight }
    }
}

prop_compose! {
    fn any_candidate()(
        rates in [any_rate(), any_rate(), any_rate(), any_rate()],
        cached in proptest::option::of(any_rate()),
        context in prop_oneof![0..100_u64, any::<u64>()],
        limits in (proptest::option::of(any::<u32>()), proptest::option::of(any::<u8>())),
        quality in any_observed(),
        path in prop_oneof![Just(Path::Own), Just(Path::Direct), Just(Path::Relayed), Just(Path::Barred)],
    ) -> Candidate {
        let [input, output, request, image] = rates;
        let mut terms = terms(input, output, context);
        terms.prices = Prices { request, image, cached_input: cached, ..terms.prices };
        (terms.max_concurrency, terms.load) = limits;
        Candidate { quality, path, ..of_terms(terms) }
    }
}

prop_compose! {
    fn any_wanted()(
        cap in any_rate(),
        most in proptest::option::of(any_rate()),
        input in any::<u64>(),
        output in prop_oneof![0..5000_u64, any::<u64>()],
        tuning in (0.0..1.0_f64, 0.0..1.0_f64, 0.0..100.0_f64),
        sort in prop_oneof![Just(None), Just(Some(Sort::Price)), Just(Some(Sort::Latency)), Just(Some(Sort::Throughput))],
        allow_fallbacks in any::<bool>(),
    ) -> Wanted {
        let mut rules = rules();
        rules.cap.input = cap.of_million();
        rules.tuning = Tuning { near: tuning.0, explore: tuning.1, ..rules.tuning };
        rules.tuning.weights.price = tuning.2;
        let mut wanted = wanted(rules);
        wanted.typical = Metered { input, output, ..Metered::default() };
        wanted.preferences.max_price.completion = most.map(Rate::of_million);
        wanted.preferences.sort = sort;
        wanted.preferences.allow_fallbacks = allow_fallbacks;
        wanted
    }
}

proptest! {
    #[test]
    fn every_offer_is_ranked_once_or_excluded_once(
        candidates in proptest::collection::vec(any_candidate(), 0..12),
        wanted in any_wanted(),
        seed in any::<u64>(),
    ) {
        let ranked = ranked(&candidates, &wanted, seed);
        let mut all: Vec<usize> = ranked.order.clone();
        all.extend(ranked.excluded.iter().map(|(index, _)| *index));
        all.sort_unstable();
        prop_assert_eq!(all, (0..candidates.len()).collect::<Vec<_>>());
        prop_assert_eq!(ranked.order.len(), ranked.why.len());
        for why in &ranked.why {
            prop_assert!(why.score.is_finite() && why.score >= 0.0, "{:?}", why);
            for (name, part) in why.parts.named(&Weights::default()) {
                prop_assert!(part.is_finite() && part >= 0.0, "{} {}", name, part);
            }
        }
    }

    #[test]
    fn no_price_over_a_cap_is_ever_ranked(
        candidates in proptest::collection::vec(any_candidate(), 0..12),
        wanted in any_wanted(),
        seed in any::<u64>(),
    ) {
        let most = wanted.preferences.max_price.completion.unwrap_or(Wei::MAX);
        for index in ranked(&candidates, &wanted, seed).order {
            let prices = &candidates[index].terms.prices;
            prop_assert!(prices.output.of_million() <= most);
            prop_assert!(prices.input.of_million() <= wanted.rules.cap.input);
            let cached = prices.cached_input.unwrap_or_default();
            prop_assert!(cached.of_million() <= wanted.rules.cap.input);
        }
    }

    #[test]
    fn a_cooldown_reorders_and_removes_nobody(
        candidates in proptest::collection::vec(any_candidate(), 1..12),
        wanted in any_wanted(),
        seed in any::<u64>(),
    ) {
        let mut wanted = wanted;
        wanted.preferences.allow_fallbacks = true;
        let ranked_now = ranked(&candidates, &wanted, seed);
        let mut cool = candidates.clone();
        cool.iter_mut().for_each(|it| it.quality.cooling = true);
        prop_assert_eq!(ranked(&cool, &wanted, seed).order.len(), ranked_now.order.len());
        let cooling = ranked_now.why.iter().map(|why| why.cooling);
        prop_assert!(cooling.is_sorted(), "those that cool come last");
    }

    #[test]
    fn what_is_cheaper_and_faster_never_comes_behind(
        price in 0..10_u128.pow(18),
        dearer in 1..10_u128.pow(18),
        first_token in 0.02..10.0_f64,
        speed in 1.0..500.0_f64,
        worse in (1.01..10.0_f64, 1.01..10.0_f64),
        others in proptest::collection::vec((0..10_u128.pow(18), 0.02..10.0_f64, 1.0..500.0_f64), 0..6),
        seed in any::<u64>(),
    ) {
        let good = measured(priced(price, price), first_token, speed);
        let bad = measured(priced(price + dearer, price + dearer), first_token * worse.0, speed / worse.1);
        let mut candidates = vec![bad, good];
        candidates.extend(others.into_iter().map(|(price, first, speed)| measured(priced(price, price), first, speed)));
        let mut rules = certain(rules());
        rules.tuning.weights = Weights { price: 1.0, latency: 1.0, throughput: 1.0, ..Weights::default() };
        let order = ranked(&candidates, &wanted(rules), seed).order;
        let place = |index: usize| order.iter().position(|it| *it == index);
        prop_assert!(place(1) < place(0), "{:?}", order);
    }

    #[test]
    fn only_ignore_and_order_are_respected(
        candidates in proptest::collection::vec(any_candidate(), 1..10),
        picks in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 10),
        wanted in any_wanted(),
        allow_fallbacks in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let pick = |which: fn(&(bool, bool, bool)) -> bool| -> Vec<ProviderName> {
            let both = candidates.iter().zip(&picks);
            both.filter(|(_, picks)| which(picks)).map(|(it, _)| ProviderName::Peer(it.provider)).collect()
        };
        let mut wanted = wanted;
        let preferences = &mut wanted.preferences;
        preferences.only = Some(pick(|it| it.0));
        preferences.ignore = pick(|it| it.1);
        preferences.order = pick(|it| it.2);
        preferences.allow_fallbacks = allow_fallbacks;
        let preferences = wanted.preferences.clone();
        let ranked = ranked(&candidates, &wanted, seed);
        let named = |list: &[ProviderName], index: usize| list.iter().any(|it| it.means(&candidates[index].provider));
        for index in &ranked.order {
            prop_assert!(named(preferences.only.as_ref().unwrap(), *index));
            prop_assert!(!named(&preferences.ignore, *index));
            if !allow_fallbacks && !preferences.order.is_empty() {
                prop_assert!(named(&preferences.order, *index));
            }
        }
        let places = ranked.order.iter().map(|it| preferences.place(&candidates[*it].provider));
        let places: Vec<usize> = places.map(|it| it.unwrap_or(usize::MAX)).collect();
        prop_assert!(places.is_sorted(), "{:?}", places);
    }
}

#[test]
fn the_cheapest_for_this_request_comes_first() {
    let candidates = [
        priced(10_u128.pow(16), 9 * 10_u128.pow(16)),
        priced(9 * 10_u128.pow(16), 10_u128.pow(16)),
    ];
    let mut long_prompt = wanted(certain(rules()));
    long_prompt.typical.input = 25_000;
    long_prompt.typical.output = 10;
    assert_eq!(order(&candidates, &long_prompt), [0, 1]);
    let mut long_answer = long_prompt;
    long_answer.typical.input = 2;
    long_answer.typical.output = 2_000;
    assert_eq!(order(&candidates, &long_answer), [1, 0]);
}

#[test]
fn equals_share_the_requests_and_who_has_more_to_do_gets_fewer() {
    let mut candidates = vec![priced(1_000_000, 1_000_000); 4];
    let wanted = wanted(rules());
    let firsts = |candidates: &[Candidate]| {
        let mut firsts = [0; 4];
        for seed in 0..400 {
            firsts[ranked(candidates, &wanted, seed).order[0]] += 1;
        }
        firsts
    };
    let even = firsts(&candidates);
    assert!(even.iter().all(|count| *count > 50), "{even:?}");
    candidates[2].quality.in_flight = 2;
    let crowded = firsts(&candidates);
    assert!(crowded[2] < 10, "{crowded:?}");
}

#[test]
fn who_lists_many_offers_is_drawn_no_more_often() {
    let alone = priced(1_000_000, 1_000_000);
    let many = priced(1_000_000, 1_000_000);
    let mut candidates = vec![many; 30];
    candidates.push(alone);
    let firsts = (0..200).map(|seed| ranked(&candidates, &wanted(rules()), seed).order[0]);
    let alone = firsts.filter(|place| *place == 30).count();
    assert!((60..140).contains(&alone), "{alone}");
}

#[test]
fn a_newcomer_is_tried_now_and_then_if_it_is_not_too_dear() {
    let known = measured(priced(1_000_000, 1_000_000), 0.3, 100.0);
    let newcomer = priced(1_500_000, 1_500_000);
    let dear = priced(3_000_000, 3_000_000);
    let candidates = [known, newcomer, dear];
    let mut firsts = [0; 3];
    for seed in 0..1000 {
        let ranked = ranked(&candidates, &wanted(rules()), seed);
        firsts[ranked.order[0]] += 1;
        assert_eq!(ranked.why[0].explored, ranked.order[0] == 1);
    }
    assert!((20..100).contains(&firsts[1]), "{firsts:?}");
    assert_eq!(firsts[2], 0);
    let all_new = [priced(1_000_000, 1_000_000), priced(1_500_000, 1_500_000)];
    assert!((0..200).all(|seed| ranked(&all_new, &wanted(rules()), seed).order[0] == 0));
}

#[test]
fn who_fails_or_is_away_or_slow_comes_behind_at_the_same_price() {
    let good = || measured(priced(1_000_000, 1_000_000), 0.5, 50.0);
    let mut flaky = good();
    flaky.quality.success = 0.6;
    let mut away = good();
    away.quality.uptime = 0.5;
    let mut relayed = good();
    relayed.path = Path::Relayed;
    let mut full = good();
    full.quality.in_flight = 8;
    for worse in [
        flaky,
        away,
        relayed,
        full,
        measured(good(), 3.0, 50.0),
        measured(good(), 0.5, 10.0),
    ] {
        assert_eq!(order(&[worse, good()], &wanted(certain(rules()))), [1, 0]);
    }
}

#[test]
fn a_free_offer_that_hardly_ever_works_does_not_go_first() {
    let mut free = priced(0, 0);
    free.quality.success = 0.02;
    free.quality.tried = 10.0;
    let paid = measured(priced(10_u128.pow(15), 10_u128.pow(15)), 0.5, 50.0);
    assert_eq!(order(&[free, paid], &wanted(certain(rules()))), [1, 0]);
}

#[test]
fn without_fallbacks_the_first_is_the_only_one() {
    let mut wanted = wanted(certain(rules()));
    wanted.preferences.allow_fallbacks = false;
    let candidates = [priced(2_000_000, 2), priced(1_000_000, 1)];
    let ranked = ranked(&candidates, &wanted, 1);
    assert_eq!(ranked.order, [1]);
    assert_eq!(ranked.excluded, [(0, Exclusion::Fallback)]);
}

#[test]
fn an_alias_is_the_model_and_another_name_is_not() {
    let mut wanted = wanted(rules());
    wanted.model = "alias".into();
    assert_eq!(order(&[priced(1, 1)], &wanted), [0]);
    wanted.model = "other".into();
    assert_eq!(
        ranked(&[priced(1, 1)], &wanted, 1).excluded,
        [(0, Exclusion::Model)]
    );
}

#[test]
fn an_offer_that_does_not_say_what_it_can_is_not_held_to_it() {
    let mut wanted = wanted(rules());
    wanted.needs.features = vec!["tools"];
    let with = |features: Option<&[&str]>| {
        let mut terms = terms(million(1), million(1), 100);
        terms.features = features.map(|list| list.iter().map(|it| (*it).to_owned()).collect());
        of_terms(terms)
    };
    let candidates = [
        with(None),
        with(Some(&["json_schema"])),
        with(Some(&["tools"])),
    ];
    let excluded = ranked(&candidates, &wanted, 1).excluded;
    assert_eq!(excluded, [(1, Exclusion::Feature("tools".into()))]);
    wanted.needs = Needs {
        modalities: vec!["image"],
        ..Needs::default()
    };
    let excluded = ranked(&candidates[..1], &wanted, 1).excluded;
    assert_eq!(excluded, [(0, Exclusion::Modality("image".into()))]);
}

#[test]
fn each_rule_excludes_and_is_named() {
    let refused = |candidate: Candidate, wanted: &Wanted| {
        let candidates = [candidate];
        let ranked = ranked(&candidates, wanted, 1);
        assert_eq!(ranked.order, [0; 0]);
        explain(&candidates, &ranked.excluded, wanted)
    };
    let offer = || of_terms(terms(million(1_000), million(2_000), 8192));
    let with = |change: fn(&mut Rules)| {
        let mut rules = rules();
        change(&mut rules);
        wanted(rules)
    };
    let error = refused(offer(), &with(|it| it.cap.input = Wei::from_wei(999)));
    assert_eq!(
        (error.status.as_u16(), error.code),
        (402, Some("price_limit_exceeded"))
    );
    assert!(error.message.contains("maxInputPrice"), "{}", error.message);
    let error = refused(offer(), &with(|it| it.cap.output = Wei::from_wei(1_999)));
    assert!(
        error.message.contains("maxOutputPrice"),
        "{}",
        error.message
    );
    let error = refused(offer(), &with(|it| it.min_context_size = Some(8193)));
    assert_eq!(error.code, Some("model_not_found"));
    assert!(error.message.contains("minContextSize asks for 8193"));
    let mut dear = terms(million(1), million(1), 8192);
    dear.prices.request = Rate::Each(Wei::from_wei(11));
    let error = refused(
        of_terms(dear),
        &with(|it| it.most_for_one = Wei::from_wei(10)),
    );
    assert_eq!(error.code, Some("price_limit_exceeded"));
    let error = refused(
        offer(),
        &with(|it| {
            it.allow_providers.insert(PeerId::random());
        }),
    );
    assert!(
        error.message.contains("allow_providers"),
        "{}",
        error.message
    );
    let denied = offer();
    let mut denying = rules();
    denying.deny_providers.insert(denied.provider);
    assert!(
        refused(denied, &wanted(denying))
            .message
            .contains("deny_providers")
    );
    let mut long = with(|_| {});
    long.least_prompt_tokens = 8193;
    assert_eq!(
        refused(offer(), &long).code,
        Some("context_length_exceeded")
    );
    let mut barred = offer();
    barred.path = Path::Barred;
    assert_eq!(refused(barred, &with(|_| {})).code, Some("no_provider"));
    let mut own = with(|_| {});
    own.preferences.quantizations = Some(vec!["fp8".into()]);
    assert!(refused(offer(), &own).message.contains("quantizations"));
    let mut picky = with(|_| {});
    picky.preferences.min_throughput = Some(100.0);
    assert_eq!(refused(measured(offer(), 1.0, 20.0), &picky).status, 503);
    assert_eq!(order(&[offer()], &picky), [0], "nobody has measured it");
    picky.endpoint = Endpoint::Embeddings;
    assert_eq!(refused(offer(), &picky).status, 400);
}

#[test]
fn the_closest_offer_decides_what_is_told_and_the_others_are_counted() {
    let mut rules = rules();
    rules.cap.input = Wei::from_wei(10);
    let mut wanted = wanted(rules);
    wanted.least_prompt_tokens = 50;
    let candidates = [
        of_terms(terms(million(11), million(1), 100)),
        of_terms(terms(million(12), million(1), 100)),
        of_terms(terms(million(1), million(1), 40)),
    ];
    let excluded = ranked(&candidates, &wanted, 1).excluded;
    let error = explain(&candidates, &excluded, &wanted);
    assert_eq!(error.code, Some("context_length_exceeded"));
    assert!(
        error.message.contains("2 by input_price"),
        "{}",
        error.message
    );
}
