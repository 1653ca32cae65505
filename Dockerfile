# The driver's image: one program, the QEMU that its FUSE exports are sound with, GlusterFS's client, and what mounts
# and makes filesystems. Of Debian 13, because Debian 12's QEMU corrupts FUSE exports. docs/image.md tells more;
# `make image` builds it.
ARG BASE=debian:trixie-slim
# Where the program comes from: `compiled` here, or `prebuilt` beside this file.
ARG BINARY=compiled
# Where all else comes from: the stage, or an image that was built from it.
ARG PACKAGES=packages

FROM ${BASE} AS compiled
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils ca-certificates gcc libc6-dev make rustup
WORKDIR /src
COPY rust-toolchain.toml Cargo.toml Cargo.lock build.rs ./
COPY image image
COPY proto proto
COPY fuzz fuzz
COPY src src
COPY crates crates
# The secret is a file of authorities, for networks that have their own.
RUN --mount=type=secret,id=ca,target=/run/ca.crt if [ -s /run/ca.crt ]; then \
        export SSL_CERT_FILE=/run/ca.crt CARGO_HTTP_CAINFO=/run/ca.crt; \
    fi \
    && rustup toolchain install --profile minimal "$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)" \
    && cargo build --release --locked --bin strata \
    && mkdir /built \
    && strip -o /built/strata target/release/strata \
    && image/crates >/built/crates

FROM scratch AS prebuilt
COPY prebuilt/ /built/

FROM ${BINARY} AS binary

FROM ${BASE} AS installed
# Another value, such as the day, has the packages fetched anew where the builder would take those of its cache.
ARG PACKAGES_OF
RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get update \
    && apt-get upgrade -y \
    && apt-get install -y --no-install-recommends attr ca-certificates e2fsprogs \
        glusterfs-client mawk mount netbase qemu-utils tini util-linux xfsprogs
COPY image/assemble /image/assemble
RUN /image/assemble /root-of-image

FROM scratch AS packages
COPY --from=installed /root-of-image /
COPY LICENSE /usr/share/doc/strata/copyright

# In the image's own root: a program that does not start there fails the build.
FROM ${PACKAGES} AS described
COPY image/sbom /image/sbom
COPY --from=binary /built /built
ARG VERSION=unknown
RUN mkdir -p /program/usr/local/bin /program/usr/share/sbom \
    && install -m 0755 /built/strata /program/usr/local/bin/strata \
    && /program/usr/local/bin/strata --version \
    && /image/sbom "${VERSION}" /built/crates >/program/usr/share/sbom/strata.cdx.json

FROM ${PACKAGES}
COPY --from=described /program /
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Strata" \
    org.opencontainers.image.description="A Kubernetes CSI driver for disk images on GlusterFS" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    dev.strata.sbom="/usr/share/sbom/strata.cdx.json"
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin
# Commands that only speak to a repository need no rights. Roles that mount are told to be root by the chart.
USER 65532:65532
# It passes signals on, and takes care of the children that GlusterFS's mounts leave to process 1.
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/usr/local/bin/strata"]
