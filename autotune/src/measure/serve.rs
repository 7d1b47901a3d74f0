//! The process that measures: requests in, replies out, until the input ends.

use super::protocol::{Reply, Request};
use super::{Bench, Fault};
use std::io::{BufRead, Write};
use std::sync::mpsc;

/// Serves requests on the standard streams. Ends with the input, even while a kernel hangs, so that nothing is left
/// behind when whoever asked is killed.
pub fn serve_standard_streams(bench: &mut dyn Bench) {
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    serve(bench, requests, std::io::stdout().lock());
}

/// Answers requests until there are no more, or a candidate has taken the process with it.
pub fn serve(bench: &mut dyn Bench, requests: impl IntoIterator<Item = String>, mut replies: impl Write) {
    for line in requests {
        let reply = match serde_json::from_str(&line) {
            Ok(request) => answer(bench, &request),
            Err(error) => Reply::Unable { reason: format!("`{line}` is no request: {error}") },
        };
        let text = serde_json::to_string(&reply).unwrap_or_else(|error| {
            // A reply has string keys alone, so that this is out of the ordinary; it must still be answered.
            format!(r#"{{"unable":{{"reason":"{}"}}}}"#, error.to_string().replace(['"', '\\'], "'"))
        });
        let sent = writeln!(replies, "{text}").and_then(|()| replies.flush());
        if sent.is_err() || matches!(reply, Reply::Lost { .. }) {
            return;
        }
    }
}

fn answer(bench: &mut dyn Bench, request: &Request) -> Reply {
    let result = match request {
        Request::Gpus => bench.gpus().map(Reply::Gpus),
        Request::Open(opening) => bench.open(opening).map(|()| Reply::Done),
        Request::Admit { config, anchor } => bench.admit(config, anchor.as_ref()).map(|()| Reply::Done),
        Request::Time { config, reference, pairs } => bench.time(config, reference, *pairs).map(Reply::Times),
    };
    result.unwrap_or_else(|fault| match fault {
        Fault::Candidate(reason) => Reply::Refused { reason },
        Fault::Context(reason) => Reply::Lost { reason },
        Fault::Bench(reason) => Reply::Unable { reason },
    })
}
