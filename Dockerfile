# incident-sync without the simulator and without a shell. It needs a Postgres elsewhere; see docs/setup/containers.md.
FROM rust:1.95-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /incident-sync
COPY . .
# The image holds the binary, its libraries and the certificate authorities, and nothing else.
RUN cargo build --locked --profile dist --no-default-features \
    && install -D target/dist/incident-sync /image/usr/bin/incident-sync \
    && ldd target/dist/incident-sync | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory /image \
    && cp --parents --dereference /etc/ssl/certs/ca-certificates.crt /image

FROM scratch
COPY --from=build /image /
# Secrets are mounted here and found by their bare names.
ENV CREDENTIALS_DIRECTORY=/run/secrets
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["/usr/bin/incident-sync", "health"]
ENTRYPOINT ["/usr/bin/incident-sync"]
CMD ["run"]
