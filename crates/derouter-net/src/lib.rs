//! Peers: the libp2p swarm behind one actor.
