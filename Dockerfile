# A derouter image. It runs a relay unless told otherwise:
#   docker run -p 4001:4001/tcp -p 4001:4001/udp -v derouter:/data IMAGE \
#     relay --key-file /data/relay-keypair.bin --external-address /ip4/203.0.113.5/tcp/4001
# The health check asks the relay at DEROUTER_RELAY_HTTP (default 127.0.0.1:9090), which also sets --http;
# with --http or a configuration that says otherwise, set it too. That of a node is its dashboard's
# /healthz, which it does not ask: run a node with `docker run --no-healthcheck`.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package derouter --bin derouter

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin derouter \
    && install --directory --owner derouter --mode 0700 /data
COPY --from=build /src/target/release/derouter /usr/local/bin/derouter
USER derouter
WORKDIR /data
VOLUME /data
EXPOSE 4001/tcp 4001/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s \
    CMD ["derouter", "relay", "--health"]
ENTRYPOINT ["derouter"]
CMD ["relay", "--key-file", "/data/relay-keypair.bin"]
