//! `strata completion` and `strata man`: both made from the arguments themselves, so that they cannot fall behind.

use super::Cli;
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder for the pages, one for each command. It is made if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl CompletionArgs {
    /// Prints the script.
    pub fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "strata", &mut script);
        io::stdout().write_all(&script).context("the script cannot be printed")
    }
}

impl ManArgs {
    /// Writes the pages.
    pub fn run(&self) -> Result<()> {
        let dir = self.dir.display();
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make the folder {dir}"))?;
        clap_mangen::generate_to(Cli::command(), &self.dir).with_context(|| format!("cannot write to {dir}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;

    fn check(command: &Command, path: &str, seen: &mut usize) {
        let path = format!("{path} {}", command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty(), "{path} says nothing about itself");
        for argument in
            command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{path}: nothing is said about {}", argument.get_id());
        }
        *seen += 1;
        command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
            .for_each(|sub| check(sub, &path, seen));
    }

    /// K17: every verb and every argument says what it is, and every page can be made.
    #[test]
    fn every_verb_is_described() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut seen = 0;
        check(&command, "", &mut seen);
        let folder = tempfile::tempdir().unwrap();
        ManArgs { dir: folder.path().join("man") }.run().unwrap();
        let pages: Vec<_> =
            fs::read_dir(folder.path().join("man")).unwrap().map(|page| page.unwrap().path()).collect();
        assert!(pages.len() >= seen, "{seen} commands, but {pages:?}");
        for page in pages {
            assert!(fs::read_to_string(&page).unwrap().contains(".SH NAME"), "{}", page.display());
        }
    }
}
