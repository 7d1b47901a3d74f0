//! A kernel together with the helpers it calls.

use crate::ast::Function;
use crate::check::{Mode, check_among};
use crate::config::Bindings;
use crate::diag::Diagnostic;
use crate::typed::Program;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A kernel and its helpers; each caller finds its own callees, by the paths it wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Library {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    function: Function,
    callees: Vec<(String, usize)>,
}

impl Library {
    /// A kernel with no helpers yet; it has index 0.
    pub fn new(kernel: Function) -> Library {
        Library { nodes: vec![Node { function: kernel, callees: Vec::new() }] }
    }

    /// The kernel.
    pub fn kernel(&self) -> &Function {
        &self.nodes[0].function
    }

    /// Adds a helper that the function at `caller` calls by `path`; gives the helper's index.
    pub fn add(&mut self, caller: usize, path: &str, helper: Function) -> usize {
        self.nodes.push(Node { function: helper, callees: Vec::new() });
        let index = self.nodes.len() - 1;
        self.link(caller, path, index);
        index
    }

    /// Says that the function at `caller` calls, by `path`, the helper at `callee`.
    pub fn link(&mut self, caller: usize, path: &str, callee: usize) {
        self.nodes[caller].callees.push((path.to_owned(), callee));
    }

    /// The helper that `caller`, one of this library's functions, calls by `path`.
    pub fn find(&self, caller: &Function, path: &str) -> Option<&Function> {
        let node = self.nodes.iter().find(|n| std::ptr::eq(&n.function, caller))?;
        let (_, index) = node.callees.iter().find(|(p, _)| p == path)?;
        Some(&self.nodes[*index].function)
    }

    /// The source files, the kernel's own first: what places in messages and programs index.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for node in &self.nodes {
            if !files.contains(&node.function.file) {
                files.push(node.function.file.clone());
            }
        }
        files
    }

    /// Checks the kernel with its helpers inlined.
    ///
    /// # Errors
    /// Every mistake found, at places among [`files`](Self::files); see [`crate::check()`].
    pub fn check(&self, bind: &Bindings, mode: Mode) -> Result<Program, Vec<Diagnostic>> {
        check_among(self.files(), self.kernel(), &|caller, path| self.find(caller, path), bind, mode)
    }

    /// A hash of what the kernel computes as written, in hexadecimal: its syntax tree and its helpers', without
    /// places, file names and the tuning space, so that reformatting or moving it keeps tuned records valid.
    pub fn source_hash(&self) -> String {
        self.hash(|tree| {
            strip(tree);
            if let Value::Object(fields) = tree {
                fields.remove("file");
                fields.remove("tune");
            }
        })
    }

    /// A hash of the syntax trees with every place: what compilation sees, lines that its messages name included.
    pub fn exact_hash(&self) -> String {
        self.hash(|_| {})
    }

    /// A hash, in hexadecimal, of what `keep` leaves of each tree, and of what calls what.
    fn hash(&self, keep: impl Fn(&mut Value)) -> String {
        let mut hasher = Sha256::new();
        for node in &self.nodes {
            let mut tree = serde_json::to_value(&node.function).expect("a syntax tree is plain data");
            keep(&mut tree);
            hasher.update(tree.to_string().as_bytes());
            for (path, index) in &node.callees {
                hasher.update(format!("\0{path}\0{index}").as_bytes());
            }
            hasher.update(b"\n");
        }
        hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Removes every place from a tree.
fn strip(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            fields.retain(|_, value| !is_span(value));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.retain(|value| !is_span(value));
            items.iter_mut().for_each(strip);
        }
        _ => {}
    }
}

/// An object with exactly a span's fields.
fn is_span(value: &Value) -> bool {
    let Value::Object(fields) = value else { return false };
    fields.len() == 5
        && ["file", "line", "col", "end_line", "end_col"].iter().all(|f| fields.contains_key(*f))
}
