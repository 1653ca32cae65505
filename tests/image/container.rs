//! A container as the chart describes it, from the image's root: its own mounts and processes, the chart's volumes with
//! their propagation, its user, its rights, and nothing else. Only the network is the tests' own.

use crate::unpacked::Image;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// What is mounted into a container.
#[derive(Clone, Debug)]
pub struct Mount {
    pub from: PathBuf,
    pub to: PathBuf,
    /// None, HostToContainer or Bidirectional.
    pub propagation: String,
    pub read_only: bool,
}

/// How a container is started.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// None: the image's.
    pub user: Option<u64>,
    pub privileged: bool,
    /// Those that are left when it is not.
    pub capabilities: Vec<String>,
    pub read_only_root: bool,
}

/// One that runs. Killed when dropped.
pub struct Container {
    name: String,
    child: Child,
    log: PathBuf,
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn path(path: &Path) -> String {
    quoted(path.to_str().expect("UTF-8"))
}

impl Spec {
    /// What a runtime does between clone(2) and execve(2).
    fn script(&self, image: &Image) -> String {
        let inside = |path: &Path| image.root.join(path.strip_prefix("/").expect("an absolute path"));
        let root = path(&image.root);
        let mut script = format!("set -e\nmount --bind {root} {root}\nmount -t proc proc {root}/proc\n");
        let _ = writeln!(script, "mount --rbind /sys {root}/sys");
        if !self.mounts.iter().any(|mount| mount.to == Path::new("/dev")) {
            let _ = writeln!(script, "mount -t tmpfs -o mode=0755 tmpfs {root}/dev");
            for name in ["null", "zero", "full", "random", "urandom"] {
                let _ =
                    writeln!(script, "touch {root}/dev/{name}; mount --bind /dev/{name} {root}/dev/{name}");
            }
        }
        for mount in &self.mounts {
            let to = inside(&mount.to);
            // In a folder that all containers share, as a runtime would in the container's own.
            std::fs::create_dir_all(&to).unwrap();
            let _ = writeln!(script, "mount --rbind {} {}", path(&mount.from), path(&to));
            match mount.propagation.as_str() {
                "Bidirectional" => {}
                "HostToContainer" => drop(writeln!(script, "mount --make-rslave {}", path(&to))),
                _ => drop(writeln!(script, "mount --make-rprivate {}", path(&to))),
            }
            if mount.read_only {
                let _ = writeln!(script, "mount -o remount,bind,ro {}", path(&to));
            }
        }
        if self.read_only_root {
            let _ = writeln!(script, "mount -o remount,bind,ro {root}");
        }
        let _ = write!(script, "exec chroot {root} {}", self.command(image));
        script
    }

    /// The image's own setpriv and env stand in for the runtime.
    fn command(&self, image: &Image) -> String {
        let (user, group) = match self.user {
            // Its group is that of the image's /etc/passwd.
            Some(0) => ("0".to_owned(), "0".to_owned()),
            Some(other) => panic!("{}: user {other} is not known here", self.name),
            None => {
                let (user, group) = image.config["User"].as_str().unwrap().split_once(':').unwrap();
                (user.to_owned(), group.to_owned())
            }
        };
        let mut words = vec![format!("/usr/bin/setpriv --reuid={user} --regid={group} --clear-groups")];
        if !self.privileged {
            let kept = self.capabilities.iter().map(|name| format!(",+{}", name.to_lowercase()));
            words.push(format!(
                "--no-new-privs --inh-caps=-all --bounding-set=-all{}",
                kept.collect::<String>()
            ));
        }
        words.push("-- /usr/bin/env -i".to_owned());
        words.extend(image.words("Env").iter().map(|pair| quoted(pair)));
        words.extend(self.environment.iter().map(|(name, value)| quoted(&format!("{name}={value}"))));
        words.extend(image.words("Entrypoint").iter().map(|word| quoted(word)));
        words.extend(self.arguments.iter().map(|word| quoted(word)));
        words.join(" ")
    }

    fn unshared(&self, image: &Image) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "unchanged", "--pid", "--fork", "--kill-child=KILL"]);
        command.args(["--", "sh", "-c", &self.script(image)]).stdin(Stdio::null());
        command
    }

    /// Starts it; what it says goes to a file in that folder.
    pub fn start(&self, image: &Image, logs: &Path) -> Container {
        let log = logs.join(format!("{}.log", self.name));
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.unshared(image);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Container { name: self.name.clone(), child: command.spawn().expect("unshare runs"), log }
    }

    /// Runs it to its end, which must be a good one; what it has printed.
    pub fn run(&self, image: &Image) -> String {
        let output = self.unshared(image).output().expect("unshare runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {:?}: {}: {said}", self.name, self.arguments, output.status);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Container {
    /// Its process 1, as this side counts; none yet, or none any more.
    fn first_process(&self) -> Option<u32> {
        let parent = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.trim().parse().ok()
    }

    fn pid(&self) -> u32 {
        self.first_process().unwrap_or_else(|| self.fail("it does not run"))
    }

    /// Runs a probe's command in it.
    pub fn probe(&self, words: &[String]) -> bool {
        let Some(pid) = self.first_process() else { return false };
        let target = format!("--target={pid}");
        let probe = Command::new("nsenter")
            .args([&target, "--mount", "--pid", "--root", "--wd", "--"])
            .args(words)
            .output();
        probe.expect("nsenter runs").status.success()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits for something that it is to bring about.
    pub fn until(&mut self, what: &str, mut come: impl FnMut(&mut Container) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !come(self) {
            if let Some(status) = self.ended() {
                self.fail(&format!("it ended with {status}, before {what}"));
            }
            if Instant::now() > deadline {
                self.fail(&format!("not {what} within its time"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Processes of it that have ended and that nobody has looked after.
    pub fn zombies(&self) -> Vec<String> {
        let parent = self.pid() as i32;
        let all =
            procfs::process::all_processes().unwrap().flatten().filter_map(|process| process.stat().ok());
        all.filter(|stat| stat.ppid == parent && stat.state == 'Z').map(|stat| stat.comm).collect()
    }

    /// SIGTERM to its process 1, which must end in order.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ended() {
                Some(status) if status.success() => return,
                Some(status) => self.fail(&format!("told to stop it ended with {status}")),
                None if Instant::now() > deadline => self.fail("told to stop it went on"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub fn fail(&self, what: &str) -> ! {
        panic!("{}: {what}; its log ends with:\n{}", self.name, self.last_words());
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("== {}\n{}", self.name, self.last_words());
        }
        // Its processes end with unshare.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
