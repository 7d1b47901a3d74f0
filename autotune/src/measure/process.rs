//! A measurer that is a process: it may crash or hang, which costs the candidate that did it.

use super::protocol::{Opening, Reply, Request};
use super::{GpuFacts, Measurer, Pair, Refusal};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tile_lang::Config;

/// How long finding the GPUs and preparing a problem may take: its inputs are made, and the oracle runs once.
const OPENING_LIMIT: Duration = Duration::from_secs(300);
/// How long a process that closed its output may take to end.
const ENDING_LIMIT: Duration = Duration::from_secs(2);

/// How a process that serves is started.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// A process that measures one problem on one GPU, started when it is first asked for something and again after it
/// was lost.
pub struct WorkerProcess {
    command: WorkerCommand,
    opening: Opening,
    limit: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<String>,
    complaint: Option<JoinHandle<String>>,
}

/// How a request went wrong.
enum Loss {
    /// The process cannot be started, or says that it is unable.
    Unable(String),
    /// It was killed for not answering.
    Late,
    /// It ended.
    Dead(String),
}

impl WorkerProcess {
    /// A process for a problem, which each candidate may keep busy for `limit`.
    pub fn new(command: WorkerCommand, opening: Opening, limit: Duration) -> WorkerProcess {
        WorkerProcess { command, opening, limit, running: None }
    }

    /// Asks about a candidate. A process that is found dead, by no fault of this candidate, is replaced once.
    fn ask(&mut self, request: &Request) -> Result<Reply, Refusal> {
        if self.running.is_none() {
            let mut running = Running::start(&self.command).map_err(Refusal::Measurer)?;
            match running.ask(&Request::Open(self.opening.clone()), OPENING_LIMIT) {
                Ok(Reply::Done) => self.running = Some(running),
                Ok(other) => return Err(Refusal::Measurer(format!("unexpected answer {other:?}"))),
                Err(Loss::Unable(reason) | Loss::Dead(reason)) => return Err(Refusal::Measurer(reason)),
                Err(Loss::Late) => {
                    let reason = format!("not ready within {} s", OPENING_LIMIT.as_secs());
                    return Err(Refusal::Measurer(reason));
                }
            }
        }
        let Some(running) = &mut self.running else {
            return Err(Refusal::Measurer("the process did not start".to_owned()));
        };
        let reply = match running.ask(request, self.limit) {
            Ok(Reply::Refused { reason }) => return Err(Refusal::Candidate(reason)),
            Ok(Reply::Lost { reason }) => Err(Refusal::Candidate(reason)),
            Ok(reply) => return Ok(reply),
            Err(Loss::Unable(reason)) => Err(Refusal::Measurer(reason)),
            Err(Loss::Dead(reason)) => Err(Refusal::Candidate(format!("its process ended: {reason}"))),
            Err(Loss::Late) => {
                let seconds = self.limit.as_secs_f64();
                Err(Refusal::Candidate(format!("no result within {seconds} s; its process was ended")))
            }
        };
        self.running = None;
        reply
    }
}

impl Measurer for WorkerProcess {
    /// A disagreement is found again in a fresh process before it counts: a candidate before this one may have
    /// written where it should not.
    fn admit(&mut self, config: &Config, anchor: Option<&Config>) -> Result<(), Refusal> {
        let request = Request::Admit { config: config.clone(), anchor: anchor.cloned() };
        let used = self.running.is_some();
        let mut reply = self.ask(&request);
        if used && self.running.is_some() && matches!(reply, Err(Refusal::Candidate(_))) {
            self.running = None;
            reply = self.ask(&request);
        }
        match reply? {
            Reply::Done => Ok(()),
            other => Err(Refusal::Measurer(format!("unexpected answer {other:?}"))),
        }
    }

    fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, Refusal> {
        let request = Request::Time { config: config.clone(), reference: reference.clone(), pairs };
        match self.ask(&request)? {
            Reply::Times(pairs) => Ok(pairs),
            other => Err(Refusal::Measurer(format!("unexpected answer {other:?}"))),
        }
    }
}

/// The GPUs that a process finds; it ends then.
///
/// # Errors
/// Why there are none.
pub fn find_gpus(command: &WorkerCommand) -> Result<Vec<GpuFacts>, String> {
    match Running::start(command)?.ask(&Request::Gpus, OPENING_LIMIT) {
        Ok(Reply::Gpus(gpus)) => Ok(gpus),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(Loss::Unable(reason)) => Err(reason),
        Err(Loss::Dead(reason)) => Err(format!("the process that looks for GPUs ended: {reason}")),
        Err(Loss::Late) => Err("the driver does not answer".to_owned()),
    }
}

impl Running {
    fn start(command: &WorkerCommand) -> Result<Running, String> {
        let mut child = Command::new(&command.program)
            .args(&command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", command.program.display()))?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(requests), Some(output), Some(errors)) = streams else {
            return Err("the process has no streams".to_owned());
        };
        let (sender, replies) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            // Nobody listens any more when sending fails.
            lines.map(|line| sender.send(line)).find(Result::is_err);
        });
        let complaint = Some(std::thread::spawn(move || first_complaint(errors)));
        Ok(Running { child, requests, replies, complaint })
    }

    fn ask(&mut self, request: &Request, limit: Duration) -> Result<Reply, Loss> {
        let line = serde_json::to_string(request).map_err(|error| Loss::Unable(error.to_string()))?;
        if writeln!(self.requests, "{line}").and_then(|()| self.requests.flush()).is_err() {
            return Err(Loss::Dead(self.epitaph()));
        }
        match self.replies.recv_timeout(limit) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Reply::Unable { reason }) => Err(Loss::Unable(reason)),
                Ok(reply) => Ok(reply),
                Err(_) => Err(Loss::Unable(format!("`{line}` is no answer"))),
            },
            Err(RecvTimeoutError::Timeout) => Err(Loss::Late),
            Err(RecvTimeoutError::Disconnected) => Err(Loss::Dead(self.epitaph())),
        }
    }

    /// How the process ended, and what it complained of.
    fn epitaph(&mut self) -> String {
        let patience = Instant::now() + ENDING_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        // One that has ended already keeps its status.
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if complaint.is_empty() { status } else { format!("{status}: {complaint}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either it is gone already, or it goes now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first two lines on a process's error stream, on one: of a panic, where it was and what it says.
fn first_complaint(errors: impl Read) -> String {
    let lines = BufReader::new(errors).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.filter(|line| !line.trim().is_empty()).collect();
    lines.iter().take(2).map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
