use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::wait::within;

/// A child process with a process group of its own, whose output lines can be waited for. It is killed when this value
/// is dropped, and also when the test program dies without dropping it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    exited: Option<ExitStatus>,
    output: Arc<Output>,
    watchdog: Child,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a line on its input, which the test writes when the child has ended; end of file means that the test
/// program itself is gone, and then the child's group and its folder go too.
const WATCHDOG: &str = r#"read -r _ || { kill -s KILL -- "-$1"; [ -z "$2" ] || rm -rf "$2"; }"#;

impl Process {
    /// Starts `command`. `folder`, where given, is removed by the watchdog when the test program dies.
    ///
    /// # Panics
    /// Where the program cannot be started.
    pub fn start(name: &str, command: &mut Command, folder: Option<&Path>) -> Process {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error} ({command:?})"));
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", &child.id().to_string()])
            .arg(folder.map(PathBuf::from).unwrap_or_default())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let output = Arc::new(Output::default());
        record(child.stdout.take(), &output);
        record(child.stderr.take(), &output);
        Process {
            name: name.to_owned(),
            child,
            exited: None,
            output,
            watchdog,
        }
    }

    /// Starts a server and waits until it prints `ready`; `None`, and its output on stderr, when it ends instead.
    ///
    /// # Panics
    /// Where it does neither within two minutes.
    pub(crate) fn serve(name: &str, command: &mut Command, folder: &Path, ready: &str) -> Option<Process> {
        let mut process = Process::start(name, command, Some(folder));
        within(
            Duration::from_secs(120),
            &format!("{name} is ready or ends"),
            || {
                let ended = process.exit_status().is_some();
                let is_ready = process.output.lines().iter().any(|line| line.contains(ready));
                (ended || is_ready).then_some(())
            },
        );
        if process.exit_status().is_some() {
            eprintln!("{name} ended:\n{}", process.lines().join("\n"));
            return None;
        }
        Some(process)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of stdout and stderr so far, in the order they were read.
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().clone()
    }

    /// Waits up to a minute for the first output line (of those already there, too) that contains `text`.
    ///
    /// # Panics
    /// Where the process ends, or the minute does, without it; with the output so far.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let mut end = Instant::now() + Duration::from_secs(60);
        let mut ended = false;
        loop {
            if !ended && self.exit_status().is_some() {
                // Its last lines may still be on their way through the pipe.
                ended = true;
                end = Instant::now() + Duration::from_secs(1);
            }
            let lines = self.output.lines();
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(
                Instant::now() < end,
                "{}: no line with {text:?} ({}); its output:\n{}",
                self.name,
                if ended { "it ended" } else { "a minute passed" },
                lines.join("\n"),
            );
            // Woken by every line; the limit is there to notice an end without one.
            let _ = self.output.more.wait_timeout(lines, Duration::from_millis(100));
        }
    }

    /// How the process ended, or `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("our own child");
        }
        self.exited
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// Where it still runs after `limit`; with its output.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} still runs after {limit:?}; its output:\n{}",
                self.name,
                self.lines().join("\n"),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the process itself, not to its children.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            let _ = rustix::process::kill_process(pid(&self.child), signal);
        }
    }

    /// Sends a signal to the process and its children.
    pub fn signal_group(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            let _ = rustix::process::kill_process_group(pid(&self.child), signal);
        }
    }

    /// `kill -9` of the process and all its children, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.exit_status().is_none() {
            let _ = rustix::process::kill_process_group(pid(&self.child), Signal::KILL);
            self.exited = self.child.wait().ok();
        }
    }

    /// The largest resident memory it ever had, in bytes (`VmHWM`), without its children.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
        kilobytes(&status, "VmHWM:") * 1024
    }

    /// The CPU time, in seconds, of the process and its living children so far, user and system, in steps of 10 ms.
    pub fn cpu_seconds(&self) -> f64 {
        let ticks = self.group().into_iter().map(|stat| {
            let field = |index: usize| stat.get(index).and_then(|text| text.parse::<u32>().ok());
            // utime and stime, the 14th and 15th field, here counted from the state (the 3rd).
            f64::from(field(11).unwrap_or(0)) + f64::from(field(12).unwrap_or(0))
        });
        ticks.sum::<f64>() / 100.0
    }

    /// The memory of the process and its children now, in bytes; what processes share is counted once (`Pss`).
    pub fn memory(&self) -> u64 {
        let pids = self.group();
        let sizes = pids.iter().filter_map(|stat| {
            let pid = stat.last()?;
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            Some(kilobytes(&rollup, "Pss:") * 1024)
        });
        sizes.sum()
    }

    /// `/proc/PID/stat` of every process of this group: its fields from the state on, then the pid.
    fn group(&self) -> Vec<Vec<String>> {
        let group = self.pid().to_string();
        let entries = std::fs::read_dir("/proc").expect("/proc is there");
        let stats = entries.flatten().filter_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name before it may hold anything, also parentheses.
            let (_, rest) = stat.rsplit_once(") ")?;
            let mut fields: Vec<String> = rest.split(' ').map(str::to_owned).collect();
            fields.push(pid);
            (fields.get(2) == Some(&group)).then_some(fields)
        });
        stats.collect()
    }
}

/// The number of a line such as `VmHWM:   1234 kB`; 0 where there is none.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|value| value.trim().strip_suffix(" kB"));
    number.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn pid(child: &Child) -> Pid {
    let id = i32::try_from(child.id()).expect("a pid is an i32");
    Pid::from_raw(id).expect("a pid is not 0")
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group first: children of a process that ended by itself may still be there.
        let _ = rustix::process::kill_process_group(pid(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if let Some(mut input) = self.watchdog.stdin.take() {
            let _ = std::io::Write::write_all(&mut input, b"done\n");
        }
        let _ = self.watchdog.wait();
        if std::thread::panicking() {
            eprintln!("--- output of {}:\n{}", self.name, self.lines().join("\n"));
        }
    }
}

/// Reads a stream to its end in a thread of its own, so that the process never waits for its reader.
fn record(stream: Option<impl Read + Send + 'static>, output: &Arc<Output>) {
    let Some(stream) = stream else { return };
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            output.lines().push(line);
            output.more.notify_all();
        }
    });
}
