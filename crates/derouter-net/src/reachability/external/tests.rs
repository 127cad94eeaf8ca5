use super::*;

const UNIX: UnixSeconds = UnixSeconds(7);

fn public(port: u16) -> Multiaddr {
    format!("/ip4/1.2.3.4/tcp/{port}").parse().unwrap()
}

fn addresses(now: Instant) -> ExternalAddresses {
    ExternalAddresses::new(KnownReachability::Detect, Scope::World, now)
}

fn servers(count: usize) -> Vec<Server> {
    let server = |id| Server {
        peer: PeerId::random(),
        connection: ConnectionId::new_unchecked(id),
        subnet: None,
    };
    (0..count).map(server).collect()
}

fn tests(actions: &[Action]) -> Vec<(Server, Multiaddr)> {
    let test = |action: &Action| match action {
        Action::Test(server, address) => Some((*server, address.clone())),
        _ => None,
    };
    actions.iter().filter_map(test).collect()
}

/// Polls every second, with everybody answering `verdict`, and gives who was asked.
fn run(
    all: &mut ExternalAddresses,
    servers: &[Server],
    start: Instant,
    seconds: u64,
    verdict: &Verdict,
) -> Vec<PeerId> {
    let mut asked = Vec::new();
    for second in 0..seconds {
        let now = start + Duration::from_secs(second);
        for (server, address) in tests(&all.poll(servers, now, 0.5)) {
            asked.push(server.peer);
            all.tested(&address, server.peer, verdict.clone(), (now, UNIX));
        }
    }
    asked
}

fn unreachable() -> Verdict {
    Verdict::Unreachable("refused".to_owned())
}

#[test]
fn a_node_is_public_once_a_peer_dialled_one_of_its_addresses() {
    let now = Instant::now();
    let mut all = addresses(now);
    all.candidate(&public(1), AddressSource::Observed, now);
    assert_eq!(all.reachability(now), Reachability::Unknown);
    let servers = servers(1);
    let asked = tests(&all.poll(&servers, now, 0.0));
    assert_eq!(asked, [(servers[0], public(1))]);
    assert!(
        all.poll(&servers, now, 0.0).is_empty(),
        "it is being tested"
    );
    let told = all.tested(&public(1), servers[0].peer, Verdict::Reachable, (now, UNIX));
    assert_eq!(told, Some(Action::Confirm(public(1))));
    assert_eq!(all.reachability(now), Reachability::Public);
}

#[test]
fn two_peers_that_fail_are_believed_and_one_is_not() {
    let now = Instant::now();
    let mut all = addresses(now);
    all.candidate(&public(1), AddressSource::Observed, now);
    let servers = servers(5);
    let asked = run(&mut all, &servers, now, 2, &unreachable());
    assert_eq!(asked.len(), 1);
    assert_eq!(all.reachability(now), Reachability::Unknown);
    let later = now + SECOND_OPINION;
    let more = run(&mut all, &servers, later, 60, &unreachable());
    assert_eq!(more.len(), 1);
    assert_ne!(asked, more, "another peer");
    assert_eq!(all.reachability(later), Reachability::Private);
}

#[test]
fn the_only_peer_there_is_is_believed_after_a_while() {
    let now = Instant::now();
    let mut all = addresses(now);
    all.candidate(&public(1), AddressSource::Observed, now);
    run(&mut all, &servers(1), now, 30, &unreachable());
    assert_eq!(
        all.reachability(now + Duration::from_secs(30)),
        Reachability::Private
    );
}

#[test]
fn a_confirmed_address_that_stops_working_expires_with_its_next_test() {
    let now = Instant::now();
    let mut all = addresses(now);
    let servers = servers(3);
    all.candidate(&public(1), AddressSource::Observed, now);
    run(&mut all, &servers, now, 5, &Verdict::Reachable);
    assert!(
        run(
            &mut all,
            &servers,
            now + Duration::from_secs(5),
            600,
            &unreachable()
        )
        .is_empty()
    );
    let later = now + RETEST + Duration::from_secs(1);
    run(&mut all, &servers, later, 30, &unreachable());
    assert_eq!(all.reachability(later), Reachability::Private);
    assert!(!all.entries[0].told);
}

#[test]
fn reservations_go_on_the_word_of_two_networks_where_there_are_two() {
    let now = Instant::now();
    let mut all = addresses(now);
    all.candidate(&public(1), AddressSource::Observed, now);
    let mut servers = servers(3);
    for (server, network) in servers.iter_mut().zip([1, 1, 2]) {
        server.subnet = Some(Subnet::V4([1, 1, network]));
    }
    let (one, all_three) = (&servers[..1], &servers[..]);
    run(&mut all, one, now, 1, &Verdict::Reachable);
    assert!(all.is_sure(), "there is nobody else to ask");
    all.poll(all_three, now, 0.5);
    assert!(!all.is_sure() && all.reachability(now) == Reachability::Public);
    all.network_changed(now);
    let two = &servers[..2];
    run(&mut all, two, now, 10, &Verdict::Reachable);
    all.poll(all_three, now, 0.5);
    assert!(!all.is_sure(), "two of one network");
    all.network_changed(now);
    let asked = run(&mut all, all_three, now, 10, &Verdict::Reachable);
    assert_eq!(asked.len(), 2);
    assert!(all.is_sure());
}

