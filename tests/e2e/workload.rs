//! What pods do. Scripts for a plain sh with coreutils; the volume is at `$DATA`.

/// Files of random bytes under `$DATA/files`, numbered, each flushed.
pub fn fill(first: u32, last: u32) -> String {
    format!(
        "set -e; mkdir -p \"$DATA/files\"\n\
         for n in $(seq {first} {last}); do\n\
           dd if=/dev/urandom of=\"$DATA/files/$n\" bs=256k count=4 conv=fsync status=none\n\
         done"
    )
}

/// A line for each file, of what is on the device and not in the cache.
pub const SUMS: &str = "set -e; cd \"$DATA/files\"; sync\n\
     for file in $(ls | sort -n); do\n\
       printf '%s %s\\n' \"$file\" \"$(dd if=\"$file\" iflag=direct bs=256k status=none | sha256sum | cut -d' ' -f1)\"\n\
     done";

/// Writes, flushes and reads back past the cache until `$DATA/stop` is there; says how many rounds those were. The
/// first error ends it.
pub const WRITER: &str = "set -eu; mkdir -p \"$DATA/load\"; cd \"$DATA/load\"; n=0\n\
     while [ ! -e \"$DATA/stop\" ]; do\n\
       n=$((n + 1)); file=$((n % 40))\n\
       head -c 262144 /dev/urandom >/tmp/block.$$; sum=$(sha256sum </tmp/block.$$ | cut -d' ' -f1)\n\
       dd if=/tmp/block.$$ of=$file bs=256k conv=fsync status=none\n\
       [ \"$(dd if=$file iflag=direct bs=256k status=none | sha256sum | cut -d' ' -f1)\" = \"$sum\" ]\n\
       echo $sum >$file.sum; sync $file.sum; echo $n >count\n\
     done\n\
     rm /tmp/block.$$; echo $n";

/// Whether the writer's files are as it left them; says how many.
pub const CHECK_WRITTEN: &str = "set -eu; cd \"$DATA/load\"; n=0\n\
     for file in *.sum; do\n\
       [ \"$(sha256sum <${file%.sum} | cut -d' ' -f1)\" = \"$(cat $file)\" ]; n=$((n + 1))\n\
     done; echo $n";

/// How many rounds the writer has done.
pub const ROUNDS: &str = "cat \"$DATA/load/count\" 2>/dev/null || echo 0";

pub const STOP: &str = "touch \"$DATA/stop\"";

/// The size of the filesystem, in KiB.
pub const SIZE: &str = "df -Pk \"$DATA\" | awk 'NR == 2 { print $2 }'";
