#!/usr/bin/env bash
# container.sh HOST ROOT MOUNTS RIGHTS CMD…: a container without an image. To be run in mount, name and process namespaces
# of its own, as their first process: takes the name HOST, makes a root folder at ROOT from this machine's programs and
# from what the pod mounts, gives up the rights that the pod does not have, and becomes CMD.
#
# MOUNTS is a file with a line for each mount: FROM, AT, propagation (as Kubernetes calls it) and ro or rw, with tabs
# between. RIGHTS: privileged, or a list of capabilities; then a slash, and ro if the root folder is read-only.
set -euo pipefail

host=$1 root=$2 mounts=$3 rights=$4
shift 4

# What an image would bring.
programs() {
    local name
    for name in /bin /sbin /lib /lib32 /lib64 /libx32 /usr; do
        if [ -L "$name" ]; then
            cp -P "$name" "$root$name"
        elif [ -d "$name" ]; then
            mkdir "$root$name"
            mount --bind "$name" "$root$name"
        fi
    done
    mkdir -p "$root"/{etc,dev,proc,sys,run,root,mnt,opt} "$root"/var/{lib/glusterd,log/glusterfs,tmp}
    mkdir -m 1777 "$root/tmp"
    ln -s ../run "$root/var/run"
    for name in passwd group hosts hostname resolv.conf nsswitch.conf ld.so.cache services protocols mke2fs.conf \
        fuse.conf ssl alternatives glusterfs; do
        if [ -e "/etc/$name" ]; then cp -a "/etc/$name" "$root/etc/"; fi
    done
}

# What a container runtime brings.
kernel() {
    local name
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --make-rslave "$root/sys"
    mount -t tmpfs -o mode=0755 dev "$root/dev"
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    ln -s /proc/self/fd "$root/dev/fd"
}

# As container runtimes do it: the whole tree below, and then who sees what is mounted there later.
mount_one() {
    local from=$1 at=$root$2 propagation=$3 mode=$4
    if [ -d "$from" ]; then mkdir -p "$at"; else
        mkdir -p "${at%/*}"
        touch "$at"
    fi
    mount --rbind "$from" "$at"
    case "$propagation" in
        # The folder is shared already, and so is what is bound to it.
        Bidirectional) ;;
        HostToContainer) mount --make-rslave "$at" ;;
        *) mount --make-rprivate "$at" ;;
    esac
    if [ "$mode" = ro ]; then mount -o remount,bind,ro "$at"; fi
}

# Who shares a name takes another's Lease for its own.
echo "$host" >/proc/sys/kernel/hostname
mount -t tmpfs -o mode=0755 container "$root"
programs
kernel
while IFS=$'\t' read -r from at propagation mode; do mount_one "$from" "$at" "$propagation" "$mode"; done <"$mounts"
if [ "${rights#*/}" = ro ]; then mount -o remount,bind,ro "$root"; fi

capabilities=${rights%/*}
if [ "$capabilities" = privileged ]; then exec chroot "$root" "$@"; fi
exec chroot "$root" /usr/bin/setpriv --no-new-privs --inh-caps=-all --bounding-set="-all${capabilities:+,$capabilities}" "$@"
