//! A kernel at one problem: what is tuned, compiled and run.

use crate::bucket::{Bucket, bucket_of};
use crate::error::{TuneError, render_diagnostics};
use crate::record::Schema;
use crate::work::{Argument, GridWork, count_grid};
use codegen_ptx::Target;
use indexmap::IndexMap;
use tile::contract::{Contract, Problem, ScalarValue, TensorSpec, contracts};
use tile::jit::{self, Jit, JitError, TensorFacts};
use tile::tensor::dense_strides;
use tile_lang::typed::Program;
use tile_lang::{Config, DType, nearest, space};

/// A kernel at one problem.
#[derive(Clone)]
pub struct Subject {
    /// The kernel's contract.
    pub contract: &'static dyn Contract,
    /// The problem.
    pub problem: Problem,
}

/// The contract of a kernel by name.
///
/// # Errors
/// [`TuneError::UnknownKernel`] with the nearest name.
pub fn find_contract(name: &str) -> Result<&'static dyn Contract, TuneError> {
    if let Some(contract) = tile::contract::find_contract(name) {
        return Ok(contract);
    }
    let names: Vec<&str> = contracts().iter().map(|c| c.kernel().name).collect();
    let near = nearest(name, names.iter().copied()).map(str::to_owned);
    Err(TuneError::UnknownKernel { name: name.to_owned(), known: names.join(", "), nearest: near })
}

impl Subject {
    /// A kernel at its contract's default sizes, but for those given.
    ///
    /// # Errors
    /// When the kernel does not take the dtype, or the sizes do not fit together.
    pub fn new(
        contract: &'static dyn Contract,
        dtype: Option<DType>,
        sizes: &IndexMap<String, i64>,
    ) -> Result<Subject, TuneError> {
        let kernel = contract.kernel().name;
        let dtypes = contract.dtypes();
        let dtype = dtype.unwrap_or(dtypes[0]);
        if !dtypes.contains(&dtype) {
            let allowed = dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
            return Err(TuneError::DType {
                kernel: kernel.to_owned(),
                found: dtype.to_string(),
                allowed,
                nearest: None,
            });
        }
        let problem = contract
            .problem(dtype, sizes)
            .map_err(|source| TuneError::Contract { kernel: kernel.to_owned(), source })?;
        Ok(Subject { contract, problem })
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        self.contract.kernel().name
    }

    /// Hash of the kernel's source with its helpers.
    pub fn source_hash(&self) -> String {
        self.contract.kernel().library().source_hash()
    }

    /// What the kernel's tables may hold.
    pub fn schema(&self) -> Schema {
        Schema::new(self.contract.kernel().ast(), self.contract.sizes().iter().map(|s| s.name))
    }

    /// The bucket of the problem.
    pub fn bucket(&self) -> Bucket {
        let sizes = self.contract.sizes().iter();
        bucket_of(sizes.filter_map(|s| Some((s.name, s.exact, *self.problem.sizes.get(s.name)?))))
    }

    /// Every candidate of the declared space, without the const parameters that the problem fixes.
    ///
    /// # Errors
    /// When the kernel's space is declared wrongly.
    pub fn candidates(&self) -> Result<Vec<Config>, TuneError> {
        let kernel = self.contract.kernel();
        let fixed = self.contract.consts(&self.problem);
        let mut configs =
            space::candidates(kernel.ast(), &fixed).map_err(|diagnostics| TuneError::Check {
                kernel: kernel.name.to_owned(),
                config: "its tuning space".to_owned(),
                messages: render_diagnostics(&diagnostics, &kernel.files()),
            })?;
        configs.iter_mut().for_each(|c| c.consts.retain(|name, _| !fixed.contains_key(name)));
        Ok(configs)
    }

    /// Puts values that a user named into a configuration.
    ///
    /// # Errors
    /// For names that the kernel does not have, or the problem fixes, and values they cannot have.
    pub fn set(&self, config: &mut Config, values: &IndexMap<String, i64>) -> Result<(), TuneError> {
        let kernel = self.kernel().to_owned();
        let schema = self.schema();
        for (name, &value) in values {
            if self.contract.consts(&self.problem).contains_key(name) {
                return Err(TuneError::FixedParameter { kernel, name: name.clone() });
            }
            if !schema.names().any(|n| n == name) {
                let known = schema.names().collect::<Vec<_>>().join(", ");
                let near = nearest(name, schema.names()).map(str::to_owned);
                return Err(TuneError::UnknownParameter { kernel, name: name.clone(), known, nearest: near });
            }
            if let Some(allowed) = schema.complaint(name, value) {
                return Err(TuneError::ParameterValue {
                    name: name.clone(),
                    value,
                    allowed: allowed.to_owned(),
                });
            }
            config.set(name, value);
        }
        Ok(())
    }

