# Shared by the scripts of this folder: sourced, never run.
# shellcheck shell=bash

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# The project's own cache: a sound QEMU, and cargo's target folder in CI.
strata_cache() { printf '%s/strata' "${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}"; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: run it as root, or install sudo"
    fi
}
