# The driver's image: one binary, the QEMU that its FUSE exports are sound with, and what mounts and
# makes filesystems. Debian 13, because Debian 12's QEMU corrupts FUSE exports.
FROM debian:trixie-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev make rustup \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY rust-toolchain.toml Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY crates crates
# Tests and examples are no part of the image: cargo must not look for them.
RUN cargo build --release --locked --bin strata

FROM debian:trixie-slim
# /etc/selinux/config: without that file mount(8) takes SELinux for disabled, whatever the kernel says. It is not read.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates e2fsprogs glusterfs-client mount qemu-utils util-linux xfsprogs \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /etc/selinux && touch /etc/selinux/config
COPY --from=build /src/target/release/strata /usr/local/bin/strata
# Mounts, loop devices and FUSE need root in the node's containers.
ENTRYPOINT ["/usr/local/bin/strata"]
