//! What a worker that is no child of a terminal needs: another user, a process of its own, a pid file.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;
use rustix::process::{Pid, setsid, test_kill_process};

/// Tells a process that it is the one that [`Daemon::become_one`] started, and whether it was detached.
const STARTED: &str = "CELERYBOX_DAEMON";

/// Exit status when the pid file cannot be made (contract section 8.3).
const CANNOT_CREATE: u8 = 73;

/// How to run without a terminal.
#[derive(Args)]
#[command(next_help_heading = "Daemon options")]
pub(super) struct Daemon {
    /// Run in the background
    #[arg(short = 'D', long)]
    detach: bool,

    /// File to log to, instead of stderr; %n, %h and %d as in --hostname, %i and %I are 0
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        env = "CELERY_WORKER_LOGFILE",
        hide_env = true
    )]
    logfile: Option<String>,

    /// File that holds the process id while the worker runs; %n, %h and %d as in --hostname
    #[arg(long, value_name = "FILE", env = "CELERY_WORKER_PIDFILE", hide_env = true)]
    pidfile: Option<String>,

    /// User to run as, a name or a number
    #[arg(long, value_name = "USER", env = "CELERY_WORKER_UID", hide_env = true)]
    uid: Option<String>,

    /// Group to run as, a name or a number
    #[arg(long, value_name = "GROUP", env = "CELERY_WORKER_GID", hide_env = true)]
    gid: Option<String>,

    /// Permissions that new files do not get, octal
    #[arg(long, value_name = "MASK", value_parser = octal, env = "CELERY_WORKER_UMASK", hide_env = true)]
    umask: Option<u32>,
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err("expected octal digits, for example 022".into()),
    }
}

impl Daemon {
    /// The log file, where the log does not go to stderr.
    pub(super) fn logfile(&self, hostname: &str) -> Option<PathBuf> {
        self.logfile.as_deref().map(|pattern| expand(pattern, hostname))
    }

    /// Starts this command line again as another user or in the background. `Some` when this process is to end now.
    pub(super) fn become_one(&self) -> anyhow::Result<Option<ExitCode>> {
        if let Some(mask) = self.umask {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        }
        let started = std::env::var_os(STARTED);
        if started.is_some() {
            if started.as_deref() == Some(OsStr::new("detached")) {
                setsid().context("cannot leave the terminal")?;
            }
            return Ok(None);
        }
        if !self.detach && self.uid.is_none() && self.gid.is_none() {
            return Ok(None);
        }
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(std::env::args_os().skip(1));
        if let Some(gid) = &self.gid {
            command.gid(identity("--gid", gid, "/etc/group")?.0);
        }
        if let Some(uid) = &self.uid {
            let (uid, group) = identity("--uid", uid, "/etc/passwd")?;
            command.uid(uid);
            if let (None, Some(group)) = (&self.gid, group) {
                command.gid(group);
            }
        }
        if !self.detach {
            return Err(command.env(STARTED, "as another user").exec())
                .context("cannot start as another user");
        }
        command
            .env(STARTED, "detached")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start in the background")?;
        Ok(Some(ExitCode::SUCCESS))
    }

    /// Makes the pid file; dropping it removes it. The inner error is an exit status after a message to the user.
    pub(super) fn pidfile(&self, hostname: &str) -> anyhow::Result<Result<Option<PidFile>, ExitCode>> {
        let Some(pattern) = &self.pidfile else {
            return Ok(Ok(None));
        };
        let path = expand(pattern, hostname);
        match PidFile::create(&path) {
            Ok(file) => Ok(Ok(Some(file))),
            Err(error) => {
                eprintln!("ERROR: {error:#}");
                Ok(Err(ExitCode::from(CANNOT_CREATE)))
            }
        }
    }
}

/// A file with this process's id.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let pid: Option<i32> = text.trim().parse().ok();
                let own = pid == i32::try_from(std::process::id()).ok();
                if let Some(pid) = pid.filter(|_| !own).and_then(Pid::from_raw)
                    && test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
                {
                    anyhow::bail!(
                        "Pidfile ({}) already exists. Seems we're already running? (pid: {})",
                        path.display(),
                        pid.as_raw_nonzero()
                    );
                }
                if !own {
                    eprintln!("Stale pidfile exists - Removing it.");
                }
                let temporary = path.with_added_extension(format!("{}.tmp", std::process::id()));
                let file =
                    File::create(&temporary).with_context(|| format!("cannot create {}", path.display()))?;
                std::fs::rename(&temporary, path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                file
            }
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        };
        writeln!(file, "{}", std::process::id())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let own =
            std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if own {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// The number of a user or group: a number, or a name in `file`, where users have their group in the next field.
fn identity(option: &str, name: &str, file: &str) -> anyhow::Result<(u32, Option<u32>)> {
    if let Ok(number) = name.parse() {
        return Ok((number, None));
    }
    let known = std::fs::read_to_string(file).with_context(|| format!("{option}: cannot read {file}"))?;
    let line = known
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .with_context(|| format!("{option}: {file} has no {name:?}; a number works as well"))?;
    let number = |i: usize| line.get(i).and_then(|field| field.parse().ok());
    let id = number(2).with_context(|| format!("{option}: {file} has no number for {name:?}"))?;
    Ok((id, number(3)))
}

/// Celery's placeholders in file names: %h the node name, %n its part before the @, %d the host's domain, %i and %I
/// the pool's index, which is always the main process here.
fn expand(pattern: &str, hostname: &str) -> PathBuf {
    let (name, host) = hostname.split_once('@').unwrap_or((hostname, ""));
    let domain = host.split_once('.').map_or("", |(_, domain)| domain);
    let mut path = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match (c, c == '%') {
            (_, false) => path.push(c),
            (_, true) => match rest.next() {
                Some('h') => path.push_str(hostname),
                Some('n') => path.push_str(name),
                Some('d') => path.push_str(domain),
                Some('i') => path.push('0'),
                Some('I') => {}
                Some('%') => path.push('%'),
                Some(other) => path.extend(['%', other]),
                None => path.push('%'),
            },
        }
    }
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        let expanded = |pattern| {
            expand(pattern, "w1@host.example.org")
                .to_string_lossy()
                .into_owned()
        };
        assert_eq!(expanded("/log/%n%I.log"), "/log/w1.log");
        assert_eq!(
            expanded("%h-%d-%i-%%-%x%"),
            "w1@host.example.org-example.org-0-%-%x%"
        );
    }

    #[test]
    fn a_pid_file_of_the_dead_is_replaced_and_one_of_the_living_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pid");
        let file = PidFile::create(&path).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().trim(),
            std::process::id().to_string()
        );
        drop(file);
        assert!(!path.exists());
        for stale in ["999999999", "no number", ""] {
            std::fs::write(&path, stale).unwrap();
            drop(PidFile::create(&path).unwrap());
        }
        std::fs::write(&path, "1").unwrap();
        let error = PidFile::create(&path).unwrap_err();
        assert!(error.to_string().contains("already running? (pid: 1)"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!(identity("--uid", "1234", "/nowhere").unwrap(), (1234, None));
        assert_eq!(identity("--uid", "root", "/etc/passwd").unwrap(), (0, Some(0)));
        assert!(identity("--uid", "no such user", "/etc/passwd").is_err());
    }
}
