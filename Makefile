# What people and CI run. Everything here can be run again at any time.
SHELL := /bin/bash
# rustup puts cargo there, and a shell that was open before does not know.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help packages image demo test test-stores e2e soak fuzz sanity bench-volume bench-backup manifests fmt lint clean-cache

help: ## Lists the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

packages: ## Installs what is missing (apt) and brings a sound QEMU
	scripts/ensure-packages
	scripts/ensure-qemu >/dev/null

demo: packages ## The whole job on real parts: GlusterFS, snapshots, backup, restore
	scripts/run-demo

test: packages $(if $(CI),lint) ## Builds and runs every test; T="name …" for some test programs
	scripts/run-tests $(T)

test-stores: packages ## The tests of stores, over moto and Ceph RGW too; ENDPOINT=URL and AWS_* for a server that you have
	scripts/run-store-tests $(ENDPOINT)

e2e: packages ## Helm install to removal with the real sidecars: E2E_SIDECARS=dir, or E2E_CLUSTER=real and KUBECONFIG (docs/e2e.md)
	scripts/run-e2e

sanity: packages ## csi-sanity against a real driver: make sanity CSI_SANITY=/path/to/csi-sanity
	CSI_SANITY="$(CSI_SANITY)" scripts/run-sanity

image: packages ## The container image, with docker, podman or buildah: make image IMAGE=registry.example/strata (docs/image.md)
	scripts/build-image

fuzz: packages ## Made-up input for what reads other people's bytes: TIME=60 seconds each; TARGETS="manifest …" for some
	scripts/run-fuzz $(or $(TIME),60) $(TARGETS)

soak: packages ## Random histories against a model, HOURS=1 or more
	scripts/run-soak

bench-volume: packages ## What volumes cost: pauses, latency, fio ratios, depth; PART="pause …" for some, OUT=file
	scripts/run-bench-volume $(PART)

bench-backup: packages ## What backups cost, beside Cinder, restic and borg; PART="full …" for some, OUT=file
	scripts/run-bench-backup $(PART)

manifests: packages ## Renders manifests/ from the chart
	scripts/render-manifests manifests/strata.yaml

fmt: ## Formats the code
	cargo fmt --all

lint: ## Formatting, clippy and shellcheck, warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features crash-points -- -D warnings
	shellcheck -x scripts/* image/* tests/e2e/hosts/container.sh .ci/run

clean-cache: ## Removes the downloaded QEMU and CI's build cache
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/strata"
