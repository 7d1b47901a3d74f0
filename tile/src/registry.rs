//! Every kernel linked into the program, by name.

use crate::error::LaunchError;
use crate::launch::EagerCall;
use indexmap::IndexMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use tile_lang::ast::Function;
use tile_lang::disjoint::{Unproved, unproved_axes};
use tile_lang::{Bindings, Config, Diagnostic, Library, Mode, nearest, space, typed};

/// The helpers that a function calls: each path as written, and what it names.
pub type Helpers = fn() -> &'static [(&'static str, &'static HelperDef)];

/// A `#[tile_fn]`, as its macro recorded it.
pub struct HelperDef {
    ast_json: &'static str,
    helpers: Helpers,
}

impl HelperDef {
    /// For the macro's use.
    #[doc(hidden)]
    pub const fn new(ast_json: &'static str, helpers: Helpers) -> Self {
        HelperDef { ast_json, helpers }
    }
}

/// A `#[tile_kernel]`, as its macro recorded it.
pub struct KernelDef {
    /// The Rust name.
    pub name: &'static str,
    /// The module that defines it.
    pub module_path: &'static str,
    ast_json: &'static str,
    helpers: Helpers,
    pub(crate) eager: fn(&EagerCall<'_>) -> Result<(), LaunchError>,
    library: OnceLock<Library>,
    default_config: OnceLock<Config>,
    instances: Mutex<Vec<(Bindings, Arc<Instance>)>>,
}

/// What the checker says of one binding of a kernel's parameters.
pub(crate) struct Instance {
    /// What is wrong with the kernel.
    pub mistakes: Vec<Diagnostic>,
    /// The grid axes along which two programs may make one store.
    pub unproved: Vec<Unproved>,
    /// The files that the places above index.
    pub files: Vec<String>,
}

/// Instances that a kernel remembers, so that a launch does not check again.
const MAX_INSTANCES: usize = 64;

impl fmt::Debug for KernelDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelDef({}::{})", self.module_path, self.name)
    }
}

fn parse(json: &str) -> Function {
    serde_json::from_str(json).expect("the macro embeds the tree it serialized")
}

/// Adds what `caller` calls, and what that calls, each helper once; in the order of the calls, which is the order
/// in which the checker meets them.
fn add_callees(
    library: &mut Library,
    caller: usize,
    helpers: Helpers,
    known: &mut Vec<(&'static HelperDef, usize)>,
) {
    for &(path, helper) in helpers() {
        if let Some((_, callee)) = known.iter().find(|(h, _)| std::ptr::eq(*h, helper)) {
            library.link(caller, path, *callee);
            continue;
        }
        let callee = library.add(caller, path, parse(helper.ast_json));
        known.push((helper, callee));
        add_callees(library, callee, helper.helpers, known);
    }
}

impl KernelDef {
    /// For the macro's use.
    #[doc(hidden)]
    pub const fn new(
        name: &'static str,
        module_path: &'static str,
        ast_json: &'static str,
        helpers: Helpers,
        eager: fn(&EagerCall<'_>) -> Result<(), LaunchError>,
    ) -> Self {
        KernelDef {
            name,
            module_path,
            ast_json,
            helpers,
            eager,
            library: OnceLock::new(),
            default_config: OnceLock::new(),
            instances: Mutex::new(Vec::new()),
        }
    }

    /// The syntax tree.
    pub fn ast(&self) -> &Function {
        self.library().kernel()
    }

    /// The syntax tree with those of the helpers it reaches.
    pub fn library(&self) -> &Library {
        self.library.get_or_init(|| {
            let mut library = Library::new(parse(self.ast_json));
            add_callees(&mut library, 0, self.helpers, &mut Vec::new());
            library
        })
    }

    /// The first configuration of the declared tuning space that its constraints allow. Launch options that are
    /// not tuned have their defaults; const parameters that are not tuned are absent.
    pub fn default_config(&self) -> Config {
        self.first_config().clone()
    }

    /// As [`default_config`](Self::default_config).
    #[doc(hidden)]
    pub fn first_config(&self) -> &Config {
        self.default_config.get_or_init(|| self.find_default_config())
    }

    fn find_default_config(&self) -> Config {
        let ast = self.ast();
        let tuned = |name: &str| ast.tune.axes.iter().any(|axis| axis.name == name);
        let open = ast.const_params.iter().filter(|param| !tuned(&param.name));
        let open: IndexMap<String, i64> = open.map(|param| (param.name.clone(), 0)).collect();
        let mut config = space::default_config(ast, &open).unwrap_or_default();
        config.consts.retain(|name, _| tuned(name));
        config
    }

    /// Checks the kernel with every const parameter and dtype bound.
    ///
    /// # Errors
    /// Everything the checker finds, at the lines of the kernel's source; [`files`](Self::files) names the files.
    pub fn instantiate(&self, bindings: &Bindings) -> Result<typed::Program, Vec<Diagnostic>> {
        self.library().check(bindings, Mode::Bound)
    }

    /// The verdict of the checks on [`instantiate`](Self::instantiate) and on the disjointness of stores,
    /// remembered.
    pub(crate) fn instance(&self, bindings: &Bindings) -> Arc<Instance> {
        let mut instances = self.instances.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, found)) = instances.iter().find(|(b, _)| b == bindings) {
            return found.clone();
        }
        let instance = Arc::new(match self.instantiate(bindings) {
            Ok(program) => {
                let unproved = unproved_axes(&program);
                Instance { mistakes: Vec::new(), unproved, files: program.files }
            }
            Err(mistakes) => Instance { mistakes, unproved: Vec::new(), files: self.files() },
        });
        if instances.len() == MAX_INSTANCES {
            instances.remove(0);
        }
        instances.push((bindings.clone(), instance.clone()));
        instance
    }

    /// The source files that the places of [`instantiate`](Self::instantiate)'s messages index.
    pub fn files(&self) -> Vec<String> {
        self.library().files()
    }
}

/// A registered kernel; made by `#[tile_kernel]`.
pub struct KernelEntry(pub &'static KernelDef);

inventory::collect!(KernelEntry);

/// A kernel that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kernel `{name}`; there are: {}{}", available.join(", "), suggestion(nearest))]
pub struct UnknownKernel {
    /// The name asked for.
    pub name: String,
    /// The names there are.
    pub available: Vec<&'static str>,
    /// The name that may have been meant.
    pub nearest: Option<&'static str>,
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or(String::new(), |n| format!("; did you mean `{n}`?"))
}

/// Every kernel linked into this program, sorted by name.
pub fn kernels() -> Vec<&'static KernelDef> {
    let mut all: Vec<_> = inventory::iter::<KernelEntry>.into_iter().map(|entry| entry.0).collect();
    all.sort_by_key(|kernel| (kernel.name, kernel.module_path));
    all
}

/// The kernel called `name`; of two with one name, `module::path::name` tells them apart.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn find(name: &str) -> Result<&'static KernelDef, UnknownKernel> {
    let all = kernels();
    let full = |k: &KernelDef| format!("{}::{}", k.module_path, k.name);
    if let Some(&found) = all.iter().find(|k| k.name == name || full(k) == name) {
        return Ok(found);
    }
    let available: Vec<_> = all.iter().map(|k| k.name).collect();
    let nearest = nearest(name, available.iter().copied());
    Err(UnknownKernel { name: name.to_owned(), nearest, available })
}