#[test]
fn after_a_change_of_network_all_is_tested_again() {
    let now = Instant::now();
    let mut all = addresses(now);
    let servers = servers(2);
    all.candidate(&public(1), AddressSource::Observed, now);
    run(&mut all, &servers, now, 5, &Verdict::Reachable);
    all.network_changed(now);
    assert_eq!(
        run(&mut all, &servers, now, 1, &Verdict::Reachable).len(),
        1
    );
}

#[test]
fn what_the_router_maps_is_told_until_a_test_fails_and_what_is_configured_always() {
    let now = Instant::now();
    let mut all = addresses(now);
    all.candidate(&public(1), AddressSource::Mapped, now);
    all.candidate(&public(2), AddressSource::Configured, now);
    let told = all.poll(&[], now, 0.0);
    assert_eq!(
        told,
        [Action::Confirm(public(1)), Action::Confirm(public(2))]
    );
    run(&mut all, &servers(3), now, 30, &unreachable());
    let told: Vec<_> = all.entries.iter().map(|entry| entry.told).collect();
    assert_eq!(told, [false, true]);
    let reachable: Vec<_> = all.view().into_iter().map(|one| one.reachable).collect();
    assert_eq!(reachable, [Some(false); 2]);
    assert_eq!(
        all.withdraw(&public(2), AddressSource::Configured),
        Some(Action::Expire(public(2)))
    );
}

#[test]
fn relayed_and_local_addresses_never_make_a_node_public() {
    let now = Instant::now();
    let mut all = addresses(now);
    let relayed = public(1).with(libp2p::multiaddr::Protocol::P2pCircuit);
    all.candidate(&relayed, AddressSource::Observed, now);
    all.candidate(
        &"/ip4/10.0.0.1/tcp/1".parse().unwrap(),
        AddressSource::Interface,
        now,
    );
    assert!(all.view().is_empty());
    run(&mut all, &servers(1), now, 30, &Verdict::Reachable);
    assert_eq!(
        all.reachability(now + Duration::from_secs(30)),
        Reachability::Private
    );
}

#[test]
fn addresses_are_bounded_and_those_that_work_stay() {
    let now = Instant::now();
    let mut all = addresses(now);
    all.candidate(&public(1), AddressSource::Observed, now);
    run(&mut all, &servers(1), now, 1, &Verdict::Reachable);
    for port in 2..1000 {
        all.candidate(&public(port), AddressSource::Observed, now);
    }
    assert_eq!(all.entries.len(), limits::EXTERNAL_ADDRESSES);
    assert_eq!(all.reachability(now), Reachability::Public);
}

#[test]
fn a_peer_that_sees_ever_new_addresses_has_few_of_them_tested() {
    let now = Instant::now();
    let mut all = addresses(now);
    let servers = servers(4);
    let mut asked = 0;
    for second in 0..600 {
        let now = now + Duration::from_secs(second);
        let port = u16::try_from(1000 + second).unwrap();
        all.observed(IpAddr::from([8, 8, 8, 8]), &public(port), now);
        assert!(all.entries.len() <= 1);
        for (server, address) in tests(&all.poll(&servers, now, 0.5)) {
            asked += 1;
            all.tested(&address, server.peer, unreachable(), (now, UNIX));
        }
    }
    assert!((8..=20).contains(&asked), "{asked}");
    let later = now + Duration::from_secs(600);
    all.candidate(&public(1), AddressSource::Interface, later);
    run(&mut all, &servers, later, 10, &Verdict::Reachable);
    assert_eq!(all.reachability(later), Reachability::Public);
}

#[test]
fn what_two_networks_see_is_tested_at_once_also_at_the_port_that_is_listened_on() {
    let now = Instant::now();
    let mut all = addresses(now);
    while all.doubtful.try_take(DOUBTFUL, 1, now) {}
    let servers = servers(4);
    let observer = |network| IpAddr::from([8, 8, network, 8]);
    all.translated(&public(9), now);
    assert!(all.entries.is_empty(), "nobody sees this node there");
    all.observed(observer(1), &public(1), now);
    all.translated(&public(9), now);
    assert_eq!(tests(&all.poll(&servers, now, 0.5)), []);
    all.observed(observer(2), &public(2), now);
    let tested = tests(&all.poll(&servers, now, 0.5));
    assert_eq!(tested.len(), 1);
    assert_eq!(tested[0].1, public(9), "both see its IP address");
    all.observed(observer(2), &public(1), now);
    let tested = tests(&all.poll(&servers, now, 0.5));
    assert_eq!(tested[0].1, public(1), "both see it");
}

#[test]
fn a_test_that_never_ends_is_made_again_elsewhere() {
    let now = Instant::now();
    let mut all = addresses(now);
    let servers = servers(2);
    all.candidate(&public(1), AddressSource::Observed, now);
    let first = tests(&all.poll(&servers, now, 0.0));
    let later = now + limits::PROBE_DEADLINE * 3;
    let second = tests(&all.poll(&servers, later, 0.0));
    assert_ne!(first[0].0, second[0].0);
    let stale = all.tested(
        &public(1),
        first[0].0.peer,
        Verdict::Reachable,
        (later, UNIX),
    );
    assert_eq!(stale, None);
}
