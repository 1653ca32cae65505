# Packages of another Debian release, unpacked into folders of ours: sourced after lib.sh, never run.
# shellcheck shell=bash

# The mirror that the machine's administrator chose: from its own apt sources, unless told.
debian_mirror() {
    local codename
    if [ -n "${STRATA_DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "$STRATA_DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC1091
    if [ "$(. /etc/os-release && echo "$ID")" = debian ]; then
        codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        # shellcheck disable=SC2016  # apt's own placeholders
        apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' |
            awk -v suite="$codename" '$2 == suite { print $1; exit }'
    fi
}

# URI and suffix of a release's updates and security updates (http://… -security), as the machine's own apt has them.
debian_updates() {
    # shellcheck disable=SC2016  # apt's own placeholders
    [ -n "${STRATA_DEBIAN_MIRROR:-}" ] || apt-get indextargets --format '$(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' 'Component: main' | sed -n 's/^\([^ ]*\) [a-z]*\(-security\|-updates\)$/\1 \2/p' | sort -u
}

# What fetches without apt goes where apt goes.
use_apt_proxy() {
    local proxy=
    [ -n "${http_proxy:-}" ] || ! command -v apt-config >/dev/null || eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || export http_proxy=$proxy
}

debian_keyring() {
    local file
    for file in "${STRATA_DEBIAN_KEYRING:-}" "/usr/share/keyrings/debian-archive-keyring.gpg"; do
        if [ -n "$file" ] && [ -r "$file" ]; then
            printf '%s\n' "$file"
            return
        fi
    done
}

# private_apt FOLDER ARGUMENT…: apt with all of its state in FOLDER and no package taken for installed.
private_apt() {
    local folder=$1
    shift
    apt-get -q -o Dir::State="$folder/state" -o Dir::State::status="$folder/status" \
        -o Dir::Cache="$folder/cache" -o Dir::Etc::SourceList="$folder/sources.list" \
        -o Dir::Etc::SourceParts=- -o Dir::Etc::Preferences=- -o Dir::Etc::PreferencesParts=- \
        -o APT::Sandbox::User="$(id -un)" -o APT::Update::Error-Mode=any -o APT::Install-Recommends=false \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o Debug::NoLocking=true "$@"
}

# Sets `mirror` and `keys`, or ends.
debian_origin() {
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "no Debian mirror among this machine's apt sources (run apt-get update," \
        "or set STRATA_DEBIAN_MIRROR to one)"
    keys=$(debian_keyring)
    [ -n "$keys" ] || die "no keys of the Debian archive: install debian-archive-keyring"
}

# prepare_apt FOLDER SUITE TYPE…: private_apt in FOLDER is to read these types (deb, deb-src) of a release.
prepare_apt() {
    local folder=$1 suite=$2 mirror keys type
    shift 2
    debian_origin
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial}
    : >"$folder/status"
    for type in "$@"; do
        echo "$type [signed-by=$keys] $mirror $suite main"
    done >"$folder/sources.list"
}

# download_packages FOLDER SUITE NAME…: the packages, with all that they depend on, in FOLDER/cache/archives;
# signatures are verified, nothing of the machine's own package state is touched.
download_packages() {
    local folder=$1 suite=$2
    shift 2
    prepare_apt "$folder" "$suite" deb
    if ! { private_apt "$folder" update && private_apt "$folder" install -y --download-only "$@"; } >"$folder/log" 2>&1; then
        tail -n 20 "$folder/log" >&2
        die "apt could not download Debian $suite's $* (an old keyring? update debian-archive-keyring)"
    fi
}

# unpack_packages FOLDER ROOT: what download_packages brought, without running any package's scripts.
unpack_packages() {
    local deb
    mkdir -p "$2"
    for deb in "$1"/cache/archives/*.deb; do
        dpkg -x "$deb" "$2"
    done
}