    /// Checks the kernel with a configuration.
    ///
    /// # Errors
    /// [`TuneError::Check`] with the messages at the kernel's lines.
    pub fn program(&self, config: &Config) -> Result<Program, TuneError> {
        let kernel = self.contract.kernel();
        kernel.instantiate(&self.contract.bindings(&self.problem, config)).map_err(|diagnostics| {
            TuneError::Check {
                kernel: kernel.name.to_owned(),
                config: label(config),
                messages: render_diagnostics(&diagnostics, &kernel.files()),
            }
        })
    }

    /// The work of the launch.
    pub fn work(&self, program: &Program, config: &Config) -> GridWork {
        let mut tensors = self.contract.tensors(&self.problem).into_iter().map(|t| Argument::Tensor(t.shape));
        let mut scalars = self.contract.scalars(&self.problem).into_iter().map(|s| match s {
            ScalarValue::F32(v) => Argument::Float(v.into()),
            ScalarValue::I32(v) => Argument::Int(v.into()),
            ScalarValue::I64(v) => Argument::Int(v),
            ScalarValue::Index(v) => Argument::Int(v as i64),
            ScalarValue::Bool(v) => Argument::Int(v.into()),
        });
        let args: Vec<Argument> = program
            .params
            .iter()
            .filter_map(|p| match p.kind {
                tile_lang::typed::ParamKind::Tensor { .. } => tensors.next(),
                tile_lang::typed::ParamKind::Scalar(_) => scalars.next(),
            })
            .collect();
        count_grid(program, &args, self.contract.grid(&self.problem, config), config.num_warps)
    }

    /// What may be assumed of the tensors: dense, 16-byte aligned, and divisible as the problem's rows are.
    fn facts(&self) -> Vec<TensorFacts> {
        let fact = |t: &TensorSpec| jit::facts_of(t.dtype, 0, &t.shape, &dense_strides(&t.shape));
        self.contract.tensors(&self.problem).iter().map(fact).collect()
    }

    /// The error of a configuration that does not compile.
    fn refused(&self, config: &Config, error: JitError) -> TuneError {
        let kernel = self.kernel().to_owned();
        match error {
            JitError::Check { diagnostics, files, .. } => TuneError::Check {
                kernel,
                config: label(config),
                messages: render_diagnostics(&diagnostics, &files),
            },
            JitError::Codegen { source, .. } => TuneError::Lower { kernel, config: label(config), source },
            JitError::Ir { source, .. } => TuneError::TileIr { kernel, message: source.to_string() },
            JitError::Passes { source, .. } => TuneError::TileIr { kernel, message: source.to_string() },
        }
    }

    /// The tile dialect of a configuration, after its passes.
    ///
    /// # Errors
    /// When the kernel does not check or lower.
    pub fn tile_text(&self, config: &Config) -> Result<String, TuneError> {
        let bindings = self.contract.bindings(&self.problem, config);
        codegen_ptx::with_context(|context| {
            let module = jit::lower(self.contract.kernel(), &bindings, &self.facts(), context);
            Ok(module.map_err(|e| self.refused(config, e))?.to_text())
        })
    }

    /// Compiles a configuration to PTX.
    ///
    /// # Errors
    /// When the kernel does not check, or the target cannot run the configuration.
    pub fn build(
        &self,
        config: &Config,
        target: &'static Target,
        keep_stages: bool,
    ) -> Result<Jit, TuneError> {
        let bindings = self.contract.bindings(&self.problem, config);
        jit::compile(self.contract.kernel(), &bindings, config, target, &self.facts(), keep_stages)
            .map_err(|e| self.refused(config, e))
    }
}

/// A configuration on one line: `TILE_M=64 TILE_N=64 num_warps=4 num_stages=2 occupancy=2`.
pub fn label(config: &Config) -> String {
    values(config).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// The values of a configuration in the order they are printed; `num_ctas` only where it is not 1.
pub fn values(config: &Config) -> IndexMap<String, i64> {
    let options =
        Config::LAUNCH_OPTIONS.into_iter().filter_map(|name| Some((name.to_owned(), config.get(name)?)));
    let options = options.filter(|(name, value)| name != "num_ctas" || *value != 1);
    config.consts.iter().map(|(name, value)| (name.clone(), *value)).chain(options).collect()
}
