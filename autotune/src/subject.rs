//! A kernel at one problem: what is tuned, compiled and run.

use crate::bucket::{Bucket, bucket_of};
use crate::error::{TuneError, render_diagnostics};
use crate::plan::{Planned, Planner};
use crate::schema::Schema;
use crate::work::{Argument, GridWork, Multipliers};
use codegen_ptx::Target;
use indexmap::IndexMap;
use tile::contract::{Contract, Problem, ScalarValue, Step, StepArg, TensorSpec, contracts};
use tile::jit::{self, Jit, JitError, TensorFacts};
use tile::tensor::dense_strides;
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
        let sizes = self.contract.sizes().iter().map(|s| s.name);
        Schema::new(self.contract.kernel().ast(), sizes, self.source_hash())
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

    /// Checks the kernel of every step of a configuration; there is at least one.
    ///
    /// # Errors
    /// [`TuneError::Check`] with the messages at the kernel's lines.
    pub fn programs(&self, config: &Config) -> Result<Vec<Planned>, TuneError> {
        Planner::new(self).plan(config)
    }

    /// The work of a launch that belongs to `config`, where products may be of warpgroups or not.
    pub fn work(&self, launch: &Planned, config: &Config, has_wgmma: bool) -> GridWork {
        let specs = self.contract.all_tensors(&self.problem, config);
        let argument = |arg: &StepArg| match *arg {
            StepArg::Tensor(index) => Argument::Tensor(specs[index].shape.clone()),
            StepArg::Scalar(ScalarValue::F32(v)) => Argument::Float(v.into()),
            StepArg::Scalar(ScalarValue::I32(v)) => Argument::Int(v.into()),
            StepArg::Scalar(ScalarValue::I64(v)) => Argument::Int(v),
            StepArg::Scalar(ScalarValue::Index(v)) => Argument::Int(v as i64),
            StepArg::Scalar(ScalarValue::Bool(v)) => Argument::Int(v.into()),
        };
        let args = launch.step.args.iter().map(argument).collect();
        launch.work(args, Multipliers { num_warps: launch.step.config.num_warps, has_wgmma })
    }

    /// Fewest bytes of device memory that a launch moves: the problem's, or, of several launches, those of the
    /// tensors that it takes.
    pub fn bytes(&self, launches: &[Planned], launch: &Planned, config: &Config) -> f64 {
        if launches.len() == 1 {
            return self.contract.bytes(&self.problem);
        }
        let specs = self.contract.all_tensors(&self.problem, config);
        let bytes =
            |t: &TensorSpec| t.shape.iter().product::<usize>() as f64 * f64::from(t.dtype.bits()) / 8.0;
        launch.step.tensors().map(|index| bytes(&specs[index])).sum()
    }

    /// What may be assumed of a step's tensors: dense, 16-byte aligned, and divisible as the problem's rows are.
    fn facts(&self, step: &Step, config: &Config) -> Vec<TensorFacts> {
        let specs = self.contract.all_tensors(&self.problem, config);
        let fact = |t: &TensorSpec| jit::facts_of(t.dtype, 0, &t.shape, &dense_strides(&t.shape));
        step.tensors().map(|index| fact(&specs[index])).collect()
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

    /// The tile dialect of every step of a configuration, after its passes.
    ///
    /// # Errors
    /// When a kernel does not check or lower.
    pub fn tile_text(&self, config: &Config) -> Result<String, TuneError> {
        let text = |step: &Step| {
            codegen_ptx::with_context(|context| {
                let module = jit::lower(step.kernel, &step.bindings, &self.facts(step, config), context);
                Ok(module.map_err(|e| self.refused(config, e))?.to_text())
            })
        };
        self.contract.steps(&self.problem, config).iter().map(text).collect()
    }

    /// Compiles every step of a configuration to PTX.
    ///
    /// # Errors
    /// When a kernel does not check, or the target cannot run the configuration.
    pub fn build(
        &self,
        config: &Config,
        target: &'static Target,
        keep_stages: bool,
    ) -> Result<Vec<Jit>, TuneError> {
        let build = |step: &Step| {
            let facts = self.facts(step, config);
            jit::compile(step.kernel, &step.bindings, &step.config, target, &facts, keep_stages)
                .map_err(|e| self.refused(config, e))
        };
        self.contract.steps(&self.problem, config).iter().map(build).collect()
    }
}

/// A configuration on one line: `TILE_M=64 TILE_N=64 num_warps=4 num_stages=2 occupancy=2`.
pub fn label(config: &Config) -> String {
    values(config).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// The values of a configuration in the order they are printed; `num_ctas` and switches only where they are not the
/// default.
pub fn values(config: &Config) -> IndexMap<String, i64> {
    let options =
        Config::LAUNCH_OPTIONS.into_iter().filter_map(|name| Some((name.to_owned(), config.get(name)?)));
    let default = Config::default();
    let is_said = |name: &str, value: i64| {
        !(name == "num_ctas" || Config::is_switch(name)) || default.get(name) != Some(value)
    };
    let options = options.filter(|(name, value)| is_said(name, *value));
    config.consts.iter().map(|(name, value)| (name.clone(), *value)).chain(options).collect()
}
