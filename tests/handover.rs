//! An image handed from one node to another: what the first had flushed is there for the second, which had
//! looked at the image before. Invariant 1, and the reason for the mount options (G1).

mod support;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use strata::host::exec;
use support::{OpenShare, PlainMount};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 50;
/// What the first node writes each time, and what the second one does.
const BLOCK: u64 = 8 * MIB;
const ANSWER: u64 = MIB / 16;
/// Where the second node's blocks begin.
const ANSWERS: u64 = ROUNDS * BLOCK;

fn pattern(round: u64) -> u64 {
    round % 250 + 1
}

/// What QEMU printed, if it did everything that it was told.
fn judge(output: &Output, commands: &[String]) -> Result<(), String> {
    let said =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    let verbs = |verb: &str| commands.iter().filter(|word| word.starts_with(verb)).count();
    // A command that failed prints no such line; a pattern that differs does, and says so besides.
    let fine = output.status.success()
        && !said.contains("failed")
        && !said.contains("can't open")
        && said.matches("read 8388608/8388608").count() + said.matches("read 65536/65536").count()
            == verbs("read")
        && said.matches("wrote ").count() == verbs("write");
    if fine { Ok(()) } else { Err(said) }
}

/// Opens the image past all caches, as an attachment does, does these commands, and closes it.
fn qemu_io(image: &Path, commands: &[String]) -> Result<(), String> {
    let mut command = Command::new(support::qemu_io());
    command.args(["-f", "qcow2", "-n"]);
    for word in commands {
        command.args(["-c", word]);
    }
    command.arg(image);
    judge(&exec::run(command, LIMIT).unwrap(), commands)
}

/// A process that is up already and opens its image when it is told.
struct Waiting(Child);

impl Waiting {
    fn new() -> Waiting {
        let mut command = Command::new(support::qemu_io());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Waiting(command.spawn().unwrap())
    }

    fn open(mut self, image: &Path, commands: &[String]) -> Result<(), String> {
        let mut script = format!("open -n -o driver=qcow2,file.filename={}\n", image.display());
        for word in commands {
            script += word;
            script.push('\n');
        }
        self.0.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        judge(&self.0.wait_with_output().unwrap(), commands)
    }
}

fn check(image: &Path) -> Result<(), String> {
    let mut command = Command::new(support::qemu_img());
    command.args(["check", "-q", "-f", "qcow2"]).arg(image);
    let output = exec::run(command, LIMIT).unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if output.status.success() { Ok(()) } else { Err(format!("qemu-img check: {said}")) }
}

/// What a node does that looks at an image without opening it for good: its size, its header and tables.
fn look(image: &Path) -> io::Result<()> {
    fs::metadata(image)?;
    File::open(image)?.take(MIB).read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Handover {
    one: PathBuf,
    other: PathBuf,
}

impl Handover {
    /// A new image, seen through both mounts.
    fn new(one: &Path, other: &Path, name: &str) -> Handover {
        let image = one.join(name);
        support::run(
            support::qemu_img().to_str().unwrap(),
            &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), &(ANSWERS + BLOCK).to_string()],
        );
        Handover { one: image, other: other.join(name) }
    }

    /// The other node looks, the first one writes and closes, the other one opens it for writing at once.
    fn once(&self, round: u64) -> Result<(), String> {
        let waiting = Waiting::new();
        look(&self.other).map_err(|error| format!("looking at it: {error}"))?;
        let (at, answer, fill) = (round * BLOCK, ANSWERS + round * ANSWER, pattern(round));
        qemu_io(&self.one, &[format!("write -P {fill} {at} {BLOCK}"), "flush".into()])?;
        let commands = [
            format!("read -P {fill} {at} {BLOCK}"),
            format!("write -P {fill} {answer} {ANSWER}"),
            "flush".into(),
        ];
        // Nothing lies between but a line down a pipe: milliseconds, where caches live for a second.
        waiting.open(&self.other, &commands)?;
        check(&self.other)
    }

    /// Every byte of these rounds, through that path.
    fn verify(image: &Path, rounds: u64) -> Result<(), String> {
        let reads: Vec<_> = (0..rounds)
            .flat_map(|round| {
                let (fill, at, answer) = (pattern(round), round * BLOCK, ANSWERS + round * ANSWER);
                [format!("read -P {fill} {at} {BLOCK}"), format!("read -P {fill} {answer} {ANSWER}")]
            })
            .collect();
        qemu_io(image, &reads)
    }
}

#[test]
fn an_image_handed_over_fifty_times_keeps_every_byte() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let one = OpenShare::new(&source, &dir.path().join("node1"));
    let other = OpenShare::new(&source, &dir.path().join("node2"));
    let handover = Handover::new(&one.0.root, &other.0.root, "handover.qcow2");
    for round in 0..ROUNDS {
        handover.once(round).unwrap_or_else(|lost| panic!("round {round}: {lost}"));
    }
    Handover::verify(&handover.one, ROUNDS).unwrap();
    Handover::verify(&handover.other, ROUNDS).unwrap();
    check(&handover.one).unwrap();
    fs::remove_file(&handover.one).unwrap();
}

/// The same with GlusterFS's default options loses data: so the test above can fail, and the options matter.
#[test]
fn default_mount_options_lose_what_was_handed_over() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let one = PlainMount::new(&source, dir.path().join("plain1"));
    let other = PlainMount::new(&source, dir.path().join("plain2"));
    let lost = (0..20).find_map(|attempt| {
        let handover = Handover::new(&one.0, &other.0, &format!("plain-{attempt}.qcow2"));
        let rounds = (0..3).try_for_each(|round| handover.once(round));
        let lost = rounds.and_then(|()| Handover::verify(&handover.one, 3)).err();
        fs::remove_file(&handover.one).unwrap();
        lost
    });
    assert!(lost.is_some(), "no loss in 20 tries: this test proves nothing here any more");
}
